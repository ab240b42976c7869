"""Points of a sweep, the two halves of the samples, and what is simulated on which."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sweep_examples import BASE, OWN, SAMPLES, measured, times

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable, RuleResult
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.exits.threshold_search import screen
from branchynet.placement.plan import Plan
from simulations.model.scenario import EdgeGroup, LinkModel, Markov, PlanModel, Scenario, Workload
from simulations.model.simulator import simulate
from simulations.sweep import sweep
from simulations.sweep.axes import parse_axes
from simulations.sweep.results import BASELINES
from simulations.sweep.sweep import Halves, Point, compare, points_of, run_points, screened_rules

HALVES = Halves.of(measured())


def points(*texts: str, base: Scenario = BASE, halves: Halves = HALVES) -> list[Point]:
    return points_of(parse_axes(texts), base, halves)


def rows_of(table: OutcomeTable) -> set[bytes]:
    return {table.logits[:, index].tobytes() for index in range(len(table.labels))}


def test_every_sample_is_in_one_half() -> None:
    whole = measured().table
    selection, reported = rows_of(HALVES.selection), rows_of(HALVES.reported.table)
    assert len(selection) == len(reported) == SAMPLES // 2
    assert not selection & reported
    assert selection | reported == rows_of(whole)
    assert HALVES.selection.labels.tolist() == whole.labels[::2].tolist()
    assert HALVES.reported.table.labels.tolist() == whole.labels[1::2].tolist()


def test_one_sample_cannot_be_parted() -> None:
    alone = measured()
    with pytest.raises(InvalidInput, match="1 samples"):
        Halves.of(replace(alone, table=alone.table.take(np.array([0]))))


def test_no_selection_sample_is_simulated_and_no_reported_one_judges() -> None:
    """Every exit is right about the even samples and wrong about the odd ones."""
    original = measured()
    logits = np.zeros_like(original.table.logits)
    labels = original.table.labels
    right = np.arange(SAMPLES) % 2 == 0
    logits[:, np.arange(SAMPLES), np.where(right, labels, (labels + 1) % 10)] = 5
    halves = Halves.of(replace(original, table=replace(original.table, logits=logits)))
    rows = run_points(points("uplink=0.25,50", "cut=*", "threshold=0,0.7,5", halves=halves), halves)
    assert {row.accuracy for row in rows} == {0.0}
    assert {row.selection_accuracy for row in rows} == {1.0}


def test_rules_are_screened_on_the_selection_half_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[OutcomeTable] = []

    def watched(table: OutcomeTable, criterion: Criterion, per_exit: int) -> list[RuleResult]:
        seen.append(table)
        return screen(table, criterion, per_exit)

    monkeypatch.setattr(sweep, "screen", watched)
    points("threshold=*")
    assert [table is HALVES.selection for table in seen] == [True]


def test_the_chosen_rules_hold_the_own_one_and_the_most_accurate() -> None:
    table = HALVES.selection
    rules = screened_rules(table, OWN.rule)
    assert rules[0] == OWN.rule
    assert 2 <= len(rules) <= 8
    assert all(rule.criterion is Criterion.ENTROPY for rule in rules)
    taken = [table.exit_of(rule).tobytes() for rule in rules]
    assert len(set(taken)) == len(taken)
    best = max(table.apply(ExitRule(Criterion.ENTROPY, (value,))).accuracy for value in np.linspace(0, 2.4, 500))
    assert max(table.apply(rule).accuracy for rule in rules) >= best


@pytest.mark.parametrize("exits", [1, 3, 5])
def test_networks_with_fewer_and_more_exits_are_screened(exits: int) -> None:
    rng = np.random.default_rng(1)
    table = OutcomeTable(
        rng.normal(size=(exits, 60, 4)).astype(np.float32), rng.integers(4, size=60), np.arange(exits) + 1.0
    )
    rules = screened_rules(table, ExitRule(Criterion.MARGIN, (0.3,) * (exits - 1)))
    assert 1 <= len(rules) <= 8


def test_every_link_has_every_baseline_whatever_was_asked() -> None:
    for asked in (("cut=2", "threshold=0.1"), ("cut=*", "threshold=*"), ("threshold=0.7",)):
        found = points("uplink=1,10", "rtt=5,50", *asked)
        for uplink in (1, 10):
            for rtt in (5, 50):
                here = [p for p in found if (p.setting.uplink_mbps, p.setting.rtt_ms) == (uplink, rtt)]
                named = {point.name: point.plan for point in here if point.name}
                assert named == {
                    "edge only": Plan(1, OWN.rule, edge_only=True),
                    "cloud only": Plan(0, OWN.rule),
                    "today's plan": OWN,
                }
                assert len({point.plan for point in here}) == len(here)


def test_the_plans_are_all_combinations() -> None:
    found = points("cut=*", "threshold=0.1,0.2")
    swept = {(point.plan.cut, point.plan.rule.thresholds) for point in found if not point.name}
    assert swept == {(cut, (threshold,)) for cut in (0, 1, 2) for threshold in (0.1, 0.2)}
    assert len(found) == 3 + 6


def test_rules_that_send_every_sample_the_same_way_are_tried_once() -> None:
    found = points("threshold=-2,-1,50,60")
    assert [point.plan.rule.thresholds for point in found if not point.name] == [(-2.0,), (50.0,)]


def test_a_point_is_the_scenario_with_its_values() -> None:
    base = Scenario(clouds=2, edges=4, seed=7, link=LinkModel(downlink_mbps=9))
    (point,) = [
        point
        for point in points("uplink=3", "rtt=11", "cut=2", "edges=6", "rate=2", "slowdown=5", "max_batch=8", base=base)
        if not point.name
    ]
    scenario = point.scenario
    assert (scenario.clouds, scenario.seed, scenario.link.downlink_mbps) == (2, 7, 9)
    assert (scenario.link.uplink_mbps, scenario.link.rtt_ms, scenario.edges) == (3, 11, 6)
    assert (scenario.workload.rate_per_s, scenario.edge.slowdown, scenario.cloud.max_batch) == (2, 5, 8)
    assert scenario.plan == PlanModel(cut=2, criterion=Criterion.ENTROPY, thresholds=(0.7,))
    assert Scenario.model_validate(scenario.model_dump()) == scenario


def test_a_link_that_varies_stays_unless_the_uplink_is_swept() -> None:
    base = BASE.model_copy(update={"link": LinkModel(uplink_mbps=Markov(states=(1, 20), mean_stay_s=(1, 1)))})
    assert {type(point.scenario.link.uplink_mbps) for point in points("rtt=5,10", base=base)} == {Markov}
    assert all(1 < point.setting.uplink_mbps < 20 for point in points("rtt=5", base=base))
    assert {point.scenario.link.uplink_mbps for point in points("uplink=2,4", base=base)} == {2.0, 4.0}


@pytest.mark.parametrize(
    ("texts", "base", "named"),
    [
        (("cut=3",), BASE, "cut is 3; this network has cuts 0 to 2"),
        (("edges=1",), Scenario(edges=2, clouds=2), "edges is 1, for 2 clouds"),
        (("uplink=1:2:lin1000", "rtt=1:2:lin1000"), BASE, "more than 100000 points"),
    ],
)
def test_refusals(texts: tuple[str, ...], base: Scenario, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        points(*texts, base=base)


def test_a_row_holds_what_the_simulation_says() -> None:
    (point,) = [point for point in points("uplink=1", "cut=1") if point.name == "today's plan"]
    (row,) = run_points([point], HALVES)
    records = simulate(point.scenario, HALVES.reported)
    assert row.accuracy == records.correct.mean()
    assert row.mean_ms == pytest.approx(records.latency_ms.mean(), abs=1e-3)
    assert row.uplink_bytes == pytest.approx(records.uplink_bytes.mean(), abs=1e-3)
    assert row.edge_share + row.cloud_share + row.fallback_share == pytest.approx(1)
    assert row.p50_ms <= row.p95_ms <= row.p99_ms
    assert row.selection_accuracy == HALVES.selection.apply(OWN.rule).accuracy


def test_accuracy_is_judged_with_the_fallbacks_that_happen() -> None:
    """A round trip that is longer than the patience: every offload fails, so the first exit answers all."""
    rows = {row.name: row for row in run_points(points("rtt=5000"), HALVES)}
    cut = rows["today's plan"]
    assert cut.fallback_share > 0
    assert cut.cloud_share == 0
    assert cut.selection_accuracy == HALVES.selection.correct[0].mean()
    assert cut.selection_accuracy == rows["edge only"].selection_accuracy


def test_the_seed_makes_the_requests() -> None:
    again = [run_points(points("cut=*", base=BASE.model_copy(update={"seed": seed})), HALVES) for seed in (1, 1, 2)]
    assert again[0] == again[1]
    assert again[0] != again[2]


def test_a_slower_edge_makes_the_whole_network_there_slower() -> None:
    rows = [row for row in run_points(points("cut=2", "slowdown=1,4"), HALVES) if not row.name]
    assert rows[1].mean_ms > 2 * rows[0].mean_ms
    assert rows[0].uplink_bytes == rows[1].uplink_bytes == 0


def test_one_scenario_beside_the_baselines() -> None:
    whole = measured()
    plain = compare(BASE, whole)
    assert list(plain) == ["today's plan", "edge only", "cloud only"]
    other = compare(Scenario(workload=Workload(requests=50), plan=PlanModel(cut=2)), whole)
    assert list(other) == ["the scenario's plan", *BASELINES]
    assert other["the scenario's plan"].uplink_bytes.sum() == 0
    assert {tuple(records.row) for records in other.values()} == {tuple(other["edge only"].row)}


def test_all_samples_are_simulated_when_nothing_is_chosen() -> None:
    many = Scenario(workload=Workload(requests=5_000))
    assert len(np.unique(compare(many, measured())["today's plan"].row)) == SAMPLES


def test_all_cuts_leave_out_those_before_the_first_exit() -> None:
    """Three stages, exits behind the last two: an edge with the first alone could answer nothing."""
    plain = measured()
    profile = replace(
        plain.profile,
        edge=times(1, 2, 10),
        cloud=times(0.2, 0.5, 2.5),
        exit_stages=(1, 2),
        held=2,
        message_bytes=(900, 4_700, 4_700),
    )
    late = Halves.of(replace(plain, profile=profile, own_plan=replace(OWN, cut=2)))
    assert {point.plan.cut for point in points("cut=*", halves=late)} == {0, 2, 3}
    run_points(points("cut=*", halves=late), late)
    with pytest.raises(InvalidInput, match=r"stages \[0, 1\) have no exit"):
        run_points(points("cut=1", halves=late), late)


def test_a_sweep_has_no_codecs_and_no_groups() -> None:
    with pytest.raises(InvalidInput, match="codec is 'jpeg' at cut 0; here it can only be 'raw'"):
        points("rtt=5", base=BASE.replaced(plan=PlanModel(cut=0, codec="jpeg")))
    with pytest.raises(InvalidInput, match="2 groups of edges; the edges of a sweep are alike"):
        points("rtt=5", base=Scenario(groups=(EdgeGroup(), EdgeGroup(slowdown=2))))
