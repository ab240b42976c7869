"""The load generator: sends the requests of a schedule to running nodes, each through the retrying client.

What becomes of each is a row of the simulator's own records, so one report serves both. In an open loop a request is
sent when it is due and its latency counts from then; so a queue that builds up is seen as the callers would see it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from branchynet.client.client import AsyncClient
from branchynet.client.retrying import NodeClient, RequestOutcome, RetryingClient
from branchynet.errors import BranchyNetError
from branchynet.serving.prediction import Place, Prediction
from orchestrator.load.schedules import Lane, Request, RequestClass, interleaved
from orchestrator.load.stopping import stopped
from orchestrator.nodes.tasks import task_group
from simulations.model.request_records import CLOUD, EDGE, FALLBACK, LOST, Records

__all__ = ["DEADLINE_MS", "Ended", "LoadGenerator", "LoadSettings", "send", "send_interleaved"]

DEADLINE_MS = 10_000.0
_PLACES = {Place.EDGE: EDGE, Place.CLOUD: CLOUD, Place.FALLBACK: FALLBACK}
# No answer: the values of a lost request's row.
_NOBODY = Prediction(-1, np.zeros(0, np.float32), -1, Place.EDGE, edge_ms=0.0)


@dataclass(frozen=True, slots=True)
class Ended:
    """A *request* that has ended; *sent_s* of the run's clock is when it was due or, if it was not, sent."""

    request: Request
    sent_s: float
    latency_ms: float
    outcome: RequestOutcome


@dataclass(frozen=True)
class LoadSettings:
    """How requests are sent.

    Each has *deadline_ms* for its answer, and *batch* images. Failed ones are sent again if *retry*, with *failover*
    at the next edge. A request that a node refuses ends the run with that error, or with *keep_refusals* is lost like
    those without an answer. *connect* opens a connection to a node. *fault* returns what is wrong with the answer to
    the image in a row, empty if nothing is.
    """

    deadline_ms: float = DEADLINE_MS
    batch: int = 1
    retry: bool = True
    failover: bool = False
    keep_refusals: bool = False
    connect: Callable[[str], NodeClient] = AsyncClient
    fault: Callable[[int, Prediction], str] = field(default=lambda _row, _answer: "")


USUAL = LoadSettings()


class LoadGenerator:
    """Requests on their way to the edges at *targets* (edge number to `host:port`), open to a look while they are.

    *images*: uint8 [N, C, H, W], *labels*: int64 [N], -1 where they are not known. *sent* counts requests by edge,
    *ended* holds those that have ended, in that order. *sent_late_ms* is the most by which one left after it was due:
    how far the sender itself fell behind. *targets* is read when `run` begins.
    """

    def __init__(
        self,
        targets: Mapping[int, str],
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        settings: LoadSettings = USUAL,
        on_end: Callable[[Ended], None] = lambda _ended: None,
    ) -> None:
        self.sent: Counter[int] = Counter()
        self.sent_late_ms = 0.0
        self.ended: list[Ended] = []
        self._targets, self._images, self._labels = targets, images, labels
        self._settings, self._on_end = settings, on_end
        self._clients: dict[int, tuple[RetryingClient, int]] = {}
        self._start_s = 0.0

    async def run(self, *lanes: Lane, start_s: float | None = None, stop: asyncio.Event | None = None) -> None:
        """Send the requests of all *lanes* until they are over or *stop* is set, and wait for those under way.

        *start_s* on the event loop's clock (now) is the time 0 of the run. Raises what a node refuses, unless it is to
        be kept. Cancelled, it leaves the records of what has ended.
        """
        stop = stop or asyncio.Event()
        self._start_s = asyncio.get_running_loop().time() if start_s is None else start_s
        async with self._connected(), task_group() as group:
            for lane in lanes:
                if lane.concurrency is None:
                    group.create_task(self._open(lane, group, stop))
                    continue
                requests = iter(lane.requests)
                for _ in range(lane.concurrency):
                    group.create_task(self._closed(requests, lane.pause_s, stop))

    def records(self, first: int = 0) -> Records:
        """The rows of the requests that have ended, by their number; with *first* without that many that ended first.

        One row an image, in the order of the batch.
        """
        rows = [
            (ended, row, answer)
            for ended in sorted(self.ended[first:], key=lambda ended: ended.request.number)
            for row, answer in zip(
                self._rows(ended.request), ended.outcome.predictions or (_NOBODY,) * self._settings.batch, strict=True
            )
        ]
        edges = list(self._targets)
        return Records.of(
            edge=[edges[ended.outcome.node] if self._settings.failover else ended.request.edge for ended, _, _ in rows],
            cloud=[ended.request.cloud for ended, _, _ in rows],
            row=[row for _, row, _ in rows],
            sent_s=[ended.sent_s for ended, _, _ in rows],
            latency_ms=[ended.latency_ms for ended, _, _ in rows],
            edge_ms=[answer.edge_ms for _, _, answer in rows],
            network_ms=[answer.network_ms for _, _, answer in rows],
            cloud_ms=[answer.cloud_ms for _, _, answer in rows],
            uplink_bytes=[answer.uplink_bytes for _, _, answer in rows],
            exit=[answer.exit for _, _, answer in rows],
            place=[LOST if answer is _NOBODY else _PLACES[answer.place] for _, _, answer in rows],
            correct=[answer is not _NOBODY and answer.label == self._labels[row] for _, row, answer in rows],
            attempts=[ended.outcome.attempts for ended, _, _ in rows],
            reason=[ended.outcome.error or answer.fallback_reason for ended, _, answer in rows],
            fault=["" if answer is _NOBODY else self._settings.fault(row, answer) for _, row, answer in rows],
        )

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        """Have a connection to each target; one retrying client for all of them if requests go on at the next."""
        settings, targets = self._settings, self._targets
        limits = {"attempt_ms": 5_000.0} if settings.retry else {"attempt_ms": settings.deadline_ms, "max_attempts": 1}

        def client_of(*addresses: str) -> RetryingClient:
            return RetryingClient(addresses, connect=settings.connect, **limits)  # type: ignore[arg-type]

        if settings.failover:
            one = client_of(*targets.values())
            self._clients = {edge: (one, place) for place, edge in enumerate(targets)}
        else:
            self._clients = {edge: (client_of(target), 0) for edge, target in targets.items()}
        try:
            yield
        finally:
            for client in {client for client, _ in self._clients.values()}:
                await client.close()

    async def _open(self, lane: Lane, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Start each request at its time, however many are under way."""
        clock = asyncio.get_running_loop().time
        for request in lane.requests:
            assert request.due_s is not None
            if await stopped(stop, self._start_s + request.due_s - clock()):
                return
            group.create_task(self._send(request))

    async def _closed(self, requests: Iterator[Request], pause_s: float, stop: asyncio.Event) -> None:
        """Send the next of *requests*, which others draw from as well, as soon as the one before has ended."""
        for request in requests:
            if await stopped(stop, pause_s):
                return
            await self._send(request)

    async def _send(self, request: Request) -> None:
        clock, settings = asyncio.get_running_loop().time, self._settings
        due_s = clock() if request.due_s is None else self._start_s + request.due_s
        self.sent[request.edge] += 1
        client, first = self._clients[request.edge]
        images = self._images.take(self._rows(request), axis=0)
        late_ms = 1e3 * (clock() - due_s)
        self.sent_late_ms = max(self.sent_late_ms, late_ms)
        try:
            outcome = await client.classify(
                images,
                first=first,
                rule=request.rule,
                policy=request.policy,
                deadline_ms=settings.deadline_ms - late_ms,
            )
        except BranchyNetError as error:
            if not settings.keep_refusals:
                raise
            outcome = RequestOutcome((), first, 1, 0.0, f"{error.grpc_status}: {error}")
        sent_s = due_s - self._start_s if request.due_s is None else request.due_s
        ended = Ended(request, sent_s, 1e3 * (clock() - due_s), outcome)
        self.ended.append(ended)
        self._on_end(ended)

    def _rows(self, request: Request) -> list[int]:
        batch = self._settings.batch
        return [(request.row * batch + place) % len(self._images) for place in range(batch)]


async def send(
    lanes: Sequence[Lane],
    targets: Mapping[int, str],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    settings: LoadSettings = USUAL,
    on_end: Callable[[Ended], None] = lambda _ended: None,
) -> Records:
    """Send all requests of *lanes*; what became of them, see `LoadGenerator`."""
    generator = LoadGenerator(targets, images, labels, settings, on_end)
    await generator.run(*lanes)
    return generator.records()


async def send_interleaved(
    classes: Sequence[RequestClass],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    on_end: Callable[[Ended], None] = lambda _ended: None,
) -> list[Records]:
    """The records of each of *classes*, whose requests are sent as `interleaved` says. Raises what a node refuses."""
    targets = dict(enumerate(dict.fromkeys(one.target for one in classes)))
    numbers = {target: edge for edge, target in targets.items()}
    lane = interleaved(classes, [numbers[one.target] for one in classes])
    records, first, parts = await send([lane], targets, images, labels, on_end=on_end), 0, []
    for one in classes:
        rows = slice(first, first + len(one.rows))
        parts.append(Records(**{name: values[rows] for name, values in records.columns().items()}))
        first = rows.stop
    return parts
