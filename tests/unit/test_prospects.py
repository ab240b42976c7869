"""What a request is expected to take over a link that is believed in: by hand, and as on a link that is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from test_adaptation import CANDIDATES, PROFILE

from branchynet.placement.latency_forecast import LatencyForecast, LinkState
from branchynet.placement.link_estimator import LinkEstimate
from branchynet.placement.optimise import evaluate
from branchynet.placement.serving_profile import Link

MBPS, RTT_MS = 2.0, 60.0
SURE = LinkEstimate((RTT_MS, 8e-3 / MBPS), ((0.0, 0.0), (0.0, 0.0)), 0.0, 9)
PROSPECTS = LatencyForecast(CANDIDATES, PROFILE)


def by_plan():
    """Shares, busy, total and offloaded times of each plan, by exit, over the link as it is."""
    link = Link(MBPS, rtt_ms=RTT_MS)
    for row in range(len(CANDIDATES)):
        plan = CANDIDATES.plan(row)
        costs = PROFILE.costs_by_exit(plan.cut, plan.codec, link, edge_only=plan.edge_only)
        yield CANDIDATES.shares[row], costs.busy_ms, costs.busy_ms + costs.waiting_ms, costs.uplink_bytes > 0


def test_over_a_link_that_is_known_it_is_what_placement_says():
    known = evaluate(CANDIDATES, PROFILE, Link(MBPS, rtt_ms=RTT_MS), cloud_queue_ms=7.0)
    link_state = LinkState(SURE, cloud_queue_ms=7.0)
    np.testing.assert_allclose(PROSPECTS.expected_ms(link_state), known.mean_ms, rtol=1e-12)
    np.testing.assert_allclose(PROSPECTS.uplink_bytes, known.uplink_bytes, rtol=1e-12)


def test_who_misses_the_deadline_counts_one_deadline_more():
    deadline_ms = 150.0
    expected = [(shares * (times + deadline_ms * (times > deadline_ms))).sum() for shares, _, times, _ in by_plan()]
    np.testing.assert_allclose(PROSPECTS.expected_ms(LinkState(SURE), deadline_ms), expected, rtol=1e-9)


def test_an_answer_that_may_not_come_is_waited_for_and_counts_as_late():
    deadline_ms, risk, waited_ms = 1e6, 0.25, 2_000.0
    expected = [
        (shares * (times + sent * risk * np.maximum(waited_ms - times, 0))).sum()
        for shares, _, times, sent in by_plan()
    ]
    link_state = LinkState(SURE, risk=risk, given_up_ms=waited_ms)
    np.testing.assert_allclose(PROSPECTS.expected_ms(link_state), expected, rtol=1e-9)
    lost = [risk * (shares * sent).sum() for shares, _, _, sent in by_plan()]
    late = PROSPECTS.expected_ms(link_state, deadline_ms) - PROSPECTS.expected_ms(link_state)
    np.testing.assert_allclose(late, deadline_ms * np.array(lost), atol=1e-6)


def test_a_link_that_is_hardly_known_makes_being_late_likely():
    unsure = replace(SURE, covariance=((900.0, 0.0), (0.0, (2e-3) ** 2)))
    (shares, _, times, _), row = next((plan, row) for row, plan in enumerate(by_plan()) if plan[3].all())
    deadline_ms = float(times[-1]) + 20.0
    size = PROSPECTS.uplink_bytes[row]
    std_ms = math.sqrt(900.0 + (size * 2e-3) ** 2)
    late = sum(
        share * 0.5 * math.erfc((deadline_ms - time_ms) / std_ms / math.sqrt(2))
        for share, time_ms in zip(shares, times, strict=True)
    )
    found = PROSPECTS.expected_ms(LinkState(unsure), deadline_ms)[row] - PROSPECTS.expected_ms(LinkState(unsure))[row]
    assert found == pytest.approx(deadline_ms * late, rel=1e-6)


def test_requests_wait_for_the_edge_as_in_a_queue_of_random_arrivals():
    per_ms = 4e-3
    waits = []
    for shares, busy, _, sent in by_plan():
        work = busy - PROFILE.request_ms - PROFILE.offload_ms * sent
        load = min(per_ms * (shares * work).sum(), 0.95)
        waits.append(per_ms * (shares * work**2).sum() / (2 * (1 - load)))
    found = PROSPECTS.expected_ms(LinkState(SURE, requests_per_s=4.0)) - PROSPECTS.expected_ms(LinkState(SURE))
    np.testing.assert_allclose(found, waits, rtol=1e-9)
    assert max(waits) > 1
