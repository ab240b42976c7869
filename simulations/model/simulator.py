"""Every request of a scenario, exactly, without a clock: whole arrays of edges and requests at a time.

    sent ──► edge's stages (one worker) ──► uplink (first come, first served) ──► cloud (takes batches) ──► downlink
              └─ leaves at an exit            └─ half the round trip ─┘               └─ half the round trip ─► answer

Nothing that happens later on this way acts back on an earlier part, so each part is solved for all requests at once:
up to the cloud for each group of edges that are alike, in the cloud for all, and back again for each group.
What makes that true: an offload that is given up is still sent and still computed, as bytes on their way are. A codec
is part of the edge's and the cloud's work: on a real edge others may have their turn between stages and codec, and
images that come back unanswered are computed by the thread that codes the next ones, not beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.placement.plan import Plan, Routes, plain_codec, route
from branchynet.placement.serving_profile import ServingProfile, StageTimes
from simulations.link.capacity import Capacity, ConstantRate
from simulations.model.queues import drain, serve, serve_in_batches
from simulations.model.request_records import CLOUD, EDGE, FALLBACK, Records, late_reasons
from simulations.model.scenario import CloudModel, EdgeGroup, Scenario
from simulations.model.workload import Requests, requests_of

__all__ = ["Measured", "Offload", "simulate", "simulate_cloud"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Offload(NamedTuple):
    """One offload's bytes without framing, and the milliseconds that its codec takes at either end."""

    message_bytes: float = 0.0
    encode_ms: float = 0.0
    decode_ms: float = 0.0


@dataclass(frozen=True)
class Measured:
    """What was measured of the real network: the outcomes of its exits, its times and sizes, and its own plan.

    *coded*: the outcomes through a codec, by cut and codec, for the codecs that plans may have.
    """

    table: OutcomeTable
    profile: ServingProfile
    own_plan: Plan
    coded: Mapping[tuple[int, str], OutcomeTable] = field(default_factory=dict)

    def outcomes(self, plan: Plan) -> OutcomeTable:
        """Those under *plan*; `InvalidInput` if they were not measured."""
        if plan.edge_only or plan.codec == plain_codec(plan.cut):
            return self.table
        if (plan.cut, plan.codec) not in self.coded:
            raise InvalidInput(f"the outcomes of codec {plan.codec!r} at cut {plan.cut} were not measured")
        return self.coded[plan.cut, plan.codec]

    def offload(self, plan: Plan) -> Offload:
        """One offload under *plan*; nothing if it sends nothing. `InvalidInput` for a codec that was not measured."""
        if plan.edge_only or plan.cut >= self.profile.edge.stages:
            return Offload()
        cost = self.profile.cost_of(plan.cut, plan.codec)
        return Offload(cost.message_bytes, cost.encode_ms, cost.decode_ms)


def simulate(scenario: Scenario, measured: Measured) -> Records:
    """What becomes of all requests of *scenario*, cloud by cloud.

    Raises `InvalidInput` for a plan the network does not have, and for faults and plans that adapt, which are for real
    nodes.
    """
    uplinks = scenario.uplinks()
    return Records.joined([simulate_cloud(scenario, measured, cloud, uplinks) for cloud in range(scenario.clouds)])


def simulate_cloud(scenario: Scenario, measured: Measured, cloud: int, uplinks: Sequence[Capacity]) -> Records:
    """What becomes of the requests of one cloud and its edges; *uplinks*: what those of each group can carry."""
    if scenario.faults:
        raise InvalidInput(f"{scenario.faults[0].part} has a fault; only real nodes can")
    half_ways = []
    for number, ((_, group), uplink) in enumerate(zip(scenario.edge_groups(), uplinks, strict=True)):
        requests = requests_of(scenario, cloud, len(measured.table.labels), uplink.period_s, number)
        if len(requests.edges):
            half_ways.append(_to_cloud(scenario, group, measured, requests, uplink))
    there_s, works = (
        np.concatenate([getattr(part, name) for part in half_ways]) for name in ("there_s", "cloud_stages")
    )
    order = np.argsort(there_s, kind="stable")
    cuts = np.concatenate([np.full(len(part.there_s), part.plan.cut) for part in half_ways])
    decode_ms = np.concatenate([np.full(len(part.there_s), part.offload.decode_ms) for part in half_ways])
    finished_s = np.empty_like(there_s)
    jobs = _Jobs(there_s[order], cuts[order], works[order], decode_ms[order])
    finished_s[order] = _cloud_finish(scenario.cloud, measured.profile.cloud, jobs)
    ends = np.cumsum([len(part.there_s) for part in half_ways])[:-1]
    return Records.joined(
        [
            _answered(part, measured.profile, cloud, part_s)
            for part, part_s in zip(half_ways, np.split(finished_s, ends), strict=True)
        ]
    )


@dataclass(frozen=True, eq=False)
class _HalfWay:
    """Requests [E, n] of a cloud's edges that are alike, as far as the cloud's door.

    *here_s*, *done_s*: at the edge, and done there. *allowed_ms*: how long the edge would wait then. *asked*: who is
    sent. For the m of them: *there_s*, when they are in the cloud, and *cloud_stages*, up to which they run there.
    """

    group: EdgeGroup
    plan: Plan
    offload: Offload
    table: OutcomeTable
    routes: Routes
    requests: Requests
    edge_until_ms: Floats
    here_s: Floats
    done_s: Floats
    allowed_ms: Floats
    asked: NDArray[np.bool_]
    there_s: Floats
    cloud_stages: Ints


@dataclass(frozen=True, eq=False)
class _Jobs:
    """What comes to a cloud, m samples in that order: each runs stages [*cuts*, *until*) after it was decoded."""

    there_s: Floats
    cuts: Ints
    until: Ints
    decode_ms: Floats


def _to_cloud(
    scenario: Scenario, group: EdgeGroup, measured: Measured, requests: Requests, uplink: Capacity
) -> _HalfWay:
    """The way of *requests* of edges like *group* up to their cloud."""
    plan = group.plan.plan(measured.own_plan.cut, measured.own_plan.rule)
    profile, table = measured.profile, measured.outcomes(plan)
    held = max(group.held or profile.held, plan.cut)
    routes = route(plan, table, profile.exit_stages, held)
    offload = measured.offload(plan)
    encode_ms = group.slowdown * offload.encode_ms
    rows = requests.rows
    offloaded = routes.offloaded[rows]
    here_s = requests.sent_s + profile.request_ms / 1e3
    until_ms = profile.edge.slower(group.slowdown).until_ms
    done_s = serve(here_s, (until_ms[routes.edge_stages[rows]] + np.where(offloaded, encode_ms, 0.0)) / 1e3)
    allowed_ms = scenario.limits.offload.allowance_ms(scenario.limits.deadline_ms - 1e3 * (done_s - here_s))
    asked = offloaded & (allowed_ms > 0)
    up_bits = np.where(asked, 8.0 * (offload.message_bytes + profile.framing_bytes), 0.0)
    ready_s = np.where(asked, done_s + profile.offload_ms / 1e3, -np.inf)
    through_s = drain(uplink, ready_s, up_bits, requests.offset_s[:, None])
    return _HalfWay(
        group=group,
        plan=plan,
        offload=offload,
        table=table,
        routes=routes,
        requests=requests,
        edge_until_ms=until_ms,
        here_s=here_s,
        done_s=done_s,
        allowed_ms=allowed_ms,
        asked=asked,
        there_s=through_s[asked] + group.link.rtt_ms / 2e3,
        cloud_stages=routes.cloud_stages[rows[asked]],
    )


def _answered(part: _HalfWay, profile: ServingProfile, cloud: int, finished_s: Floats) -> Records:
    """The records of *part*, whose samples the cloud finishes at *finished_s* [m]."""
    routes, rows, done_s, asked = part.routes, part.requests.rows, part.done_s, part.asked
    offloaded, local_exits = routes.offloaded[rows], routes.local_exits[rows]
    back_s, cloud_ms = _way_back(part, profile, finished_s)
    given_up_s = done_s + np.maximum(part.allowed_ms, 0.0) / 1e3
    late = offloaded & (~asked | (back_s > given_up_s))
    in_cloud = offloaded & ~late

    ended_s = np.where(in_cloud, back_s, np.where(late, given_up_s, done_s))
    edge_ms = 1e3 * (done_s - part.here_s)
    if part.plan.cut == 0:  # no exit of the edge's has looked at those that come back without an answer
        local_s = np.where(late, part.edge_until_ms[routes.local_stages[rows]] / 1e3, 0.0)
        local_done_s = serve(np.where(late, given_up_s, -np.inf), local_s)
        edge_ms = np.where(late, 1e3 * (local_done_s - given_up_s), edge_ms)
        ended_s = np.where(late, local_done_s, ended_s)
    exits = np.where(late, local_exits, routes.exits[rows])
    waited_ms = 1e3 * (np.where(in_cloud, back_s, given_up_s) - done_s)
    return Records.of(
        edge=np.repeat(part.requests.edges, rows.shape[1]),
        cloud=np.full(rows.shape, cloud),
        row=rows,
        sent_s=part.requests.sent_s,
        latency_ms=1e3 * (ended_s - part.requests.sent_s),
        edge_ms=edge_ms,
        network_ms=np.where(offloaded, waited_ms - np.where(in_cloud, cloud_ms, 0.0), 0.0),
        cloud_ms=np.where(in_cloud, cloud_ms, 0.0),
        uplink_bytes=np.where(asked, round(part.offload.message_bytes), 0),
        exit=exits,
        place=np.where(late, FALLBACK, np.where(in_cloud, CLOUD, EDGE)),
        correct=part.table.correct[exits, rows],
        reason=late_reasons(late),
    )


def _way_back(part: _HalfWay, profile: ServingProfile, finished_s: Floats) -> tuple[Floats, Floats]:
    """When the answer to each request that was asked is back, and its time in the cloud in ms: float64 [E, n]."""
    asked, half_s = part.asked, part.group.link.rtt_ms / 2e3
    cloud_ms = np.zeros_like(part.done_s)
    cloud_ms[asked] = 1e3 * (finished_s - part.there_s)
    # Replies leave in the order in which the cloud finishes; with several workers that is not the order of asking.
    leaves_s = np.full_like(part.done_s, -np.inf)
    leaves_s[asked] = finished_s
    by_finish = np.argsort(leaves_s, axis=1, kind="stable")
    sorted_s = np.take_along_axis(leaves_s, by_finish, axis=1)
    down_bits = np.where(np.isfinite(sorted_s), 8.0 * profile.reply_bytes, 0.0)
    delivered_s = np.empty_like(sorted_s)
    through_s = drain(ConstantRate(part.group.link.downlink_mbps), sorted_s, down_bits)
    np.put_along_axis(delivered_s, by_finish, through_s, axis=1)
    return np.where(asked, delivered_s + half_s, 0.0), cloud_ms


def _cloud_finish(model: CloudModel, times: StageTimes, jobs: _Jobs) -> Floats:
    """When the cloud, whose stages take *times* at full speed, finishes each of *jobs*: float64 [m]."""
    times, decode_ms = times.slower(model.slowdown), model.slowdown * jobs.decode_ms
    if model.workers == model.max_batch == 1:
        work_ms = times.until_ms[jobs.until] - times.until_ms[jobs.cuts] + decode_ms
        return serve(jobs.there_s, work_ms / 1e3)
    known: dict[tuple[int, ...], float] = {}

    def batch_s(batch: Ints) -> float:
        cuts, until = jobs.cuts[batch], jobs.until[batch]
        left = tuple(int(((cuts <= stage) & (until > stage)).sum()) for stage in range(times.stages))
        if left not in known:
            known[left] = sum(times.stage_ms(stage, size) for stage, size in enumerate(left) if size)
        return (known[left] + float(decode_ms[batch].sum())) / 1e3

    places = np.arange(len(jobs.there_s))
    return serve_in_batches(jobs.there_s, places, batch_s, model.workers, model.max_batch)[1]
