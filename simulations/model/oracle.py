"""The simulator's model once more, event by event in SimPy: slow, and easy to believe.

It exists to check `simulations.model.simulator`: the tests compare the two request by request. They share only what
real nodes share as well, which request comes when (`requests_of`) and who leaves at which exit (`route`). Each request
is a process that walks from place to place and waits there for its turn; links send bit by bit through their course.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import simpy

from branchynet.exits.outcomes import OutcomeTable
from branchynet.placement.plan import Plan, Routes, route
from branchynet.placement.serving_profile import ServingProfile
from simulations.link.capacity import Capacity, ConstantRate, DeliveryLog, PiecewiseRate
from simulations.model.request_records import CLOUD, EDGE, FALLBACK, LATE, Records
from simulations.model.scenario import EdgeGroup, Scenario
from simulations.model.simulator import Measured, Offload
from simulations.model.workload import requests_of

__all__ = ["simulate_by_events", "simulate_cloud_by_events"]

Steps = Generator[simpy.Event, Any, None]
DELIVERY_BITS = 12_000


def simulate_by_events(scenario: Scenario, measured: Measured) -> Records:
    """Every request of *scenario*: the rows of `simulations.model.simulator.simulate`, in the same order."""
    uplinks, clouds = scenario.uplinks(), range(scenario.clouds)
    return Records.joined([simulate_cloud_by_events(scenario, measured, cloud, uplinks) for cloud in clouds])


def simulate_cloud_by_events(
    scenario: Scenario, measured: Measured, cloud: int, uplinks: Sequence[Capacity]
) -> Records:
    """The requests of one cloud and its edges: the rows of `simulations.model.simulator.simulate_cloud`."""
    env = simpy.Environment()
    server = _Cloud(env, scenario, measured.profile)
    walks, outcomes, tables = [], [], []
    for number, ((_, group), uplink) in enumerate(zip(scenario.edge_groups(), uplinks, strict=True)):
        world = _World.of(env, scenario, group, measured)
        requests = requests_of(scenario, cloud, len(measured.table.labels), uplink.period_s, number)
        for place in range(len(requests.edges)):
            edge = _Edge(env, group, uplink, float(requests.offset_s[place]))
            for row, sent_s in zip(requests.rows[place], requests.sent_s[place], strict=True):
                outcome = _Outcome(int(requests.edges[place]), cloud, int(row), float(sent_s))
                outcomes.append(outcome)
                tables.append(world.table)
                walks.append(env.process(world.walk(edge, server, outcome)))
    env.run(until=env.all_of(walks))
    for outcome, table in zip(outcomes, tables, strict=True):
        outcome.correct = bool(table.correct[outcome.exit, outcome.row])
    return _records(outcomes)


@dataclass
class _Outcome:
    """A row of the records while it is being written."""

    edge: int
    cloud: int
    row: int
    sent_s: float = 0.0
    latency_ms: float = 0.0
    edge_ms: float = 0.0
    network_ms: float = 0.0
    cloud_ms: float = 0.0
    uplink_bytes: int = 0
    exit: int = 0
    place: int = EDGE
    correct: bool = False
    attempts: int = 1
    reason: str = ""


def _records(outcomes: list[_Outcome]) -> Records:
    names = [column.name for column in fields(_Outcome)]
    return Records.of(**{name: [getattr(outcome, name) for outcome in outcomes] for name in names})


class _EndOfMoment(simpy.Event):
    """Comes after everything else that happens at this moment."""

    def __init__(self, env: simpy.Environment) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        # SimPy's own events have 0 and 1; what ends at the very moment must be there before anybody looks.
        env.schedule(self, priority=2)  # type: ignore[arg-type]


class _RateLink:
    """One message at a time, at a rate that holds for a while, then at the next; after the last the first again."""

    def __init__(self, env: simpy.Environment, lasts_s: list[float], mbps: list[float], offset_s: float) -> None:
        self._env = env
        self._wire = simpy.Resource(env)
        self._lasts_s, self._mbps, self._offset_s = lasts_s, mbps, offset_s

    def carry(self, bits: float) -> Steps:
        """Wait for the messages before, then send *bits*."""
        with self._wire.request() as turn:
            yield turn
            piece, left_s = self._now()
            while bits > 1e6 * self._mbps[piece] * left_s:
                bits -= 1e6 * self._mbps[piece] * left_s
                yield self._env.timeout(left_s)
                piece = (piece + 1) % len(self._mbps)
                left_s = self._lasts_s[piece]
            yield self._env.timeout(bits / (1e6 * self._mbps[piece]))

    def _now(self) -> tuple[int, float]:
        """Which rate holds now, and for how long still."""
        into_s = (self._env.now + self._offset_s) % math.fsum(self._lasts_s)
        for piece, lasts_s in enumerate(self._lasts_s):
            if into_s < lasts_s:
                return piece, lasts_s - into_s
            into_s -= lasts_s
        return 0, self._lasts_s[0]


class _DeliveryLink:
    """At each moment of a log some bytes leave, those of the oldest messages; room that nobody needs is lost."""

    def __init__(self, env: simpy.Environment, log: DeliveryLog, offset_s: float) -> None:
        self._env = env
        self._waiting: deque[_Message] = deque()
        env.process(self._deliver(log, offset_s))

    def carry(self, bits: float) -> Steps:
        """Wait until the last of *bits* has left."""
        message = _Message(bits, self._env.event())
        self._waiting.append(message)
        yield message.gone

    def _deliver(self, log: DeliveryLog, offset_s: float) -> Steps:
        for turn in itertools.count():
            for time_s in log.times_s.tolist():
                at_s = turn * log.period_s + time_s - offset_s
                if at_s < 0:
                    continue
                yield self._env.timeout(max(0.0, at_s - self._env.now))
                yield _EndOfMoment(self._env)
                self._leave(DELIVERY_BITS)

    def _leave(self, room: float) -> None:
        while room > 0 and self._waiting:
            oldest = self._waiting[0]
            leaving = min(room, oldest.bits)
            room -= leaving
            oldest.bits -= leaving
            if oldest.bits == 0:
                self._waiting.popleft().gone.succeed()


@dataclass
class _Message:
    bits: float
    gone: simpy.Event


def _link(env: simpy.Environment, capacity: Capacity, offset_s: float) -> _RateLink | _DeliveryLink:
    if isinstance(capacity, ConstantRate):
        return _RateLink(env, [math.inf], [capacity.mbps], 0.0)
    if isinstance(capacity, PiecewiseRate):
        lasts_s = np.diff(capacity.ends_s, prepend=0.0).tolist()
        return _RateLink(env, lasts_s, capacity.mbps.tolist(), offset_s)
    if isinstance(capacity, DeliveryLog):
        return _DeliveryLink(env, capacity, offset_s)
    raise TypeError(f"no walk is known through a {type(capacity).__name__}")


class _Edge:
    """An edge node's worker and its link, both directions."""

    def __init__(self, env: simpy.Environment, group: EdgeGroup, capacity: Capacity, offset_s: float) -> None:
        self.worker = simpy.Resource(env)
        # Images that come back without an answer are computed out of the way of those that are coded: see `simulator`.
        self.fallback_worker = simpy.Resource(env)
        self.uplink = _link(env, capacity, offset_s)
        self.downlink = _link(env, ConstantRate(group.link.downlink_mbps), 0.0)


@dataclass
class _Job:
    """A sample in the cloud that needs stages [*cut*, *until*) after it was decoded."""

    cut: int
    until: int
    decode_ms: float
    finished: simpy.Event


class _Cloud:
    """Workers that take, whenever they are free, what waits, oldest first, up to *max_batch* at a time."""

    def __init__(self, env: simpy.Environment, scenario: Scenario, profile: ServingProfile) -> None:
        self._env, self._profile = env, profile
        self._model = scenario.cloud
        self._queue: deque[_Job] = deque()
        self._news = env.event()
        for _ in range(self._model.workers):
            env.process(self._work())

    def compute(self, cut: int, until: int, decode_ms: float) -> Steps:
        """Wait for a worker and its batch."""
        job = _Job(cut, until, decode_ms, self._env.event())
        self._queue.append(job)
        self._news.succeed()
        self._news = self._env.event()
        yield job.finished

    def _work(self) -> Steps:
        while True:
            if not self._queue:
                yield self._news
            yield _EndOfMoment(self._env)
            batch = [self._queue.popleft() for _ in range(min(self._model.max_batch, len(self._queue)))]
            if not batch:
                continue
            batch_ms = sum(job.decode_ms * self._model.slowdown for job in batch)
            for stage in range(self._profile.cloud.stages):
                if still := sum(job.cut <= stage < job.until for job in batch):
                    batch_ms += self._profile.cloud.stage_ms(stage, still) * self._model.slowdown
            yield self._env.timeout(batch_ms / 1e3)
            for job in batch:
                job.finished.succeed()


@dataclass
class _Errand:
    """What an offload brings back."""

    answer: simpy.Event
    cloud_ms: float = field(default=0.0)


@dataclass(frozen=True)
class _World:
    """What holds for every request of edges that are alike."""

    env: simpy.Environment
    scenario: Scenario
    group: EdgeGroup
    profile: ServingProfile
    plan: Plan
    table: OutcomeTable
    routes: Routes
    offload: Offload

    @classmethod
    def of(cls, env: simpy.Environment, scenario: Scenario, group: EdgeGroup, measured: Measured) -> _World:
        """Edges like *group*."""
        profile, plan = measured.profile, group.plan.plan(measured.own_plan.cut, measured.own_plan.rule)
        table = measured.outcomes(plan)
        routes = route(plan, table, profile.exit_stages, max(group.held or profile.held, plan.cut))
        return cls(env, scenario, group, profile, plan, table, routes, measured.offload(plan))

    def walk(self, edge: _Edge, cloud: _Cloud, outcome: _Outcome) -> Steps:
        """The way of one request to its answer; what happens is written into *outcome*."""
        env, row = self.env, outcome.row
        yield env.timeout(outcome.sent_s)
        yield env.timeout(self.profile.request_ms / 1e3)
        here_s = env.now
        encode_ms = self.offload.encode_ms if self.routes.offloaded[row] else 0.0
        yield from self._compute(edge.worker, int(self.routes.edge_stages[row]), encode_ms)
        outcome.edge_ms = 1e3 * (env.now - here_s)
        outcome.exit = int(self.routes.exits[row])
        if self.routes.offloaded[row]:
            remaining_ms = self.scenario.limits.deadline_ms - 1e3 * (env.now - here_s)
            yield from self._ask(edge, cloud, outcome, remaining_ms)
        outcome.latency_ms = 1e3 * (env.now - outcome.sent_s)

    def _ask(self, edge: _Edge, cloud: _Cloud, outcome: _Outcome, remaining_ms: float) -> Steps:
        env, row, asked_s = self.env, outcome.row, self.env.now
        allowance_ms = self.scenario.limits.offload.allowance_ms(remaining_ms)
        if allowance_ms > 0:
            outcome.uplink_bytes = round(self.offload.message_bytes)
            errand = _Errand(env.event())
            env.process(self._run_errand(edge, cloud, errand, int(self.routes.cloud_stages[row])))
            yield errand.answer | env.timeout(allowance_ms / 1e3)
            if errand.answer.triggered:
                outcome.place, outcome.cloud_ms = CLOUD, errand.cloud_ms
                outcome.network_ms = 1e3 * (env.now - asked_s) - errand.cloud_ms
                return
        outcome.network_ms = 1e3 * (env.now - asked_s)
        outcome.place, outcome.exit, outcome.reason = FALLBACK, int(self.routes.local_exits[row]), LATE
        if self.plan.cut == 0:
            given_up_s = env.now
            yield from self._compute(edge.fallback_worker, int(self.routes.local_stages[row]))
            outcome.edge_ms = 1e3 * (env.now - given_up_s)

    def _run_errand(self, edge: _Edge, cloud: _Cloud, errand: _Errand, until: int) -> Steps:
        """To the cloud and back; it goes on when nobody waits any more."""
        env, half_s = self.env, self.group.link.rtt_ms / 2e3
        yield env.timeout(self.profile.offload_ms / 1e3)
        yield from edge.uplink.carry(8 * (self.offload.message_bytes + self.profile.framing_bytes))
        yield env.timeout(half_s)
        there_s = env.now
        yield from cloud.compute(self.plan.cut, until, self.offload.decode_ms)
        errand.cloud_ms = 1e3 * (env.now - there_s)
        yield from edge.downlink.carry(8 * self.profile.reply_bytes)
        yield env.timeout(half_s)
        errand.answer.succeed()

    def _compute(self, worker: simpy.Resource, stages: int, encode_ms: float = 0.0) -> Steps:
        """Stages [0, *stages*) and coding on *worker*, after those who came before."""
        if stages == 0 and not encode_ms:
            return
        with worker.request() as turn:
            yield turn
            work_ms = sum(self.profile.edge.stage_ms(stage, 1) for stage in range(stages)) + encode_ms
            yield self.env.timeout(work_ms * self.group.slowdown / 1e3)
