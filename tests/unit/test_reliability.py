"""Measures of trust against their definitions, against scikit-learn, and where they can be told by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import many, seeded, some
from sklearn.metrics import roc_auc_score

from branchynet.errors import InvalidInput
from branchynet.exits.calibration_metrics import (
    TEMPERATURES,
    aurc,
    auroc,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
    risk_coverage,
)
from branchynet.exits.rules import softmax

# Few values, so that there are ties.
samples = st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), st.booleans()), min_size=1, max_size=40)


def arrays(pairs):
    confidence, correct = zip(*pairs, strict=True)
    return np.array(confidence), np.array(correct)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=6))
@some
def test_risk_is_the_mean_over_all_orders_that_the_confidence_allows(pairs):
    confidence, correct = arrays(pairs)
    curves = []
    for order in itertools.permutations(range(len(pairs))):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            curves.append(np.cumsum(~correct[list(order)]) / np.arange(1, len(pairs) + 1))
    coverage, risk = risk_coverage(confidence, correct)
    np.testing.assert_allclose(coverage, np.arange(1, len(pairs) + 1) / len(pairs))
    np.testing.assert_allclose(risk, np.mean(curves, axis=0), atol=1e-12)
    assert aurc(confidence, correct) == pytest.approx(np.mean(curves))


@given(samples)
@many
def test_auroc_is_the_share_of_pairs_in_the_right_order(pairs):
    confidence, correct = arrays(pairs)
    right, wrong = confidence[correct], confidence[~correct]
    if not len(right) or not len(wrong):
        assert math.isnan(auroc(confidence, correct))
        return
    ordered = (right[:, None] > wrong).mean() + (right[:, None] == wrong).mean() / 2
    assert auroc(confidence, correct) == pytest.approx(ordered)
    assert auroc(confidence, correct) == pytest.approx(roc_auc_score(correct, confidence))


def test_a_perfect_order_and_its_opposite():
    correct = np.array([True] * 6 + [False] * 2)
    best = np.arange(8, 0, -1.0)
    assert auroc(best, correct) == 1
    assert auroc(-best, correct) == 0
    assert aurc(best, correct) == pytest.approx((1 / 7 + 2 / 8) / 8)
    assert aurc(np.ones(8), correct) == pytest.approx(0.25), "who knows nothing has the same risk at all coverages"


@pytest.mark.parametrize("adaptive", [False, True])
def test_probabilities_that_are_met_have_no_calibration_error(adaptive):
    generator = seeded(1)
    probability = generator.uniform(0, 1, 200_000)
    correct = generator.uniform(0, 1, 200_000) < probability
    assert expected_calibration_error(probability, correct, adaptive=adaptive) < 0.005
    assert expected_calibration_error(probability**2, correct, adaptive=adaptive) == pytest.approx(1 / 6, abs=0.005)


@given(samples, st.integers(1, 20), st.booleans())
@many
def test_bins_hold_every_sample_once_and_equal_probabilities_together(pairs, bins, adaptive):
    probability, correct = arrays(pairs)
    binned = reliability_bins(probability, correct, bins, adaptive=adaptive)
    assert binned.share.sum() == pytest.approx(1)
    assert binned.share @ binned.confidence == pytest.approx(probability.mean())
    assert binned.share @ binned.accuracy == pytest.approx(correct.mean())
    assert len(binned.share) <= min(bins, len(set(probability)))


def test_equally_wide_bins_are_those_of_the_definition():
    probability, correct = np.array([0.0, 0.2, 0.21, 0.4, 1.0]), np.array([False, True, True, False, True])
    binned = reliability_bins(probability, correct, 5, adaptive=False)  # (0, 0.2], (0.2, 0.4], …, (0.8, 1]
    assert binned.share.tolist() == pytest.approx([0.4, 0.4, 0.2])
    assert binned.confidence.tolist() == pytest.approx([0.1, 0.305, 1.0])
    assert binned.accuracy.tolist() == pytest.approx([0.5, 0.5, 1.0])
    error = expected_calibration_error(probability, correct, 5, adaptive=False)
    assert error == pytest.approx(0.4 * 0.4 + 0.4 * 0.195)


def test_adaptive_bins_hold_equally_many():
    probability = np.sort(seeded(2).uniform(0.9, 1, 30))
    binned = reliability_bins(probability, np.ones(30, dtype=bool), 15, adaptive=True)
    assert binned.share.tolist() == pytest.approx([1 / 15] * 15)
    assert binned.confidence.tolist() == pytest.approx(probability.reshape(15, 2).mean(axis=1).tolist())
    assert len(reliability_bins(probability, np.ones(30, dtype=bool), 15, adaptive=False).share) == 2


def likelihood(logits, labels, temperature):
    return np.log(softmax(logits / temperature)[np.arange(len(labels)), labels]).mean()


@given(st.integers(0, 999), st.floats(0.2, 5))
@some
def test_the_fitted_temperature_is_the_most_likely_one(seed, scale):
    generator = seeded(seed)
    logits = generator.normal(0, 2, (400, 5))
    labels = np.array([generator.choice(5, p=row) for row in softmax(logits)])
    fitted = fit_temperature(scale * logits, labels)
    assert fitted == pytest.approx(scale * fit_temperature(logits, labels), rel=1e-6)
    best = likelihood(scale * logits, labels, fitted)
    assert all(best >= likelihood(scale * logits, labels, fitted * factor) for factor in (0.98, 1.02))


def test_labels_drawn_from_the_softmax_have_temperature_1():
    generator = seeded(7)
    logits = generator.normal(0, 2, (20_000, 4))
    labels = (softmax(logits).cumsum(axis=1) < generator.uniform(0, 1, (20_000, 1))).sum(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.05)
    assert fit_temperature((4 * logits).astype(np.float32), labels) == pytest.approx(4, abs=0.2)


def test_where_certainty_has_no_bound_the_range_ends_it():
    logits = np.array([[5.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(logits, np.array([0, 1])) == TEMPERATURES[0]
    assert fit_temperature(logits, np.array([1, 0])) == TEMPERATURES[1]


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (lambda: aurc(np.zeros(3), np.zeros(2, bool)), r"\(3,\) does not fit correct \(2,\)"),
        (lambda: auroc(np.zeros(0), np.zeros(0, bool)), "does not fit"),
        (lambda: aurc(np.array([0.0, math.nan]), np.zeros(2, bool)), "sample 1 is not a finite number"),
        (lambda: reliability_bins(np.array([1.5]), np.zeros(1, bool), adaptive=True), "between 1.5 and 1.5"),
        (lambda: fit_temperature(np.zeros((0, 3)), np.zeros(0, int)), "do not fit"),
        (lambda: fit_temperature(np.zeros((2, 3)), np.zeros(3, int)), "do not fit"),
    ],
)
def test_what_has_no_measure_is_refused(measure, words):
    with pytest.raises(InvalidInput, match=words):
        measure()
