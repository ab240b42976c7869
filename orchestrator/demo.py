"""The demonstration: the same real images through three setups of the same nodes, and the figures of each."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from branchynet.prediction import Place, Policy, Prediction
from orchestrator.load import Measured, run_load
from orchestrator.local import LocalTopology, Topology

__all__ = ["SETUPS", "Row", "RunningTopology", "figures", "measure", "run_demo"]

SETUPS: dict[str, Policy] = {
    "early exit + split": Policy.SPLIT,
    "edge only": Policy.EDGE_ONLY,
    "cloud only": Policy.CLOUD_ONLY,
}
WARM_UP_IMAGES = 40
# gRPC still probes a connection's bandwidth a moment after its last call; those bytes belong to the row before.
SETTLE_S = 0.5
NEWS_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Row:
    """One setup's figures, and every latency behind the percentiles."""

    setup: str
    accuracy: float
    share_by_exit: dict[str, float]
    uplink_bytes_per_image: float
    throughput_per_s: float
    latencies_ms: NDArray[np.float64]

    def percentile_ms(self, percent: float) -> float:
        """The latency that *percent* of the requests do not exceed."""
        return float(np.percentile(self.latencies_ms, percent))


class RunningTopology(Protocol):
    """Edges that serve and the links behind them, whoever started them."""

    @property
    def targets(self) -> list[str]:
        """The edges' addresses, `host:port`."""
        ...

    async def reset_links(self) -> None:
        """Set the links' byte counters to zero."""
        ...

    async def uplink_bytes(self) -> int:
        """Bytes that crossed the links towards the cloud since the last reset, gRPC's own included."""
        ...


async def run_demo(
    topology: Topology,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    logs: Path,
    *,
    in_flight_per_edge: int = 2,
    on_event: Callable[[str, int], None] = lambda _setup, _answers: None,
) -> list[Row]:
    """Start *topology*, send all *images* through each setup, stop everything.

    *on_event* is told the setup and how many more answers came. Raises `Unavailable` if any process ends by itself.
    """
    async with LocalTopology.running(topology, logs) as running:
        watching = asyncio.create_task(running.watch())
        measuring = asyncio.create_task(
            measure(running, images, labels, in_flight_per_edge=in_flight_per_edge, on_event=on_event)
        )
        try:
            await asyncio.wait([watching, measuring], return_when=asyncio.FIRST_COMPLETED)
            if measuring.done() and measuring.exception() is not None:
                # A failed call is often the first sign of a dead part, and which part it was is worth a moment.
                await asyncio.wait([watching], timeout=NEWS_TIMEOUT_S)
            if watching.done():
                watching.result()
            return measuring.result()
        finally:
            for task in (watching, measuring):
                task.cancel()
            await asyncio.gather(watching, measuring, return_exceptions=True)


async def measure(
    running: RunningTopology,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    in_flight_per_edge: int = 2,
    on_event: Callable[[str, int], None] = lambda _setup, _answers: None,
) -> list[Row]:
    """Send all *images* through each setup of a topology that runs.

    *on_event* is told the setup and how many more answers came. Raises what a node or a link refuses.
    """
    rows = []
    for setup, policy in SETUPS.items():
        # First calls pay for connections and for torch's choice of kernels; they are not what a camera sees all day.
        await run_load(running.targets, images[:WARM_UP_IMAGES], policy, in_flight_per_edge=in_flight_per_edge)
        await asyncio.sleep(SETTLE_S)
        await running.reset_links()
        measured = await run_load(
            running.targets,
            images,
            policy,
            in_flight_per_edge=in_flight_per_edge,
            on_answer=lambda setup=setup: on_event(setup, 1),  # type: ignore[misc]
        )
        rows.append(_row(setup, measured, labels, await running.uplink_bytes()))
    return rows


def figures(rows: list[Row]) -> dict[str, Any]:
    """The demonstration's JSON; `docs/figures.md` explains the keys."""
    return {
        "rows": [
            {
                "setup": row.setup,
                "images": len(row.latencies_ms),
                "accuracy": row.accuracy,
                "share_by_exit": row.share_by_exit,
                "latency_ms": {f"p{percent}": round(row.percentile_ms(percent), 3) for percent in (50, 95, 99)},
                "uplink_bytes_per_image": round(row.uplink_bytes_per_image, 1),
                "throughput_per_s": round(row.throughput_per_s, 1),
            }
            for row in rows
        ]
    }


def _row(setup: str, measured: Measured, labels: NDArray[np.int64], uplink_bytes: int) -> Row:
    count = len(labels)
    right = sum(
        prediction.label == label for prediction, label in zip(measured.predictions, labels.tolist(), strict=True)
    )
    places = Counter(map(_answered_by, measured.predictions))
    return Row(
        setup=setup,
        accuracy=right / count,
        share_by_exit={place: places[place] / count for place in sorted(places, key=_order)},
        uplink_bytes_per_image=uplink_bytes / count,
        throughput_per_s=count / measured.wall_s,
        latencies_ms=measured.latencies_ms,
    )


def _answered_by(prediction: Prediction) -> str:
    if prediction.place is Place.FALLBACK:
        return Place.FALLBACK.value
    return f"{prediction.place.value}/{prediction.exit}"


def _order(place: str) -> tuple[bool, float, str]:
    """Exits in the order of the network; fallbacks last."""
    name, _, number = place.partition("/")
    return name == Place.FALLBACK.value, float(number or math.inf), name
