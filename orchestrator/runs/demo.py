"""The demonstration: the same real images through three setups of the same nodes, and the figures of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.serving.prediction import Policy
from orchestrator.load.generator import DEADLINE_MS, Ended, send
from orchestrator.load.schedules import closed_loop
from orchestrator.nodes.build import Backing, RunningFleet, build
from simulations.model.request_records import Records
from simulations.model.request_report import Report
from simulations.model.scenario import Scenario

__all__ = ["SETUPS", "Row", "figures", "measure", "run_demo"]

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
    """One setup's *report*, and the bytes that crossed its links, gRPC's own included."""

    setup: str
    report: Report
    link_bytes_per_request: float


async def run_demo(
    scenario: Scenario,
    backing: Backing[RunningFleet],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    concurrency: int = 2,
    on_event: Callable[[str, int], None] = lambda _setup, _answers: None,
) -> list[Row]:
    """Start *scenario* on *backing*, send all *images* through each setup, stop everything.

    *concurrency*: requests under way at a time at each edge. *on_event* is called with the setup and how many more
    requests have ended. Raises `Unavailable` if any process ends by itself.
    """
    async with build(scenario, backing) as running:
        watching = asyncio.create_task(running.watch())
        measuring = asyncio.create_task(measure(running, images, labels, concurrency=concurrency, on_event=on_event))
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
    running: RunningFleet,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    concurrency: int = 2,
    on_event: Callable[[str, int], None] = lambda _setup, _answers: None,
) -> list[Row]:
    """Send all *images* through each setup of a fleet that runs.

    *concurrency*: requests under way at a time at each edge. *on_event* is called with the setup and how many more
    requests have ended. Raises what a node or a link refuses.
    """
    targets, rows = dict(enumerate(running.targets)), []

    async def ask(setup: str, count: int, on_end: Callable[[Ended], None]) -> Records:
        lanes = closed_loop(count, len(targets), concurrency, requests=count, policy=SETUPS[setup])
        return await send(lanes, targets, images, labels, on_end=on_end)

    for setup in SETUPS:
        # First calls pay for connections and for torch's choice of kernels; they are not what a camera sees all day.
        await ask(setup, min(WARM_UP_IMAGES, len(images)), lambda _ended: None)
        await asyncio.sleep(SETTLE_S)
        await running.reset_links()
        records = await ask(setup, len(images), lambda _ended, setup=setup: on_event(setup, 1))  # type: ignore[misc]
        link_bytes = await running.uplink_bytes()
        rows.append(Row(setup, Report.of(records, DEADLINE_MS), link_bytes / len(images)))
    return rows


def figures(rows: list[Row]) -> dict[str, Any]:
    """The demonstration's JSON; `docs/reference/json.md` explains the keys."""
    return {
        "rows": [
            {
                "setup": row.setup,
                **row.report.figures(),
                "link_bytes_per_request": round(row.link_bytes_per_request, 1),
            }
            for row in rows
        ]
    }
