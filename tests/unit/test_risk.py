"""The promise of a risk-controlled rule, on populations whose true risk is known exactly."""

import math

import numpy as np
import pytest
from network_examples import seeded
from test_outcomes import random_table

from branchynet.errors import InvalidInput
from branchynet.exits.confidence_bounds import Bound
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.risk_control import Loss, certified, control_risk, losses_along, safe_path, split
from branchynet.exits.rules import LOGIT_CRITERIA, Criterion, ExitRule

DRAWS = 150


def population(exits=2, samples=4_000, seed=0):
    """Exits that are surer, and more often right, about easier samples; deeper ones more so."""
    generator = seeded(seed)
    ease = generator.random(samples)
    labels = generator.integers(0, 3, samples)
    logits = generator.normal(0, 0.3, (exits, samples, 3))
    for number in range(exits):
        right = generator.random(samples) < 0.4 + 0.6 * ease ** (0.8 / (number + 1))
        answer = np.where(right, labels, (labels + 1) % 3)
        logits[number, np.arange(samples), answer] += 0.5 + 5 * ease
    return OutcomeTable(logits.astype(np.float32), labels, np.arange(1.0, exits + 1))


def mean_loss(table, rule, loss):
    return float(loss.of(table)[table.exit_of(rule), np.arange(len(table.labels))].mean())


@pytest.mark.parametrize(("loss", "exits", "tolerated"), [
    (Loss.ACCURACY_GAP, 3, 0.05), (Loss.NEW_ERRORS, 2, 0.08), (Loss.DISAGREEMENT, 2, 0.15),
])  # fmt: skip
def test_the_promise_holds_as_often_as_stated(loss, exits, tolerated):
    """Calibration sets drawn with replacement: the population's own mean is the true risk, with no error of its own."""
    whole, confidence, broken, costs = population(exits), 0.8, 0, []
    for draw in range(DRAWS):
        table = whole.take(seeded(draw).integers(0, len(whole.labels), 500))
        found = control_risk(table, Criterion.MAX_PROBABILITY, tolerated, confidence, loss, seed=draw)
        broken += mean_loss(whole, found.rule, loss) >= tolerated
        costs.append(whole.apply(found.rule).cost)
    three_sigma = 3 * math.sqrt(0.2 * 0.8 / DRAWS)
    assert broken / DRAWS <= 0.2 + three_sigma
    # Not by never leaving: a good part of what everybody's leaving at once would save is saved.
    assert np.mean(costs) < whole.costs[-1] - 0.25 * (whole.costs[-1] - whole.costs[0])


def test_the_naive_choice_breaks_it_about_every_second_time():
    """The same samples, the same path, but the observed loss is taken at its word."""
    whole, loss, tolerated, broken = population(), Loss.NEW_ERRORS, 0.08, 0
    for draw in range(DRAWS):
        table = whole.take(seeded(draw).integers(0, len(whole.labels), 500))
        path = safe_path(table, Criterion.MAX_PROBABILITY, loss)
        losses, costs = losses_along(table, Criterion.MAX_PROBABILITY, path, loss)
        allowed = np.flatnonzero(losses.mean(axis=1) <= tolerated)
        chosen = ExitRule(Criterion.MAX_PROBABILITY, tuple(path[allowed[costs[allowed].argmin()]]))
        broken += mean_loss(whole, chosen, loss) >= tolerated
    assert broken / DRAWS > 0.35


def test_the_part_that_tests_has_no_say_in_the_path():
    table = random_table(2, 505, seed=7)
    design, test = split(table, seed=3)
    rows = [{tuple(row) for row in part.logits[0].tolist()} for part in (design, test, table)]
    assert (len(rows[0]), len(rows[1])) == (101, 404)
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] == rows[2]


def test_fixed_sequence_testing_stops_at_the_first_failure():
    assert certified(np.array([0.01, 0.25, 0.26, 0.0]), 0.75) == 2
    assert certified(np.array([0.3, 0.0]), 0.75) == 0
    assert certified(np.array([0.0, 0.0]), 0.75) == 2


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
@pytest.mark.parametrize("exits", [2, 3])
def test_a_path_goes_from_nearly_never_to_always(criterion, exits):
    table = population(exits, samples=300)
    path = safe_path(table, criterion, Loss.NEW_ERRORS)
    results = [table.apply(ExitRule(criterion, tuple(thresholds))) for thresholds in path]
    assert results[0].exit_shares[-1] > 0.95
    assert results[-1].exit_shares[0] == 1.0
    costs = [result.cost for result in results]
    assert costs == sorted(costs, reverse=True)
    # One exit is loosened at a time, and none is ever tightened.
    direction = np.sign(criterion.always - criterion.never)
    steps = direction * np.diff(path, axis=0)
    assert (steps >= 0).all()
    assert (np.count_nonzero(steps, axis=1) == 1).all()


@pytest.mark.parametrize("loss", Loss)
def test_losses_along_a_path_are_those_of_applying_each_rule(loss):
    table = random_table(3, 80, seed=5)
    path = safe_path(table, Criterion.MARGIN, loss)
    losses, costs = losses_along(table, Criterion.MARGIN, path, loss)
    answers, final = table.logits.argmax(axis=2), table.logits[-1].argmax(axis=1)
    for row, cost, thresholds in zip(losses, costs, path, strict=True):
        rule = ExitRule(Criterion.MARGIN, tuple(thresholds))
        answer = answers[table.exit_of(rule), np.arange(80)]
        gap = (final == table.labels).astype(int) - (answer == table.labels)
        expected = {
            Loss.ACCURACY_GAP: gap,
            Loss.NEW_ERRORS: (gap > 0).astype(int),
            Loss.DISAGREEMENT: (answer != final).astype(int),
        }
        np.testing.assert_array_equal(row, expected[loss])
        assert cost == pytest.approx(table.apply(rule).cost)


def test_each_loss_is_at_most_the_next():
    table = random_table(3, 500, seed=6)
    gap, errors, disagreement = (loss.of(table) for loss in Loss)
    assert (gap <= errors).all()
    assert (errors <= disagreement).all()
    assert not any(one[-1].any() for one in (gap, errors, disagreement))


def test_too_few_samples_say_how_many_it_takes():
    table = population(samples=100)
    with pytest.raises(
        InvalidInput, match=r"100 samples cannot prove a loss below 0.01 .* 80 of them .* 230, so 288 in"
    ):
        control_risk(table, Criterion.ENTROPY, 0.01, 0.9, Loss.NEW_ERRORS)
    enough = population(samples=288)
    assert control_risk(enough, Criterion.ENTROPY, 0.01, 0.9, Loss.NEW_ERRORS).samples == 230


def test_where_leaving_early_always_costs_too_much_nobody_leaves():
    table = population(samples=2_000)
    hopeless = OutcomeTable(np.stack([-table.logits[1], table.logits[1]]), table.labels, table.costs)
    found = control_risk(hopeless, Criterion.ENTROPY, 0.002, 0.9, Loss.DISAGREEMENT)
    assert (found.certified, found.observed_loss) == (0, 0.0)
    assert found.result.exit_shares == (0.0, 1.0)


def test_the_record_says_what_was_promised():
    found = control_risk(population(), Criterion.ENTROPY, 0.1, 0.9)
    assert found.bound is Bound.BETTING
    assert 0 < found.certified < found.tried
    assert found.to_json() == {
        "loss": "accuracy-gap",
        "tolerated_loss": 0.1,
        "confidence": 0.9,
        "bound": "betting",
        "observed_loss": round(found.observed_loss, 6),
        "samples": 3_200,
        "path_samples": 800,
    }
    assert found.observed_loss < 0.1


@pytest.mark.parametrize(("tolerated", "confidence"), [(0.0, 0.9), (1.0, 0.9), (-0.1, 0.9), (0.1, 0.0), (0.1, 1.0)])
def test_a_promise_without_sense_is_refused(tolerated, confidence):
    with pytest.raises(InvalidInput, match="must lie between 0 and 1"):
        control_risk(population(samples=50), Criterion.ENTROPY, tolerated, confidence)
