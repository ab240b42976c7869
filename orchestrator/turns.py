"""Requests of several kinds sent to running nodes in turn, one after the other.

Nobody waits behind anybody, a slow minute of the machine falls on all kinds alike, and none has always the same one
before it; so what they take may be compared, also where other programs are at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.decisions.plans import Plan
from orchestrator.delivery import Courier, Delivery
from orchestrator.live import policy_of, records_of
from simulations.records import Records
from simulations.workload import Requests

__all__ = ["Kind", "send_in_turn"]

DEADLINE_MS = 10_000.0
# A camera asks a few dozen times a second; without a pause, caches would be warmer than it finds them.
PAUSE_S = 0.015


@dataclass(frozen=True, eq=False)
class Kind:
    """Requests to the edge at *target*, by *plan*, with the images at *rows*, int64 [n]."""

    target: str
    plan: Plan
    rows: NDArray[np.int64]


async def send_in_turn(
    kinds: Sequence[Kind],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    on_turn: Callable[[], None] = lambda: None,
) -> list[Records]:
    """The records of each kind; in a turn each has one request, in random order, always the same.

    Kinds with fewer requests leave turns out, evenly. *on_turn* is told of each turn that is over. Raises what a node
    refuses.
    """
    turns, rng = max(len(kind.rows) for kind in kinds), np.random.default_rng(0)
    deliveries: list[list[Delivery | None]] = [[] for _ in kinds]
    latencies: list[list[float]] = [[] for _ in kinds]
    loop = asyncio.get_running_loop()
    couriers = {kind.target: Courier([kind.target]) for kind in kinds}
    try:
        for turn in range(turns):
            for number in rng.permutation(len(kinds)):
                kind, delivered, taken = kinds[number], deliveries[number], latencies[number]
                if len(delivered) >= (turn + 1) * len(kind.rows) // turns:
                    continue
                await asyncio.sleep(PAUSE_S)
                image = images[int(kind.rows[len(delivered)])]
                started_s = loop.time()
                answer = await couriers[kind.target].deliver(
                    image, rule=kind.plan.rule, policy=policy_of(kind.plan), deadline_ms=DEADLINE_MS
                )
                taken.append(1e3 * (loop.time() - started_s))
                delivered.append(answer)
            on_turn()
    finally:
        for courier in couriers.values():
            await courier.close()
    return [
        records_of(_requests(kind.rows), [delivered], np.array([taken]), labels, cloud=0)
        for kind, delivered, taken in zip(kinds, deliveries, latencies, strict=True)
    ]


def _requests(rows: NDArray[np.int64]) -> Requests:
    """Those of one edge, in an order without times."""
    return Requests(np.zeros(1, np.int64), np.zeros((1, len(rows))), rows[None], np.zeros(1))
