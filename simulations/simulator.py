"""Every request of a scenario, exactly, without a clock: whole arrays of edges and requests at a time.

    sent ──► edge's stages (one worker) ──► uplink (first come, first served) ──► cloud (takes batches) ──► downlink
              └─ leaves at an exit            └─ half the round trip ─┘               └─ half the round trip ─► answer

Nothing that happens later on this way acts back on an earlier part, so each part is solved for all requests at once.
What makes that true: an offload that is given up is still sent and still computed, as bytes on their way are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.decisions.outcomes import OutcomeTable
from branchynet.decisions.plans import Plan, Routes, route
from branchynet.decisions.timing import ServingProfile, StageTimes
from simulations.capacity import Capacity, ConstantRate
from simulations.queues import drain, serve, serve_in_batches
from simulations.records import CLOUD, EDGE, FALLBACK, Records
from simulations.scenarios import Scenario
from simulations.workload import Requests, requests_of

__all__ = ["Measured", "simulate", "simulate_cloud"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What was measured of the real network: the outcomes of its exits, its times and sizes, and its own rule."""

    table: OutcomeTable
    profile: ServingProfile
    own_plan: Plan


def simulate(scenario: Scenario, measured: Measured) -> Records:
    """What becomes of all requests of *scenario*, cloud by cloud.

    Raises `InvalidInput` for a plan the network does not have.
    """
    capacity = scenario.link.capacity(scenario.seed)
    return Records.joined([simulate_cloud(scenario, measured, cloud, capacity) for cloud in range(scenario.clouds)])


def simulate_cloud(scenario: Scenario, measured: Measured, cloud: int, capacity: Capacity) -> Records:
    """What becomes of the requests of one cloud and its edges; *capacity* is what each edge's uplink can carry."""
    plan = scenario.plan.plan(measured.own_plan.cut, measured.own_plan.rule)
    profile = measured.profile
    routes = route(plan, measured.table, profile.exit_stages, max(profile.held, plan.cut))
    requests = requests_of(scenario, cloud, len(measured.table.labels), capacity.period_s)
    rows = requests.rows
    offloaded, local_exits = routes.offloaded[rows], routes.local_exits[rows]

    edge_until_ms = profile.edge.slower(scenario.edge.slowdown).until_ms
    here_s = requests.sent_s + profile.request_ms / 1e3
    done_s = serve(here_s, edge_until_ms[routes.edge_stages[rows]] / 1e3)
    allowed_ms = scenario.limits.offload.allowance_ms(scenario.limits.deadline_ms - 1e3 * (done_s - here_s))
    asked = offloaded & (allowed_ms > 0)
    back_s, cloud_ms = _offload(scenario, profile, plan.cut, routes, requests, capacity, done_s, asked)
    given_up_s = done_s + np.maximum(allowed_ms, 0.0) / 1e3
    late = offloaded & (~asked | (back_s > given_up_s))
    in_cloud = offloaded & ~late

    ended_s = np.where(in_cloud, back_s, np.where(late, given_up_s, done_s))
    edge_ms = 1e3 * (done_s - here_s)
    if plan.cut == 0:  # no exit of the edge's has looked at those that come back without an answer
        local_s = np.where(late, edge_until_ms[routes.local_stages[rows]] / 1e3, 0.0)
        local_done_s = serve(np.where(late, given_up_s, -np.inf), local_s)
        edge_ms = np.where(late, 1e3 * (local_done_s - given_up_s), edge_ms)
        ended_s = np.where(late, local_done_s, ended_s)
    exits = np.where(late, local_exits, routes.exits[rows])
    waited_ms = 1e3 * (np.where(in_cloud, back_s, given_up_s) - done_s)
    size = profile.message_bytes[plan.cut] if plan.cut < profile.edge.stages else 0
    count = rows.size
    return Records(
        edge=np.repeat(requests.edges, rows.shape[1]).astype(np.int32),
        cloud=np.full(count, cloud, np.int32),
        row=rows.ravel().astype(np.int32),
        sent_s=requests.sent_s.ravel(),
        latency_ms=1e3 * (ended_s - requests.sent_s).ravel(),
        edge_ms=edge_ms.ravel(),
        network_ms=np.where(offloaded, waited_ms - np.where(in_cloud, cloud_ms, 0.0), 0.0).ravel(),
        cloud_ms=np.where(in_cloud, cloud_ms, 0.0).ravel(),
        uplink_bytes=np.where(asked, size, 0).ravel().astype(np.int32),
        exit=exits.ravel().astype(np.int16),
        place=np.where(late, FALLBACK, np.where(in_cloud, CLOUD, EDGE)).ravel().astype(np.int8),
        correct=measured.table.correct[exits, rows].ravel(),
        attempts=np.ones(count, np.int16),
    )


def _offload(
    scenario: Scenario,
    profile: ServingProfile,
    cut: int,
    routes: Routes,
    requests: Requests,
    capacity: Capacity,
    done_s: Floats,
    asked: NDArray[np.bool_],
) -> tuple[Floats, Floats]:
    """When the answer to each request that was *asked* is back, and its time in the cloud in ms: float64 [E, n]."""
    if not asked.any():
        return np.zeros_like(done_s), np.zeros_like(done_s)
    half_s = scenario.link.rtt_ms / 2e3
    up_bits = np.where(asked, 8.0 * (profile.message_bytes[cut] + profile.framing_bytes), 0.0)
    ready_s = np.where(asked, done_s + profile.offload_ms / 1e3, -np.inf)
    there_s = drain(capacity, ready_s, up_bits, requests.offset_s[:, None])[asked] + half_s

    order = np.argsort(there_s, kind="stable")
    needs = routes.cloud_stages[requests.rows[asked]]
    times = profile.cloud.slower(scenario.cloud.slowdown)
    finished_s = np.empty_like(there_s)
    finished_s[order] = _cloud_finish(scenario, times, cut, there_s[order], needs[order])
    cloud_ms = np.zeros_like(done_s)
    cloud_ms[asked] = 1e3 * (finished_s - there_s)

    # Replies leave in the order in which the cloud finishes; with several workers that is not the order of asking.
    leaves_s = np.full_like(done_s, -np.inf)
    leaves_s[asked] = finished_s
    by_finish = np.argsort(leaves_s, axis=1, kind="stable")
    sorted_s = np.take_along_axis(leaves_s, by_finish, axis=1)
    down_bits = np.where(np.isfinite(sorted_s), 8.0 * profile.reply_bytes, 0.0)
    delivered_s = np.empty_like(sorted_s)
    through_s = drain(ConstantRate(scenario.link.downlink_mbps), sorted_s, down_bits)
    np.put_along_axis(delivered_s, by_finish, through_s, axis=1)
    return np.where(asked, delivered_s + half_s, 0.0), cloud_ms


def _cloud_finish(scenario: Scenario, times: StageTimes, cut: int, there_s: Floats, needs: NDArray[np.int64]) -> Floats:
    """When the cloud finishes each sample: float64 [m], for samples in the order they come, needing stages [cut, x)."""
    if scenario.cloud.workers == scenario.cloud.max_batch == 1:
        return serve(there_s, (times.until_ms[needs] - times.until_ms[cut]) / 1e3)
    known: dict[tuple[int, ...], float] = {}

    def batch_s(batch: NDArray[np.int64]) -> float:
        left = tuple(int((batch > stage).sum()) for stage in range(cut, times.stages))
        if left not in known:
            known[left] = sum(times.stage_ms(cut + i, size) for i, size in enumerate(left) if size) / 1e3
        return known[left]

    return serve_in_batches(there_s, needs, batch_s, scenario.cloud.workers, scenario.cloud.max_batch)[1]
