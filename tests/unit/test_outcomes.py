"""What a rule does on a table, against brute force; and the interval of an accuracy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import many, seeded

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable, wilson_interval
from branchynet.exits.rules import LOGIT_CRITERIA, ExitRule


def random_table(exits, samples, classes=4, seed=0):
    generator = seeded(seed)
    return OutcomeTable(
        logits=generator.normal(0, 3, (exits, samples, classes)).astype(np.float32),
        labels=generator.integers(0, classes, samples),
        costs=np.cumsum(generator.uniform(1, 100, exits)),
    )


def sample_by_sample(table, rule):
    """Exit shares, accuracy and mean cost, by walking each sample through its exits."""
    exits, right, cost = [0] * table.exits, 0, 0.0
    for sample, label in enumerate(table.labels):
        for number in range(table.exits):
            scored = table.logits[number, sample]
            if rule.leaves(number, scored[None])[0]:
                break
        exits[number] += 1
        right += int(np.argmax(scored) == label)
        cost += float(table.costs[number])
    samples = len(table.labels)
    return [count / samples for count in exits], right / samples, cost / samples


@given(
    exits=st.integers(1, 4),
    samples=st.integers(1, 25),
    seed=st.integers(0, 2**32),
    criterion=st.sampled_from(LOGIT_CRITERIA),
    data=st.data(),
)
@many
def test_applying_a_rule_equals_walking_sample_by_sample(exits, samples, seed, criterion, data):
    table = random_table(exits, samples, seed=seed)
    scores = table.scores(criterion)
    thresholds = tuple(float(data.draw(st.sampled_from(scores[index]))) for index in range(exits - 1))
    rule = ExitRule(criterion, thresholds)
    shares, accuracy, cost = sample_by_sample(table, rule)
    result = table.apply(rule)
    assert result.rule is rule
    assert result.exit_shares == pytest.approx(shares)
    assert result.accuracy == pytest.approx(accuracy)
    assert result.cost == pytest.approx(cost)
    assert sum(result.exit_shares) == pytest.approx(1)


def test_correct_says_who_is_right_at_which_exit():
    logits = np.array([[[2, 1], [0, 1]], [[0, 1], [0, 1]]], dtype=np.float32)
    table = OutcomeTable(logits, np.array([0, 1]), np.array([1.0, 2.0]))
    np.testing.assert_array_equal(table.correct, [[True, True], [False, True]])


def test_never_leaving_means_the_last_exit_and_its_cost():
    table = random_table(3, 50)
    result = table.apply(ExitRule.never(3))
    assert result.exit_shares == (0, 0, 1)
    assert result.accuracy == table.correct[-1].mean()
    assert result.cost == pytest.approx(table.costs[-1])


def test_a_rule_for_other_exits_is_refused():
    with pytest.raises(InvalidInput, match="1 thresholds"):
        random_table(3, 5).apply(ExitRule.never(2))


@pytest.mark.parametrize(("labels", "costs"), [(4, 2), (5, 3), (5, 1)])
def test_parts_of_a_table_that_do_not_fit_are_refused(labels, costs):
    with pytest.raises(InvalidInput, match="do not fit"):
        OutcomeTable(np.zeros((2, 5, 3), np.float32), np.zeros(labels, np.int64), np.zeros(costs))


@pytest.mark.parametrize(
    ("accuracy", "samples", "low", "high"),
    [
        (0.9925, 10_000, 0.990611, 0.994012),
        (0.0, 10, 0.0, 0.277533),
        (1.0, 10, 0.722467, 1.0),
        (0.5, 100, 0.403832, 0.596168),
    ],
)
def test_wilson_interval_of_known_cases(accuracy, samples, low, high):
    assert wilson_interval(accuracy, samples) == pytest.approx((low, high), abs=2e-6)


@given(samples=st.integers(1, 100_000), share=st.floats(0, 1), z=st.floats(0.5, 4))
@many
def test_wilson_ends_are_where_the_score_test_turns(samples, share, z):
    measured = round(share * samples) / samples
    low, high = wilson_interval(measured, samples, z)
    assert 0 <= low <= measured + 1e-12
    assert measured - 1e-12 <= high <= 1
    for end in (low, high):
        assert (measured - end) ** 2 == pytest.approx(z * z * end * (1 - end) / samples, rel=1e-6, abs=1e-12)


def test_more_samples_make_a_narrower_interval():
    widths = [high - low for low, high in (wilson_interval(0.9, samples) for samples in (10, 100, 1_000, 10_000))]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(2 * 1.96 * math.sqrt(0.09 / 10_000), rel=0.01)


@pytest.mark.parametrize("samples", [0, -1])
def test_an_interval_needs_samples(samples):
    with pytest.raises(InvalidInput, match=str(samples)):
        wilson_interval(0.5, samples)
