"""Planning against the simulator, when requests come so rarely that none waits for another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from scenes import SAMPLES, Scene, scenes

from branchynet.placement.candidates import Candidates
from branchynet.placement.optimise import evaluate
from branchynet.placement.serving_profile import Link
from simulations.model.request_records import CLOUD
from simulations.model.scenario import PlanModel, Scenario
from simulations.model.simulator import simulate


def unhurried(scene: Scene) -> Scenario:
    """The same devices, round trip and downlink; one edge, a constant uplink, an hour between requests, no deadline."""
    return Scenario.model_validate(
        {
            "workload": {"arrivals": "periodic", "rate_per_s": 1 / 3_600, "requests": SAMPLES},
            "link": {
                "uplink_mbps": 3.0,
                "downlink_mbps": scene.scenario.link.downlink_mbps,
                "rtt_ms": scene.scenario.link.rtt_ms,
            },
            "plan": {"cut": 0},
            "limits": {"deadline_ms": 1e12, "offload_timeout_ms": 1e12},
            "edge": {"slowdown": 2.0},
            "cloud": {"slowdown": 0.5},
        }
    )


@given(scenes())
@settings(deadline=None, max_examples=15)
def test_means_tail_and_bytes_are_the_simulators(scene: Scene) -> None:
    measured, scenario = scene.measured, unhurried(scene)
    profile = measured.profile
    drawn = simulate(scenario, measured).row.astype(np.int64)
    found = Candidates.of(measured.table.take(drawn), measured.own_plan.rule, profile, rules=9)
    devices = replace(profile, edge=profile.edge.slower(2.0), cloud=profile.cloud.slower(0.5))
    link = Link(3.0, scenario.link.downlink_mbps, scenario.link.rtt_ms)
    measures = evaluate(found, devices, link, tail=0.9)
    # The simulator reckons in seconds from the start; a day and a half later a float64 of them ends at 3e-8 ms.
    rounding_ms = 1e-6
    for index in range(len(found)):
        records = simulate(scenario.replaced(plan=PlanModel.of(found.plan(index))), measured)
        sent = records.place == CLOUD
        assert records.latency_ms.mean() == pytest.approx(measures.mean_ms[index], abs=rounding_ms)
        in_order = np.sort(records.latency_ms)
        assert in_order[round(0.9 * SAMPLES) - 1] == pytest.approx(measures.tail_ms[index], abs=rounding_ms)
        bytes_of_each = records.uplink_bytes + profile.framing_bytes * sent
        assert bytes_of_each.mean() == pytest.approx(measures.uplink_bytes[index])
        assert records.cloud_ms.mean() == pytest.approx(measures.cloud_ms[index], abs=rounding_ms)
        assert records.correct.mean() == pytest.approx(found.accuracy[index])
