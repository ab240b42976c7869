"""Load on edge nodes, and what each request met with.

Closed loop: each of a fixed number of callers per edge sends one image, waits for the answer and sends the next. That
measures latency under a steady number of requests in flight; it does not show what an overload would do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.client import AsyncClient
from branchynet.prediction import Policy, Prediction
from orchestrator.tasks import run_all

__all__ = ["Measured", "run_load"]


@dataclass(frozen=True)
class Measured:
    """Predictions in the order of the images, their latencies as the caller saw them, and the time for all."""

    predictions: tuple[Prediction, ...]
    latencies_ms: NDArray[np.float64]
    wall_s: float


async def run_load(
    targets: Sequence[str],
    images: NDArray[np.uint8],
    policy: Policy,
    *,
    in_flight_per_edge: int,
    deadline_ms: float = 10_000,
    on_answer: Callable[[], None] = lambda: None,
) -> Measured:
    """Send each of *images*, uint8 [N, C, H, W], as a request of its own, dealt out over the edges at *targets*.

    Raises what a node refuses: a refused request is never left out of the figures silently.
    """
    predictions: list[Prediction | None] = [None] * len(images)
    latencies_ms = np.zeros(len(images))
    clients = [AsyncClient(target) for target in targets]

    async def call(client: AsyncClient, positions: Iterator[int]) -> None:
        for position in positions:
            sent_s = time.perf_counter()
            answers = await client.classify(images[position : position + 1], policy=policy, deadline_ms=deadline_ms)
            latencies_ms[position] = 1e3 * (time.perf_counter() - sent_s)
            predictions[position] = answers[0]
            on_answer()

    started_s = time.perf_counter()
    try:
        # The callers of one edge share its images: whoever is free takes the next.
        dealt = [(client, iter(range(index, len(images), len(clients)))) for index, client in enumerate(clients)]
        await run_all(call(client, positions) for client, positions in dealt for _ in range(in_flight_per_edge))
        wall_s = time.perf_counter() - started_s
    finally:
        for client in clients:
            await client.close()
    answered = tuple(prediction for prediction in predictions if prediction is not None)
    return Measured(answered, latencies_ms, wall_s)
