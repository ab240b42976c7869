"""The frontier of thresholds against brute force, and what a request that cannot be met is told."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import many, scorings, seeded, some
from test_outcomes import random_table

from branchynet.errors import InvalidInput
from branchynet.exits import threshold_search
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import LOGIT_CRITERIA, Criterion, ExitRule
from branchynet.exits.threshold_search import (
    distinct_thresholds,
    frontier,
    pareto_front,
    select,
    select_within,
)


def brute_force(table, rule, fixed):
    """Every combination of thresholds that differs on *table*, applied one by one."""
    scores = table.scores(rule)[:-1]
    axes = [
        [fixed[number]] if number in fixed else distinct_thresholds(of_exit, rule.criterion)
        for number, of_exit in enumerate(scores)
    ]
    return pareto_front([table.apply(rule.with_thresholds(values)) for values in itertools.product(*axes)])


def points(front):
    return [(pytest.approx(rule.accuracy), pytest.approx(rule.cost)) for rule in front]


def plain(front):
    return [(rule.accuracy, rule.cost) for rule in front]


@given(st.data(), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32))
@some
def test_nothing_beats_the_frontier_whatever_the_thresholds(data, exits, samples, seed):
    table = random_table(exits, samples, seed=seed)
    rule = data.draw(scorings(exits, 4))
    fixed = {}
    if exits > 1 and data.draw(st.booleans()):
        number = data.draw(st.integers(0, exits - 2))
        fixed = {number: data.draw(st.sampled_from(table.scores(rule)[number].tolist()))}
    front = frontier(table, rule, fixed)
    assert plain(front) == points(brute_force(table, rule, fixed))
    for found in front:
        applied = table.apply(found.rule)
        assert (found.accuracy, found.cost) == (pytest.approx(applied.accuracy), pytest.approx(applied.cost))
        assert found.exit_shares == pytest.approx(applied.exit_shares)
        assert all(found.rule.thresholds[number] == value for number, value in fixed.items())


@given(st.integers(3, 5), st.integers(1, 25), st.integers(0, 2**32))
@some
def test_no_change_of_one_threshold_beats_what_the_local_search_finds(exits, samples, seed):
    table = random_table(exits, samples, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threshold_search, "MAX_LINES", 0)
        front = frontier(table, Criterion.MARGIN)
    assert plain(pareto_front(front)) == plain(front), "members beat each other"
    scores = table.scores(Criterion.MARGIN)
    neighbours = [
        table.apply(found.rule.with_thresholds((*found.rule.thresholds[:i], value, *found.rule.thresholds[i + 1 :])))
        for found in front[:: max(1, len(front) // 3)]
        for i in range(exits - 1)
        for value in distinct_thresholds(scores[i], Criterion.MARGIN)
    ]
    best_right = {round(found.accuracy * samples): found.cost for found in front}
    for one in neighbours:
        cheapest = min(cost for right, cost in best_right.items() if right >= round(one.accuracy * samples))
        assert one.cost >= cheapest * (1 - 1e-9)


def alike(exits, samples, seed):
    """Exits of one network: each knows what the one before it knew, and more."""
    generator = seeded(seed)
    labels = generator.integers(0, 4, samples)
    noise = generator.normal(0, 1, (exits, samples, 4)).cumsum(axis=0)[::-1]
    logits = 3 * np.eye(4)[labels] + noise
    return OutcomeTable(logits.astype(np.float32), labels, np.arange(1.0, exits + 1))


def test_the_local_search_comes_as_far_as_the_exact_one(monkeypatch):
    table = alike(4, 40, seed=1)
    exact = frontier(table, Criterion.ENTROPY)
    monkeypatch.setattr(threshold_search, "MAX_LINES", 41**2 - 1)
    local = frontier(table, Criterion.ENTROPY)
    assert len(exact) > 5
    assert plain(local) == points(exact)


def test_three_exits_of_thousands_of_samples_are_searched_exactly():
    table = alike(3, 1_500, seed=2)
    front = frontier(table, Criterion.ENTROPY)
    # 2 million combinations; a grid of 2,500 of them finds nothing better.
    for found in threshold_search.screen(table, Criterion.ENTROPY, 50)[::7]:
        assert min(rule.cost for rule in front if rule.accuracy >= found.accuracy) <= found.cost * (1 + 1e-12)
    assert [rule.cost for rule in front] == sorted(rule.cost for rule in front)


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
@given(scores=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=12).map(np.array))
@many
def test_distinct_thresholds_part_the_scores_in_every_way(criterion, scores):
    thresholds = distinct_thresholds(scores, criterion)
    leavers = [criterion.confident(scores, float(threshold)) for threshold in thresholds]
    assert [int(leaving.sum()) for leaving in leavers] == sorted({int(leaving.sum()) for leaving in leavers})
    assert len(leavers) == len(set(scores)) + 1
    assert not leavers[0].any()
    assert leavers[-1].all()


def test_neighbours_without_a_number_between_them_are_told_apart():
    scores = np.array([0.5, np.nextafter(0.5, 1)])
    for criterion in LOGIT_CRITERIA:
        thresholds = distinct_thresholds(scores, criterion)
        assert [int(criterion.confident(scores, float(threshold)).sum()) for threshold in thresholds] == [0, 1, 2]


def test_patience_is_searched_in_whole_numbers():
    table = random_table(4, 60, classes=2, seed=3)
    for found in frontier(table, Criterion.PATIENCE):
        assert set(found.rule.thresholds) <= {0, 1, 2, 3}


def test_the_whole_front_can_be_asked_within_a_budget():
    table = random_table(3, 80, seed=4)
    front = frontier(table, Criterion.MARGIN)
    for budget in (front[0].cost, front[3].cost, 0.5 * (front[2].cost + front[3].cost), front[-1].cost + 1):
        chosen = select_within(front, budget)
        affordable = [rule for rule in front if rule.cost <= budget]
        assert chosen in affordable
        assert chosen.accuracy == max(rule.accuracy for rule in affordable)


def test_a_budget_in_milliseconds_is_a_table_with_other_costs():
    table = replace(random_table(3, 80, seed=4), costs=np.array([0.5, 2.0, 9.0]))
    chosen = select_within(frontier(table, Criterion.MARGIN), 3.0)
    assert chosen.cost == pytest.approx(np.array(chosen.exit_shares) @ [0.5, 2.0, 9.0])
    assert chosen.cost <= 3.0


def test_what_cannot_be_met_is_answered_with_the_best_there_is():
    table = random_table(2, 50, seed=5)
    front = frontier(table, Criterion.MARGIN)
    with pytest.raises(InvalidInput, match=f"keeps to a mean cost of 0.5; the cheapest one takes {front[0].cost:,.6g}"):
        select_within(front, 0.5)
    with pytest.raises(InvalidInput, match=f"reaches accuracy 1.0000; the best one reaches {front[-1].accuracy:.4f}"):
        select(front, 1.0)


@pytest.mark.parametrize("number", [-1, 2, 5])
def test_an_exit_without_a_threshold_cannot_be_fixed(number):
    with pytest.raises(InvalidInput, match=f"exit {number} has no threshold; exits 0 to 1 of 3 do"):
        frontier(random_table(3, 5), Criterion.MARGIN, {number: 0.5})


def test_a_table_without_costs_has_the_most_accurate_rule():
    table = replace(random_table(2, 20, seed=6), costs=np.zeros(2))
    (best,) = frontier(table, Criterion.MARGIN)
    assert best.accuracy == max(found.accuracy for found in brute_force(table, ExitRule("margin", (1.0,)), {}))
