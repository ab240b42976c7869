"""The requests of a scenario sent to real nodes, each at its time, and what became of them.

Open loop: a request is sent when it is due, whether or not earlier ones have been answered, and its latency counts from
that moment; so a queue that builds up is seen as the callers would see it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from branchynet.decisions.plans import Plan
from branchynet.prediction import Place, Policy
from orchestrator.delivery import Courier, Delivery
from orchestrator.tasks import run_all
from simulations.records import CLOUD, EDGE, FALLBACK, LOST, Records
from simulations.workload import Requests

__all__ = ["policy_of", "send_requests"]

_PLACES = {Place.EDGE: EDGE, Place.CLOUD: CLOUD, Place.FALLBACK: FALLBACK}


def policy_of(plan: Plan) -> Policy:
    """What a request asks for, so that an edge that holds stages [0, plan.cut) carries out *plan*."""
    if plan.local_only:
        return Policy.EDGE_ONLY
    return Policy.CLOUD_ONLY if plan.cut == 0 else Policy.SPLIT


async def send_requests(
    requests: Requests,
    targets: Mapping[int, str],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    plan: Plan,
    *,
    cloud: int,
    deadline_ms: float,
    on_answer: Callable[[Delivery, int], None] = lambda _delivery, _edge: None,
) -> Records:
    """Send *requests* to the edges at *targets* (edge number to `host:port`); rows are positions in *images*.

    *cloud* is the number of the cloud these edges ask. *on_answer* is told of each delivery and its edge. Raises what a
    node refuses; a request that got no answer by *deadline_ms* is a row with place `lost`.
    """
    shape = requests.rows.shape
    deliveries: list[list[Delivery | None]] = [[None] * shape[1] for _ in range(shape[0])]
    latencies_ms = np.zeros(shape)
    loop = asyncio.get_running_loop()
    started_s = loop.time()

    async def send(courier: Courier, index: int, position: int) -> None:
        due_s = started_s + float(requests.sent_s[index, position])
        await asyncio.sleep(due_s - loop.time())
        row = int(requests.rows[index, position])
        left_ms = deadline_ms - 1e3 * (loop.time() - due_s)
        delivery = await courier.deliver(images[row], rule=plan.rule, policy=policy_of(plan), deadline_ms=left_ms)
        latencies_ms[index, position] = 1e3 * (loop.time() - due_s)
        deliveries[index][position] = delivery
        on_answer(delivery, int(requests.edges[index]))

    couriers = [Courier([targets[int(edge)]]) for edge in requests.edges]
    try:
        await run_all(
            send(couriers[index], index, position) for index in range(shape[0]) for position in range(shape[1])
        )
    finally:
        for courier in couriers:
            await courier.close()
    flat = [delivery for row in deliveries for delivery in row if delivery is not None]
    assert len(flat) == requests.rows.size
    return _records(requests, flat, latencies_ms, labels, cloud)


def _records(
    requests: Requests,
    deliveries: list[Delivery],
    latencies_ms: NDArray[np.float64],
    labels: NDArray[np.int64],
    cloud: int,
) -> Records:
    answers = [delivery.prediction for delivery in deliveries]
    rows = requests.rows.ravel()

    def of_answers(name: str, lost: float = 0) -> NDArray[np.float64]:
        return np.array([lost if answer is None else getattr(answer, name) for answer in answers], dtype=np.float64)

    return Records(
        edge=np.repeat(requests.edges, requests.rows.shape[1]).astype(np.int32),
        cloud=np.full(len(answers), cloud, np.int32),
        row=rows.astype(np.int32),
        sent_s=requests.sent_s.ravel(),
        latency_ms=latencies_ms.ravel(),
        edge_ms=of_answers("edge_ms"),
        network_ms=of_answers("network_ms"),
        cloud_ms=of_answers("cloud_ms"),
        uplink_bytes=of_answers("uplink_bytes").astype(np.int32),
        exit=of_answers("exit", lost=-1).astype(np.int16),
        place=np.array([LOST if answer is None else _PLACES[answer.place] for answer in answers], np.int8),
        correct=of_answers("label", lost=-1) == labels[rows],
        attempts=np.array([delivery.attempts for delivery in deliveries], np.int16),
    )
