"""Which plans are considered: nothing that could win is missing, and nothing is there twice."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from network_examples import many, some
from placement_examples import scenes
from test_outcomes import random_table

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.placement.candidates import Candidates, undominated
from branchynet.placement.optimise import Constraints, best, evaluate
from branchynet.placement.plan import Plan
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile, StageTimes

TIMES = StageTimes((1,), ((1.0,), (2.0,), (4.0,), (8.0,)))
CODECS = (CodecCost(1, "uint8", 300, 0.5, 0.25), CodecCost(0, "jpeg", 90, 1.0, 1.0))
PROFILE = ServingProfile(TIMES, TIMES.slower(0.1), (0, 2, 3), 3, 0.5, 1.5, (784, 4_704, 900, 90), 100, 60, CODECS)
TABLE = random_table(3, 30, seed=1)
NEVER = ExitRule.never(3)


def names(candidates):
    return [(way.cut, way.codec, way.edge_only) for way in candidates.ways]


def test_every_way_is_considered():
    found = Candidates.of(TABLE, NEVER, PROFILE, {(1, "uint8"): TABLE, (0, "jpeg"): random_table(3, 30, seed=1)})
    plain = [(3, "fp32", True), (0, "raw", False), (1, "fp32", False), (2, "fp32", False), (3, "fp32", False)]
    assert names(found) == [*plain, (1, "uint8", False), (0, "jpeg", False)]
    assert found.local_exits.tolist() == [1, 1, 0, 0, 1, 0, 1]
    assert (np.diff(found.way) >= 0).all()
    assert set(found.way.tolist()) == set(range(7))


def test_the_caller_may_name_the_cuts():
    assert names(Candidates.of(TABLE, NEVER, PROFILE, cuts=[2])) == [
        (3, "fp32", True),
        (0, "raw", False),
        (2, "fp32", False),
    ]


def test_an_edge_that_holds_everything_sends_nothing_behind_the_last_stage():
    found = Candidates.of(TABLE, NEVER, replace(PROFILE, held=4))
    assert [name for name in names(found) if name[0] >= 3] == [(4, "fp32", True), (3, "fp32", False)]


def test_a_network_without_exits_has_one_plan_for_each_cut():
    profile = ServingProfile(TIMES, TIMES, (3,), 4, 0.0, 0.0, (784, 4_704, 900, 90), 0, 0)
    found = Candidates.of(random_table(1, 9), Criterion.ENTROPY, profile)
    assert [found.plan(index) for index in range(len(found))] == [
        Plan(4, ExitRule.never(1), edge_only=True),
        Plan(0, ExitRule.never(1)),
    ]


@given(scenes())
@some
def test_shares_and_accuracy_are_those_of_the_plans(scene):
    found = scene.candidates()
    for index in range(len(found)):
        plan = found.plan(index)
        result = scene.outcomes(plan).apply(plan.rule)
        assert found.shares[index].tolist() == pytest.approx(result.exit_shares)
        assert found.accuracy[index] == pytest.approx(result.accuracy)
        assert plan.rule == scene.rule.with_thresholds(plan.rule.thresholds)


@given(scenes())
@some
def test_no_plan_is_there_for_nothing(scene):
    found = scene.candidates()
    passed = 1 - np.cumsum(found.shares, axis=1)[:, :-1]
    for way in range(len(found.ways)):
        points = np.column_stack([-found.accuracy, passed])[found.way == way].round(9)
        assert len(undominated(points)) == len(points)


@pytest.mark.parametrize("rules", [1, 9, 400])
def test_few_rules_are_spread_and_the_callers_own_is_among_them(rules):
    table = random_table(3, 500, seed=2)
    scores = table.scores(Criterion.MARGIN)
    own = ExitRule(Criterion.MARGIN, tuple(float(np.quantile(of_exit, 0.37)) for of_exit in scores[:-1]))
    found = Candidates.of(table, own, PROFILE, rules=rules)
    here = found.way == 1
    assert here.sum() <= (round(rules**0.5) + 1) ** 2
    result = table.apply(own)
    passed = 1 - np.cumsum(found.shares[here], axis=1)[:, :-1]
    own_passed = 1 - np.cumsum(result.exit_shares)[:-1]
    as_good = (found.accuracy[here] >= result.accuracy - 1e-12) & (passed <= own_passed + 1e-12).all(axis=1)
    assert as_good.any()


@pytest.mark.parametrize("rules", [1, 7, 30, 200])
def test_as_many_rules_are_tried_as_asked_for_or_as_there_are(rules):
    # The first exit is always wrong and the last one right, so each threshold is the cheapest of its accuracy.
    logits = np.zeros((2, 30, 2), np.float32)
    logits[0, :, 1] = np.linspace(1, 3, 30)
    logits[1, :, 0] = 9
    table = OutcomeTable(logits, np.zeros(30, np.int64), np.ones(2))
    profile = ServingProfile(TIMES, TIMES, (0, 3), 1, 0.0, 0.0, (784, 4_704, 900, 90), 0, 0)
    found = Candidates.of(table, Criterion.MARGIN, profile, rules=rules)
    assert np.bincount(found.way).tolist() == [1, min(rules, 31), min(rules, 31)]


points = arrays.arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.integers(0, 3))


@given(points)
@many
def test_undominated_rows_are_those_that_no_other_is_as_small_as(rows):
    kept = undominated(rows).tolist()
    first_of_its_kind = [index for index, row in enumerate(rows.tolist()) if row not in rows[:index].tolist()]
    assert sorted(kept) == [
        index
        for index in first_of_its_kind
        if not any((rows[other] <= rows[index]).all() for other in first_of_its_kind if other != index)
    ]
    assert rows[kept].tolist() == sorted(rows[kept].tolist())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rules": 0}, "rules is 0; it must be 1 to 1000000"),
        ({"rules": 1_000_001}, "rules is 1000001"),
        ({"table": random_table(2, 30)}, "the outcomes are of 2 exits; the profile has 3"),
        ({"cuts": [4]}, "cut is 4; this edge may offload at 0, and from 1 to 3"),
        ({"cuts": [-1]}, "cut is -1"),
        ({"coded": {(4, "uint8"): TABLE}}, "cut is 4"),
        ({"coded": {(1, "fp32"): TABLE}}, "coded has 'fp32' at cut 1; that is no codec"),
        ({"coded": {(0, "raw"): TABLE}}, "coded has 'raw' at cut 0"),
        ({"coded": {(1, "uint8"): random_table(3, 31)}}, "with 'uint8' at cut 1 are not of the same samples and exits"),
        ({"coded": {(1, "uint8"): random_table(2, 30, seed=1)}}, "are not of the same samples and exits"),
        ({"rule": ExitRule.never(2)}, "the rule has 1 thresholds"),
        ({"profile": replace(PROFILE, exit_stages=(1, 2, 3), held=1)}, "no exit; the first one follows stage 1"),
        ({"profile": replace(PROFILE, exit_stages=(1, 2, 3)), "cuts": [1]}, "cut is 1; .* from 2 to 3"),
    ],
)
def test_what_cannot_be_planned_is_refused(changed, message):
    given_values = {"table": TABLE, "rule": NEVER, "profile": PROFILE, **changed}
    with pytest.raises(InvalidInput, match=message):
        Candidates.of(**given_values)


@given(scenes())
@some
def test_a_plan_that_is_given_is_judged_as_one_that_was_found(scene):
    found = scene.candidates()
    plans = [found.plan(index) for index in range(len(found))]
    as_given = Candidates.given(plans, scene.table, scene.profile, scene.coded)
    assert [as_given.plan(index) for index in range(len(plans))] == plans
    assert as_given.shares == pytest.approx(found.shares)
    assert as_given.accuracy == pytest.approx(found.accuracy)
    measured, known = scene.measures(as_given), scene.measures(found)
    for name in ("mean_ms", "tail_ms", "uplink_bytes", "joules"):
        assert measured.values(name) == pytest.approx(known.values(name))


def test_a_plan_that_is_given_may_be_a_bad_one():
    bad = Candidates.given([Plan(1, NEVER), Plan(4, NEVER)], TABLE, replace(PROFILE, held=4))
    assert bad.shares.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert bad.accuracy.tolist() == pytest.approx([TABLE.correct[-1].mean()] * 2)
    with pytest.raises(InvalidInput, match="held is 3"):
        Candidates.given([Plan(4, NEVER)], TABLE, PROFILE)


@some
@given(scenes(), st.floats(0, 1), st.floats(0.5, 50), st.floats(0, 200))
def test_of_the_accurate_plans_no_best_one_is_left_out(scene, floor, mbps, rtt_ms):
    candidates = Candidates.of(scene.table, scene.rule, scene.profile, scene.coded)
    if candidates.accuracy.max() < floor:
        with pytest.raises(InvalidInput, match="no plan has an accuracy of"):
            candidates.accurate(floor)
        return
    kept = candidates.accurate(floor)
    assert (kept.accuracy >= floor).all()
    assert len(kept) <= len(candidates)
    link, limits = Link(mbps, rtt_ms=rtt_ms), Constraints(min_accuracy=floor)
    for objective in ("mean_ms", "tail_ms", "uplink_bytes"):
        found, whole = (evaluate(plans, scene.profile, link) for plans in (kept, candidates))
        least = found.values(objective)[best(found, objective, limits)]
        assert least == pytest.approx(whole.values(objective)[best(whole, objective, limits)], rel=1e-9)


def test_some_of_the_plans_are_those_very_plans():
    candidates = Candidates.of(TABLE, NEVER, PROFILE)
    rows = np.array([0, len(candidates) - 1])
    kept = candidates.only(rows)
    assert [kept.plan(index) for index in range(2)] == [candidates.plan(int(row)) for row in rows]
    assert len(kept.ways) == 2
    np.testing.assert_array_equal(kept.shares, candidates.shares[rows])
