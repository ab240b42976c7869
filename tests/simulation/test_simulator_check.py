"""What counts as agreement of real nodes and the simulator."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scenes import plain_measured

from orchestrator.runs.simulator_check import Comparison
from simulations.model.scenario import Scenario, Workload
from simulations.model.simulator import simulate

SCENARIO = Scenario(workload=Workload(requests=50))
SAME = simulate(SCENARIO, plain_measured())


def test_the_same_agrees() -> None:
    assert Comparison(SCENARIO, SAME, SAME).agrees


@pytest.mark.parametrize("column", ["exit", "place", "uplink_bytes"])
def test_one_request_that_went_another_way_is_seen(column: str) -> None:
    values = getattr(SAME, column).copy()
    values[3] += 1
    assert not Comparison(SCENARIO, SAME, replace(SAME, **{column: values})).agrees


@pytest.mark.parametrize(("times", "agrees"), [(0.8, False), (0.91, True), (1.09, True), (1.2, False)])
def test_a_mean_latency_may_be_a_tenth_off_to_either_side(times: float, agrees: bool) -> None:
    compared = Comparison(SCENARIO, SAME, replace(SAME, latency_ms=SAME.latency_ms * times))
    assert compared.deviation == pytest.approx(times - 1)
    assert compared.agrees is agrees
