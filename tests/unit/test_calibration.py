"""Screening against the table itself, and the choice among what was screened."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import scorings, seeded, some
from test_outcomes import random_table

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable, RuleResult
from branchynet.exits.rules import LOGIT_CRITERIA, Criterion, ExitRule
from branchynet.exits.threshold_search import candidate_thresholds, pareto_front, screen, select

tables = st.builds(random_table, st.integers(1, 4), st.integers(1, 30), seed=st.integers(0, 2**32))


@given(table=tables, criterion=st.sampled_from(LOGIT_CRITERIA), per_exit=st.integers(1, 4))
@some
def test_every_screened_result_is_what_applying_its_rule_gives(table, criterion, per_exit):
    results = screen(table, criterion, per_exit)
    assert len({result.rule for result in results}) == len(results)
    for result in results:
        applied = table.apply(result.rule)
        assert result.rule.criterion is criterion
        assert result.accuracy == pytest.approx(applied.accuracy, abs=1e-12)
        assert result.exit_shares == pytest.approx(applied.exit_shares, abs=1e-12)
        assert result.cost == pytest.approx(applied.cost)


@given(scorings(3, 4), st.integers(0, 999))
@some
def test_screening_keeps_what_a_rule_knows_beside_its_thresholds(rule, seed):
    table = random_table(3, 20, seed=seed)
    for result in screen(table, rule, 3):
        assert result.rule == rule.with_thresholds(result.rule.thresholds)
        assert result.accuracy == pytest.approx(table.apply(result.rule).accuracy)


@given(table=tables, criterion=st.sampled_from(LOGIT_CRITERIA))
@some
def test_screening_tries_every_combination_of_candidates(table, criterion):
    axes = [set(candidate_thresholds(scores, criterion, 4)) for scores in table.scores(criterion)[:-1]]
    screened = {result.rule.thresholds for result in screen(table, criterion, 4)}
    assert len(screened) == math.prod(map(len, axes))
    assert all(value in axis for thresholds in screened for value, axis in zip(thresholds, axes, strict=True))


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
def test_candidates_span_the_scores_and_include_never(criterion):
    scores = seeded(1).uniform(0.2, 1, 1000)
    candidates = candidate_thresholds(scores, criterion, 5)
    assert candidates[0] == criterion.never
    np.testing.assert_allclose(candidates[1:], np.quantile(scores, [0, 0.25, 0.5, 0.75, 1]))


def test_too_many_rules_are_refused_before_they_are_tried():
    with pytest.raises(InvalidInput, match="1000000 rules"):
        screen(random_table(4, 5), Criterion.ENTROPY, per_exit=100)


def result(accuracy, cost):
    return RuleResult(ExitRule(Criterion.ENTROPY, (cost,)), accuracy, (0.5, 0.5), cost)


results = st.lists(st.builds(result, st.sampled_from(np.linspace(0, 1, 6)), st.integers(1, 6)), min_size=1, max_size=20)


@given(results, st.floats(0, 1))
@some
def test_select_takes_the_cheapest_that_is_good_enough(screened, floor):
    good = [one for one in screened if one.accuracy >= floor]
    if not good:
        best = max(one.accuracy for one in screened)
        with pytest.raises(InvalidInput, match=f"the best one reaches {best:.4f}"):
            select(screened, floor)
        return
    chosen = select(screened, floor)
    assert chosen in good
    assert chosen.cost == min(one.cost for one in good)
    assert chosen.accuracy == max(one.accuracy for one in good if one.cost == chosen.cost)


def test_select_accepts_an_accuracy_right_on_the_floor():
    assert select([result(0.9, 5), result(0.8, 1)], 0.9) == result(0.9, 5)


def beats(one, other):
    at_least = one.accuracy >= other.accuracy and one.cost <= other.cost
    return at_least and (one.accuracy > other.accuracy or one.cost < other.cost)


@given(results)
@some
def test_the_front_is_what_nothing_beats_cheapest_first(screened):
    front = pareto_front(screened)
    assert not any(beats(other, one) for one in front for other in screened)
    points = [(one.cost, one.accuracy) for one in front]
    assert points == sorted(set(points))
    assert set(points) == {
        (one.cost, one.accuracy) for one in screened if not any(beats(other, one) for other in screened)
    }


@given(tables)
@some
def test_the_cheapest_rule_without_loss_lies_on_the_front(table):
    screened = screen(table, Criterion.ENTROPY, 5)
    chosen = select(screened, float(table.correct[-1].mean()))
    points = [(one.cost, one.accuracy) for one in pareto_front(screened)]
    assert (chosen.cost, chosen.accuracy) in points


def test_an_exit_that_knows_when_it_is_right_is_used():
    """Exit 0 is sure and right on half the samples, unsure and wrong on the others; exit 1 is always right."""
    labels = np.zeros(10, dtype=np.int64)
    logits = np.zeros((2, 10, 2), dtype=np.float32)
    logits[0, :5] = [9, 0]
    logits[0, 5:] = [0, 0.5]
    logits[1] = [5, 0]
    table = OutcomeTable(logits, labels, np.array([1.0, 10.0]))
    for criterion in LOGIT_CRITERIA:
        chosen = select(screen(table, criterion, 16), 1.0)
        assert chosen.accuracy == 1.0
        assert chosen.exit_shares == (0.5, 0.5)
        assert chosen.cost == pytest.approx(5.5)
