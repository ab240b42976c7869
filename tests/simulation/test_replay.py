"""The replay in virtual time: a fixed plan fares as in the simulator, and one that changes leaves an outage soon."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from scenes import Scene, plain_measured, scenes

from branchynet.exits.rules import ExitRule
from branchynet.placement.candidates import Candidates
from branchynet.placement.offload_deadline import OffloadLimits
from branchynet.placement.plan import Plan
from branchynet.placement.replanner import Adaptation, Replanner
from branchynet.placement.serving_profile import CodecCost, Link
from simulations.link.capacity import ConstantRate, PiecewiseRate
from simulations.model.event_replay import Fixed, Replayed, ReplayInputs, replay
from simulations.model.request_records import CLOUD, EDGE, FALLBACK
from simulations.model.scenario import CloudModel, Scenario
from simulations.model.simulator import Measured, simulate_cloud
from simulations.model.workload import requests_of

NEVER = ExitRule.never(2)
LOCAL, SENT = Plan(2, NEVER, edge_only=True), Plan(0, NEVER)


@settings(deadline=None, max_examples=40)
@given(scenes())
def test_a_fixed_plan_fares_as_in_the_simulator(scene: Scene) -> None:
    ordinary = scene.scenario.model_copy(
        update={"edges": 1, "clouds": 1, "cloud": CloudModel(), "edge": type(scene.scenario.edge)()}
    )
    profile = scene.measured.profile
    plan = ordinary.plan.plan(scene.measured.own_plan.cut, scene.measured.own_plan.rule)
    requests = requests_of(ordinary, 0, len(scene.measured.table.labels), scene.uplink.period_s)
    expected = simulate_cloud(ordinary, scene.measured, 0, [scene.uplink])
    # There a fallback's own computing is in nobody's way, and replies that leave together queue.
    assume(not (expected.place == FALLBACK).any() and profile.held >= plan.cut)
    link = Link(1.0, ordinary.link.downlink_mbps, ordinary.link.rtt_ms)
    limits = ordinary.limits
    inputs = ReplayInputs(scene.measured.table, {}, profile, link, limits.offload, limits.deadline_ms)
    way = (scene.uplink, requests.sent_s[0], requests.rows[0])
    found = replay(Fixed(plan, times=None), inputs, *way, start_s=float(requests.offset_s[0])).records
    reply_ms = 8e-3 * profile.reply_bytes / ordinary.link.downlink_mbps
    finished_s = np.sort((found.sent_s + found.latency_ms / 1e3)[found.place == CLOUD])
    assume(not (np.diff(finished_s) < reply_ms / 1e3).any())
    for column in ("row", "sent_s", "exit", "place", "correct", "uplink_bytes"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column), column)
    for column in ("latency_ms", "edge_ms", "network_ms", "cloud_ms"):
        np.testing.assert_allclose(getattr(found, column), getattr(expected, column), rtol=1e-6, atol=1e-3)


def inputs(**options: float) -> ReplayInputs:
    """An edge that takes 40 ms for all of it, a cloud 4 ms, a message of 1,000 bytes."""
    measured: Measured = plain_measured(edge_ms=40, cloud_ms=4, message_bytes=1_000, request_ms=1, offload_ms=1)
    limits = OffloadLimits(options.get("timeout_ms", 300.0), 20.0)
    return ReplayInputs(measured.table, {}, measured.profile, Link(1.0, rtt_ms=10.0), limits, 10_000.0)


def sent(seconds: float, per_s: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """Requests at even intervals, for some of the samples."""
    times_s = np.arange(0.1, seconds, 1 / per_s)
    return times_s, np.arange(len(times_s)) % 40


def adaptive(scene: ReplayInputs, **options: float) -> Replanner:
    candidates = Candidates.given([LOCAL, SENT], scene.table, scene.profile)
    return Replanner(candidates, scene.profile, Link(2.0, rtt_ms=10.0), Adaptation(0.0, **options), 0.0)  # type: ignore[arg-type]


def test_the_ways_of_single_requests_by_hand() -> None:
    scene = inputs()
    one = (np.array([0.5]), np.array([3]))
    local = replay(Fixed(LOCAL), scene, ConstantRate(2.0), *one).records
    assert (local.latency_ms[0], local.place[0]) == (pytest.approx(41), EDGE)
    far = replay(Fixed(SENT), scene, ConstantRate(2.0), *one).records
    assert (far.latency_ms[0], far.place[0]) == (pytest.approx(1 + 1 + 4 + 10 + 4), CLOUD)
    late = replay(Fixed(SENT), scene, ConstantRate(0.01), *one).records
    # Given up after 300 ms; then the edge has yet to look at the input.
    assert (late.latency_ms[0], late.place[0]) == (pytest.approx(1 + 300 + 40), FALLBACK)


def test_a_codec_costs_its_times_and_saves_its_bytes() -> None:
    scene = inputs()
    profile = replace(scene.profile, codecs=(CodecCost(0, "png", 500, 3.0, 2.0),))
    scene = ReplayInputs(scene.table, {}, profile, scene.link, scene.limits, scene.patience_ms)
    found = replay(Fixed(Plan(0, NEVER, codec="png")), scene, ConstantRate(2.0), np.array([0.5]), np.array([3])).records
    assert found.latency_ms[0] == pytest.approx(1 + 3 + 1 + 2 + 10 + 2 + 4)
    assert found.uplink_bytes[0] == 500


def outage(scene: ReplayInputs, silent_s: float) -> tuple[Replayed, Replayed, Replayed]:
    """Over a link that is good for 20 s, dead for *silent_s* and good again: one that adapts, and both fixed plans."""
    link = PiecewiseRate(np.array([20.0, 20.0 + silent_s, 60.0 + silent_s]), np.array([5.0, 0.0, 5.0]))
    way = (scene, link, *sent(40 + silent_s))
    return replay(adaptive(scene, deadline_ms=200.0), *way), replay(Fixed(LOCAL), *way), replay(Fixed(SENT), *way)


def test_an_outage_is_left_after_a_request_or_two_and_its_end_is_found() -> None:
    found, alone, cloud = outage(inputs(), 10.0)
    sent_s = found.records.sent_s

    def plans(first_s: float, last_s: float) -> set[Plan]:
        return {plan for plan, at_s in zip(found.plans, sent_s, strict=True) if first_s <= at_s < last_s}

    assert plans(2, 20) == plans(42, 50) == {SENT}
    assert plans(21, 30) == {LOCAL}
    missed = [(run.records.place == FALLBACK).sum() for run in (found, cloud)]
    assert missed[0] <= 3 < missed[1]
    assert found.records.latency_ms.mean() < min(run.records.latency_ms.mean() for run in (alone, cloud))
    assert 2 <= found.changes <= 4
    assert 0 < found.probes < 15
    assert found.probe_bytes == 1_000 * found.probes
    assert (cloud.changes, cloud.probes) == (0, 0)


@pytest.mark.parametrize("after_s", [0.01, 10.0])
def test_where_no_answer_can_be_in_time_the_edge_answers_at_once(after_s: float) -> None:
    scene = inputs()
    # Half a minute in which a message takes 400 ms.
    link = PiecewiseRate(np.array([after_s, after_s + 30.0, 90.0]), np.array([5.0, 0.02, 5.0]))
    way = (scene, link, *sent(60))
    knowing, trusting = replay(Fixed(SENT), *way).records, replay(Fixed(SENT, times=None), *way).records
    slow = (knowing.sent_s > after_s + 1) & (knowing.sent_s < after_s + 29)
    assert (trusting.place[slow] == FALLBACK).all()
    assert (trusting.uplink_bytes[slow] > 0).all()
    assert (trusting.latency_ms[slow] > 300).all()
    at_once = slow & (knowing.uplink_bytes == 0)
    assert (knowing.place[slow] == FALLBACK).all()
    assert at_once.sum() > 0.8 * slow.sum(), "one request a second at most finds out"
    assert knowing.latency_ms[at_once].max() < 100
    assert (knowing.network_ms[at_once] == 0).all()
    mended = knowing.sent_s > after_s + 42
    assert (knowing.place[mended] == CLOUD).all(), "and a link that mended is found"


def test_what_is_told_to_who_chooses_is_what_happened() -> None:
    told = []

    class Listening(Fixed):
        def answered(self, now_s: float, sent_bytes: float, network_ms: float, queue_ms: float) -> None:
            told.append((round(now_s, 6), sent_bytes, round(network_ms, 6), round(queue_ms, 6)))

    # Two at once: the second one waits for the link and then for the cloud no more.
    replay(Listening(SENT), inputs(), ConstantRate(2.0), np.array([1.0, 1.0]), np.array([0, 1]))
    assert told == [(1.02, 1_000, 15.0, 0.0), (1.024, 1_000, 19.0, 0.0)]


def test_records_are_of_the_kinds_that_others_have() -> None:
    found = replay(Fixed(LOCAL), inputs(), ConstantRate(1.0), *sent(2)).records
    other = simulate_cloud(Scenario(), plain_measured(edge_ms=1.0), 0, [ConstantRate(1.0)])
    for name, column in found.columns().items():
        assert column.dtype == other.columns()[name].dtype, name
