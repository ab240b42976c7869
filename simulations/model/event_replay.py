"""One edge over a recorded link, request by request, in virtual time: for plans that change under way.

    sent ─► edge's stages ─► codec ─► uplink ─► half a round trip ─► cloud ─► downlink ─► half a round trip ─► answer
            └──── one worker ────┘   in bits                      one worker

What the simulator reckons for all requests at once cannot be, where the next plan depends on the answers before it. So
this is a list of events; link, exits and times are the same objects there, and whoever chooses, and what says whether
the cloud's answer can be expected in time, are the very ones of a real edge. As there, an offload that is given up is
still sent and still computed.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import DeadlineExceeded
from branchynet.exits.outcomes import OutcomeTable
from branchynet.placement.cloud_estimator import CloudTimes
from branchynet.placement.offload_deadline import InTime, OffloadLimits
from branchynet.placement.plan import Plan, Routes, route
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile
from simulations.link.capacity import Capacity
from simulations.model.request_records import CLOUD, EDGE, FALLBACK, Records, late_reasons

__all__ = ["Chooser", "Fixed", "ReplayInputs", "Replayed", "replay"]


class Chooser(Protocol):
    """Who says by which plan requests are served; `branchynet.placement.replanner.Replanner` is one."""

    @property
    def times(self) -> CloudTimes | None:
        """What is known of the way to the cloud; without, the cloud is asked whatever can be expected of it."""
        ...

    def decide(self, now_s: float) -> Plan:
        """The plan for requests from *now_s* on."""
        ...

    def probe(self, now_s: float) -> Plan | None:
        """The plan by which a copy of the request's input is sent as well, if one is."""
        ...

    def answered(self, now_s: float, sent_bytes: float, network_ms: float, queue_ms: float) -> None:
        """The answer to an offload is here."""
        ...

    def unanswered(self, now_s: float, sent_bytes: float, waited_ms: float) -> None:
        """An offload was given up."""
        ...


@dataclass(frozen=True)
class Fixed:
    """The same *plan* whatever happens, on an edge that learns its *times* from its offloads, or does not (None)."""

    plan: Plan
    times: CloudTimes | None = field(default_factory=CloudTimes)

    def decide(self, now_s: float) -> Plan:
        """See `Chooser`."""
        del now_s
        return self.plan

    def probe(self, now_s: float) -> None:
        """See `Chooser`."""

    def answered(self, now_s: float, sent_bytes: float, network_ms: float, queue_ms: float) -> None:
        """See `Chooser`."""
        if self.times is not None:
            self.times.answered(now_s, sent_bytes, network_ms, queue_ms)

    def unanswered(self, now_s: float, sent_bytes: float, waited_ms: float) -> None:
        """See `Chooser`."""
        if self.times is not None:
            self.times.unanswered(now_s, sent_bytes, waited_ms)


@dataclass(frozen=True, eq=False)
class ReplayInputs:
    """What of a replay does not change: the outcomes of labelled samples, the devices, the link's other figures.

    *table*: the outcomes without a codec; *coded*: with one, by cut and codec. *link*: its uplink does not count.
    *patience_ms*: how long the caller of a request waits for its answer.
    """

    table: OutcomeTable
    coded: Mapping[tuple[int, str], OutcomeTable]
    profile: ServingProfile
    link: Link
    limits: OffloadLimits
    patience_ms: float
    _routes: dict[Plan, tuple[Routes, OutcomeTable]] = field(default_factory=dict)

    def outcomes(self, plan: Plan) -> tuple[Routes, OutcomeTable]:
        """The route of each sample under *plan*, and what the exits say of it."""
        if plan not in self._routes:
            table = self.coded.get((plan.cut, plan.codec), self.table) if not plan.edge_only else self.table
            self._routes[plan] = route(plan, table, self.profile.exit_stages, self.profile.held), table
        return self._routes[plan]


@dataclass(frozen=True, eq=False)
class Replayed:
    """What became of each request, in the order they were sent, the plan of each, and the bytes of all probes."""

    records: Records
    plans: tuple[Plan, ...]
    probes: int
    probe_bytes: int

    @property
    def changes(self) -> int:
        """How often the plan changed from one request to the next."""
        return sum(later is not earlier for earlier, later in itertools.pairwise(self.plans))


def replay(
    chooser: Chooser,
    inputs: ReplayInputs,
    capacity: Capacity,
    sent_s: NDArray[np.float64],
    rows: NDArray[np.int64],
    *,
    start_s: float = 0.0,
) -> Replayed:
    """Requests for the samples *rows*, int64 [N], sent at *sent_s*, float64 [N] ascending, over an uplink.

    At time 0 the uplink is *start_s* into the course of *capacity*.
    """
    run = _Run(chooser, inputs, capacity, start_s)
    requests = [_Request(int(row), float(time_s)) for row, time_s in zip(rows, sent_s, strict=True)]
    for request in requests:
        run.at(request.sent_s + inputs.profile.request_ms / 1e3, run.arrive, request)
    run.go()
    plans = tuple(request.plan for request in requests if request.plan is not None)
    probe_bytes = sum(probe.uplink_bytes for probe in run.probes)
    return Replayed(_records(requests), plans, len(run.probes), probe_bytes)


@dataclass(eq=False, slots=True)
class _Request:
    """A request, or the copy of one that is sent as a probe; filled in as it goes."""

    row: int
    sent_s: float
    is_probe: bool = False
    plan: Plan | None = None
    arrived_s: float = 0.0
    asked_s: float = 0.0
    ended_s: float = 0.0
    edge_ms: float = 0.0
    network_ms: float = 0.0
    cloud_ms: float = 0.0
    queue_ms: float = 0.0
    uplink_bytes: int = 0
    exit: int = -1
    place: int = EDGE
    correct: bool = False
    over: bool = False


class _Run:
    """The events of a replay, each of which makes later ones."""

    def __init__(self, chooser: Chooser, inputs: ReplayInputs, capacity: Capacity, start_s: float) -> None:
        self.probes: list[_Request] = []
        self._chooser, self._ground, self._capacity, self._start_s = chooser, inputs, capacity, start_s
        self._events: list[tuple[float, int, Callable[[_Request], None], _Request]] = []
        self._order = itertools.count()
        self._now_s = 0.0
        self._in_time = InTime()
        self._edge_free_s = self._cloud_free_s = -math.inf
        self._booked_bits = 0.0

    def at(self, time_s: float, call: Callable[[_Request], None], request: _Request) -> None:
        """Have *call* made for *request* at *time_s*."""
        heapq.heappush(self._events, (time_s, next(self._order), call, request))

    def go(self) -> None:
        """Until nothing happens any more."""
        while self._events:
            self._now_s, _, call, request = heapq.heappop(self._events)
            call(request)

    def arrive(self, request: _Request) -> None:
        """A request is at the edge, which gives it a plan, and may send a copy of it as a probe."""
        request.plan, request.arrived_s = self._chooser.decide(self._now_s), self._now_s
        probing = self._chooser.probe(self._now_s)
        if probing is not None:
            self.probes.append(_Request(request.row, self._now_s, True, probing, self._now_s))
            self._at_edge(self._ground.profile.edge.until_ms[probing.cut], self._encode, self.probes[-1])
        routes, _ = self._ground.outcomes(request.plan)
        self._at_edge(self._ground.profile.edge.until_ms[routes.edge_stages[request.row]], self._passed, request)

    def _at_edge(self, work_ms: float, then: Callable[[_Request], None], request: _Request) -> None:
        if work_ms:
            self._edge_free_s = max(self._now_s, self._edge_free_s) + work_ms / 1e3
        self.at(self._edge_free_s if work_ms else self._now_s, then, request)

    def _passed(self, request: _Request) -> None:
        """The edge's stages are done."""
        routes, _ = self._outcomes(request)
        if routes.offloaded[request.row]:
            self._encode(request)
            return
        request.edge_ms = 1e3 * (self._now_s - request.arrived_s)
        self._end(request, EDGE, routes.exits[request.row])

    def _encode(self, request: _Request) -> None:
        self._at_edge(self._cost(request).encode_ms, self._ask, request)

    def _ask(self, request: _Request) -> None:
        """The message is ready; from now on the edge waits."""
        inputs, cost = self._ground, self._cost(request)
        request.asked_s, request.edge_ms = self._now_s, 1e3 * (self._now_s - request.arrived_s)
        allowed_ms = inputs.limits.allowance_ms(inputs.patience_ms - request.edge_ms)
        if allowed_ms <= 0 or not self._is_expected(request, allowed_ms):
            self._fall_back(request)
            return
        request.uplink_bytes = round(cost.message_bytes)
        bits = 8 * (cost.message_bytes + inputs.profile.framing_bytes)
        ready_s = self._now_s + inputs.profile.offload_ms / 1e3
        carried_bits = float(self._capacity.bits_by(np.asarray(ready_s + self._start_s)))
        self._booked_bits = max(carried_bits, self._booked_bits) + bits
        left_s = max(float(self._capacity.time_of_s(np.asarray(self._booked_bits))) - self._start_s, ready_s)
        self.at(left_s + inputs.link.rtt_ms / 2e3, self._in_cloud, request)
        self.at(self._now_s + allowed_ms / 1e3, self._give_up, request)

    def _is_expected(self, request: _Request, allowed_ms: float) -> bool:
        """Whether an answer within *allowed_ms* can be expected; a probe finds out."""
        if self._chooser.times is None or request.is_probe:
            return True
        cut, size = self._cut(request), self._cost(request).message_bytes
        try:
            self._in_time.check(self._now_s, self._chooser.times.expected(self._now_s, size, cut, 1), allowed_ms)
        except DeadlineExceeded:
            return False
        return True

    def _in_cloud(self, request: _Request) -> None:
        """The message is in the cloud, which computes one after the other."""
        routes, _ = self._outcomes(request)
        until_ms = self._ground.profile.cloud.until_ms
        needed = max(routes.cloud_stages[request.row], self._cut(request))
        work_ms = float(until_ms[needed] - until_ms[self._cut(request)]) + self._cost(request).decode_ms
        start_s = max(self._now_s, self._cloud_free_s)
        self._cloud_free_s = start_s + work_ms / 1e3
        request.queue_ms = 1e3 * (start_s - self._now_s)
        request.cloud_ms = request.queue_ms + work_ms
        link = self._ground.link
        home_ms = 8e-3 * self._ground.profile.reply_bytes / link.downlink_mbps + link.rtt_ms / 2
        self.at(self._cloud_free_s + home_ms / 1e3, self._answer, request)

    def _answer(self, request: _Request) -> None:
        """The cloud's answer is here, unless nobody waits for it any more."""
        if request.over:
            return
        request.over = True
        request.network_ms = 1e3 * (self._now_s - request.asked_s) - request.cloud_ms
        self._chooser.answered(self._now_s, request.uplink_bytes, request.network_ms, request.queue_ms)
        if self._chooser.times is not None:
            self._chooser.times.worked(self._cut(request), 1, request.cloud_ms - request.queue_ms)
        routes, _ = self._outcomes(request)
        self._end(request, CLOUD, routes.exits[request.row])

    def _give_up(self, request: _Request) -> None:
        """Nobody waits for the cloud any more, unless it has answered."""
        if request.over:
            return
        request.network_ms, request.cloud_ms = 1e3 * (self._now_s - request.asked_s), 0.0
        self._chooser.unanswered(self._now_s, request.uplink_bytes, request.network_ms)
        self._fall_back(request)

    def _fall_back(self, request: _Request) -> None:
        """The edge answers itself; an input that went as it was it has yet to look at."""
        request.over = True
        routes, _ = self._outcomes(request)
        stages = 0 if self._cut(request) or request.is_probe else routes.local_stages[request.row]
        self._at_edge(float(self._ground.profile.edge.until_ms[stages]), self._fallen_back, request)

    def _fallen_back(self, request: _Request) -> None:
        routes, _ = self._outcomes(request)
        self._end(request, FALLBACK, routes.local_exits[request.row])

    def _end(self, request: _Request, place: int, number: np.int64) -> None:
        _, table = self._outcomes(request)
        request.ended_s, request.place, request.exit = self._now_s, place, int(number)
        request.correct = bool(table.correct[number, request.row])

    def _outcomes(self, request: _Request) -> tuple[Routes, OutcomeTable]:
        assert request.plan is not None
        return self._ground.outcomes(request.plan)

    def _cut(self, request: _Request) -> int:
        assert request.plan is not None
        return request.plan.cut

    def _cost(self, request: _Request) -> CodecCost:
        assert request.plan is not None
        return self._ground.profile.cost_of(request.plan.cut, request.plan.codec)


def _records(requests: Sequence[_Request]) -> Records:
    """A row a request."""

    def column(name: str, kind: type[np.generic]) -> NDArray[Any]:
        return np.array([getattr(request, name) for request in requests], dtype=kind)

    sent_s, place = column("sent_s", np.float64), column("place", np.int8)
    return Records.of(
        row=column("row", np.int32),
        sent_s=sent_s,
        latency_ms=1e3 * (column("ended_s", np.float64) - sent_s),
        edge_ms=column("edge_ms", np.float64),
        network_ms=column("network_ms", np.float64),
        cloud_ms=column("cloud_ms", np.float64),
        uplink_bytes=column("uplink_bytes", np.int32),
        exit=column("exit", np.int16),
        place=place,
        correct=column("correct", np.bool_),
        reason=late_reasons(place == FALLBACK),
    )
