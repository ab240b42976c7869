"""Scores against formulas written anew, and what a rule does at and around its thresholds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from network_examples import many

from branchynet.errors import InvalidInput
from branchynet.exits.rules import LOGIT_CRITERIA, Criterion, ExitRule, entropy, margin, max_probability, softmax

finite = st.floats(-1e4, 1e4, width=32)
logits = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 12)), elements=finite)
thresholds = st.floats(0, 3)


def probabilities(row):
    """Softmax with Python's own floats and exact sums."""
    highest = max(map(float, row))
    parts = [math.exp(float(value) - highest) for value in row]
    total = math.fsum(parts)
    return [part / total for part in parts]


def plain_entropy(row):
    return -math.fsum(p * math.log(p) for p in probabilities(row) if p > 0)


@given(logits)
@many
def test_scores_equal_their_formulas(batch):
    ordered = [sorted(probabilities(row)) for row in batch]
    np.testing.assert_allclose(softmax(batch), [probabilities(row) for row in batch], rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(entropy(batch), [plain_entropy(row) for row in batch], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(max_probability(batch), [p[-1] for p in ordered], rtol=1e-12)
    np.testing.assert_allclose(margin(batch), [p[-1] - p[-2] for p in ordered], rtol=1e-9, atol=1e-12)


@given(logits)
@many
def test_scores_stay_in_their_ranges(batch):
    classes = batch.shape[1]
    assert (entropy(batch) >= 0).all()
    assert (entropy(batch) <= math.log(classes) + 1e-12).all()
    assert (max_probability(batch) >= 1 / classes - 1e-12).all()
    assert (max_probability(batch) <= 1).all()
    assert (margin(batch) >= 0).all()
    assert (margin(batch) <= 1).all()
    np.testing.assert_allclose(softmax(batch).sum(1), 1, rtol=1e-12)


@given(hnp.arrays(np.float64, (3, 5), elements=st.floats(-50, 50)), st.floats(-1000, 1000))
@many
def test_adding_a_constant_to_all_logits_changes_no_score(batch, shift):
    for criterion in LOGIT_CRITERIA:
        np.testing.assert_allclose(criterion.score(batch + shift), criterion.score(batch), rtol=1e-6, atol=1e-9)


@given(logits, st.randoms())
@many
def test_the_order_of_classes_changes_no_score(batch, random):
    order = list(range(batch.shape[1]))
    random.shuffle(order)
    for criterion in LOGIT_CRITERIA:
        np.testing.assert_allclose(criterion.score(batch[:, order]), criterion.score(batch), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("height", [1e4, 3e38])
def test_a_one_hot_extreme_leaves_no_doubt(height):
    row = np.full((1, 10), -height, dtype=np.float32)
    row[0, 3] = height
    with np.errstate(all="raise", under="ignore"):
        assert entropy(row) == 0
        assert max_probability(row) == 1
        assert margin(row) == 1


@pytest.mark.parametrize("level", [0.0, 1e4, -1e4])
def test_equal_logits_leave_the_greatest_doubt(level):
    row = np.full((1, 10), level, dtype=np.float32)
    assert entropy(row)[0] == pytest.approx(math.log(10), abs=1e-12)
    assert max_probability(row)[0] == pytest.approx(0.1)
    assert margin(row)[0] == 0


def test_scores_work_over_any_leading_dimensions():
    stacked = np.arange(24, dtype=np.float32).reshape(2, 4, 3) ** 1.5
    for criterion in LOGIT_CRITERIA:
        rows = [[float(criterion.score(row[None])[0]) for row in page] for page in stacked]
        np.testing.assert_allclose(criterion.score(stacked), rows)


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
@given(batch=logits)
@many
def test_a_score_equal_to_the_threshold_stays(criterion, batch):
    scores = criterion.score(batch)
    for row, score in zip(batch, scores, strict=True):
        assert not ExitRule(criterion, (score,)).leaves(0, row[None]).any()
        toward_leaving = math.inf if criterion is Criterion.ENTROPY else -math.inf
        assert ExitRule(criterion, (np.nextafter(score, toward_leaving),)).leaves(0, row[None]).all()


@given(batch=logits, low=thresholds, high=thresholds)
@many
def test_raising_the_entropy_threshold_never_keeps_a_leaver(batch, low, high):
    low, high = sorted((low, high))
    fewer = ExitRule(Criterion.ENTROPY, (low,)).leaves(0, batch)
    more = ExitRule(Criterion.ENTROPY, (high,)).leaves(0, batch)
    assert (more | ~fewer).all()


@pytest.mark.parametrize("criterion", [Criterion.MAX_PROBABILITY, Criterion.MARGIN])
@given(batch=logits, low=thresholds, high=thresholds)
@many
def test_raising_a_confidence_threshold_never_adds_a_leaver(criterion, batch, low, high):
    low, high = sorted((low, high))
    assert (ExitRule(criterion, (low,)).leaves(0, batch) | ~ExitRule(criterion, (high,)).leaves(0, batch)).all()


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
@given(batch=logits)
@many
def test_never_keeps_and_always_sends_everyone(criterion, batch):
    rule = ExitRule(criterion, (criterion.never, criterion.always))
    assert not rule.leaves(0, batch).any()
    assert rule.leaves(1, batch).all()


def test_the_last_exit_answers_whoever_is_left():
    rule = ExitRule(Criterion.ENTROPY, (0.0,))
    doubtful = np.zeros((3, 10), dtype=np.float32)
    assert not rule.leaves(0, doubtful).any()
    assert rule.leaves(1, doubtful).all()


def test_each_exit_has_its_own_threshold():
    row = np.array([[0.0, 0.0]], dtype=np.float32)  # entropy ln 2 = 0.693
    rule = ExitRule(Criterion.ENTROPY, (0.69, 0.70))
    assert [bool(rule.leaves(index, row)[0]) for index in range(3)] == [False, True, True]


def test_a_rule_of_text_becomes_a_rule_of_values():
    rule = ExitRule("margin", (1, np.float32(0.5)))
    assert rule.criterion is Criterion.MARGIN
    assert rule.thresholds == (1.0, 0.5)
    assert all(type(threshold) is float for threshold in rule.thresholds)
    assert rule == ExitRule(Criterion.MARGIN, (1.0, 0.5))


@pytest.mark.parametrize("name", ["", "Entropy", "confidence", 3, None])
def test_an_unknown_criterion_is_refused_with_the_known_ones(name):
    with pytest.raises(InvalidInput, match="entropy, max-probability, margin"):
        ExitRule(name, (0.5,))


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf])
def test_a_threshold_that_is_not_a_finite_number_is_refused_with_its_exit(threshold):
    with pytest.raises(InvalidInput, match=f"exit 1 is {threshold}"):
        ExitRule(Criterion.ENTROPY, (0.5, threshold))


@pytest.mark.parametrize(("count", "exits"), [(0, 2), (2, 2), (1, 3), (1, 1)])
def test_a_wrong_number_of_thresholds_is_refused(count, exits):
    rule = ExitRule(Criterion.ENTROPY, (0.5,) * count)
    with pytest.raises(InvalidInput, match=f"{count} thresholds, a network with {exits} exits needs {exits - 1}"):
        rule.check_exits(exits)
    ExitRule.never(exits).check_exits(exits)


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
@pytest.mark.parametrize("classes", [2, 3, 10, 32, 33])
def test_one_sample_is_decided_exactly_as_in_a_batch(criterion, classes):
    """Also where a threshold is the very score, or its neighbour among the floats."""
    random = np.random.default_rng(classes)
    for scale in (1e-3, 1.0, 30.0, 1e4, 1e37):
        logits = (scale * random.normal(size=(30, classes))).astype(np.float32)
        for row in logits[:, None]:
            score = criterion.score(row)[0]
            for threshold in (
                score,
                np.nextafter(score, 9),
                np.nextafter(score, -9),
                score + 1e-6,
                0.3,
                criterion.never,
            ):
                rule = ExitRule(criterion, (threshold,))
                leaves = rule.leaves(0, row)
                assert (leaves.dtype, leaves.shape) == (np.bool_, (1,))
                assert leaves == rule.leaves(0, np.repeat(row, 2, axis=0))[0]


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_sample_that_is_not_finite_is_decided_as_in_a_batch(criterion, value):
    row = np.zeros((1, 10), dtype=np.float32)
    row[0, 3] = value
    rule = ExitRule(criterion, (0.5,))
    with np.errstate(all="ignore"):
        assert rule.leaves(0, row) == rule.leaves(0, np.repeat(row, 2, axis=0))[0]
