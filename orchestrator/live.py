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

__all__ = ["Sending", "policy_of", "records_of", "send_requests"]

_PLACES = {Place.EDGE: EDGE, Place.CLOUD: CLOUD, Place.FALLBACK: FALLBACK}


def policy_of(plan: Plan) -> Policy:
    """What a request asks for, so that an edge that holds stages [0, plan.cut) carries out *plan*.

    Raises `InvalidInput` for a plan with a codec, which no request asks for.
    """
    plan.check_plain()
    if plan.local_only:
        return Policy.EDGE_ONLY
    return Policy.CLOUD_ONLY if plan.cut == 0 else Policy.SPLIT


async def send_requests(
    requests: Requests,
    targets: Mapping[int, str],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    plan: Plan | None,
    *,
    cloud: int,
    deadline_ms: float,
    on_answer: Callable[[Delivery, int], None] = lambda _delivery, _edge: None,
) -> Records:
    """Send *requests* to the edges at *targets* (edge number to `host:port`); rows are positions in *images*.

    Without a *plan* the edges go by their own. *cloud* is the number of the cloud these edges ask. *on_answer* is told
    of each delivery and its edge. Raises what a node refuses; a request that got no answer by *deadline_ms* is a row
    with place `lost`.
    """
    sending = Sending(requests, targets, images, labels, plan, cloud=cloud, deadline_ms=deadline_ms)
    await sending.run(asyncio.get_running_loop().time(), on_answer)
    return sending.records()


class Sending:
    """Requests on their way, as in `send_requests`, open to a look while they are.

    *sent*: bool [E, n], which have been sent. *deliveries*: E lists of n, None for those that have not ended.
    *latencies_ms*: float64 [E, n], meant for those that have.
    """

    def __init__(
        self,
        requests: Requests,
        targets: Mapping[int, str],
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        plan: Plan | None,
        *,
        cloud: int,
        deadline_ms: float,
    ) -> None:
        shape = requests.rows.shape
        self.requests = requests
        self.sent = np.zeros(shape, np.bool_)
        self.deliveries: list[list[Delivery | None]] = [[None] * shape[1] for _ in range(shape[0])]
        self.latencies_ms = np.zeros(shape)
        self._targets = targets
        self._images = images
        self._labels = labels
        self._plan = plan
        self._cloud = cloud
        self._deadline_ms = deadline_ms

    async def run(
        self, start_s: float, on_answer: Callable[[Delivery, int], None] = lambda _delivery, _edge: None
    ) -> None:
        """Send all of them, *start_s* on the event loop's clock being their time 0, and wait until all have ended.

        Raises what a node refuses. Cancelled, it leaves `records` of what has ended.
        """
        couriers = [Courier([self._targets[int(edge)]]) for edge in self.requests.edges]
        edges, positions = self.requests.rows.shape
        try:
            await run_all(
                self._send(couriers[index], index, position, start_s, on_answer)
                for index in range(edges)
                for position in range(positions)
            )
        finally:
            for courier in couriers:
                await courier.close()

    def records(self) -> Records:
        """A row for each request that has ended, in the order of `Requests`."""
        return records_of(self.requests, self.deliveries, self.latencies_ms, self._labels, self._cloud)

    async def _send(
        self,
        courier: Courier,
        index: int,
        position: int,
        start_s: float,
        on_answer: Callable[[Delivery, int], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        due_s = start_s + float(self.requests.sent_s[index, position])
        await asyncio.sleep(due_s - loop.time())
        self.sent[index, position] = True
        image = self._images[int(self.requests.rows[index, position])]
        left_ms = self._deadline_ms - 1e3 * (loop.time() - due_s)
        rule, policy = (None, Policy.SPLIT) if self._plan is None else (self._plan.rule, policy_of(self._plan))
        delivery = await courier.deliver(image, rule=rule, policy=policy, deadline_ms=left_ms)
        self.latencies_ms[index, position] = 1e3 * (loop.time() - due_s)
        self.deliveries[index][position] = delivery
        on_answer(delivery, int(self.requests.edges[index]))


def records_of(
    requests: Requests,
    deliveries: list[list[Delivery | None]],
    latencies_ms: NDArray[np.float64],
    labels: NDArray[np.int64],
    cloud: int,
) -> Records:
    """A row for each of *requests* that has ended, of edges that ask *cloud*; the other arguments as in `Sending`."""
    flat = [delivery for row in deliveries for delivery in row]
    ended = np.array([delivery is not None for delivery in flat], np.bool_)
    done = [delivery for delivery in flat if delivery is not None]
    answers = [delivery.prediction for delivery in done]
    rows = requests.rows.ravel()[ended]

    def of_answers(name: str, lost: float = 0) -> NDArray[np.float64]:
        return np.array([lost if answer is None else getattr(answer, name) for answer in answers], dtype=np.float64)

    return Records(
        edge=np.repeat(requests.edges, requests.rows.shape[1])[ended].astype(np.int32),
        cloud=np.full(len(answers), cloud, np.int32),
        row=rows.astype(np.int32),
        sent_s=requests.sent_s.ravel()[ended],
        latency_ms=latencies_ms.ravel()[ended],
        edge_ms=of_answers("edge_ms"),
        network_ms=of_answers("network_ms"),
        cloud_ms=of_answers("cloud_ms"),
        uplink_bytes=of_answers("uplink_bytes").astype(np.int32),
        exit=of_answers("exit", lost=-1).astype(np.int16),
        place=np.array([LOST if answer is None else _PLACES[answer.place] for answer in answers], np.int8),
        correct=of_answers("label", lost=-1) == labels[rows],
        attempts=np.array([delivery.attempts for delivery in done], np.int16),
    )
