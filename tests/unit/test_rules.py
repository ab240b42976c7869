"""What rules know beside thresholds: temperatures, gates, and the memory that patience needs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import exit_logits, gates, many, random_network, scorings, seeded
from test_outcomes import random_table

from branchynet.errors import InvalidInput
from branchynet.exits.gates import Gate, features, number_of_features
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import LOGIT_CRITERIA, Criterion, ExitRule, entropy, softmax

PATIENT = ExitRule(Criterion.PATIENCE, (1, 1))


def pabee(labels, patience):
    """The exit by PABEE's own words: a counter that grows while neighbours agree, and starts again when they do not."""
    counter = 0
    for number in range(1, len(labels)):
        counter = counter + 1 if labels[number] == labels[number - 1] else 0
        if counter == patience:
            return number
    return len(labels) - 1


@given(exits=st.integers(2, 7), patience=st.integers(1, 4), seed=st.integers(0, 999))
@many
def test_patience_leaves_where_pabee_does(exits, patience, seed):
    table = random_table(exits, 20, classes=2, seed=seed)
    rule = ExitRule(Criterion.PATIENCE, (patience,) * (exits - 1))
    labels = table.logits.argmax(axis=2).T
    assert table.exit_of(rule).tolist() == [pabee(of_sample, patience) for of_sample in labels]


def test_a_history_is_the_last_label_and_how_many_exits_in_a_row_gave_it():
    history, seen = None, []
    for label in (3, 3, 1, 1, 1):
        history = PATIENT.remember(np.eye(4, dtype=np.float32)[[label]], history)
        seen.append(tuple(history[0].tolist()))
    assert seen == [(3, 1), (3, 2), (1, 1), (1, 2), (1, 3)]
    assert history.dtype == np.int32


def test_only_patience_has_a_memory():
    row = np.zeros((1, 4), dtype=np.float32)
    for criterion in LOGIT_CRITERIA:
        assert ExitRule(criterion, (0.5,)).remember(row) is None
    with pytest.raises(InvalidInput, match="needs the history of exits 0 to 1"):
        PATIENT.leaves(1, row)


@pytest.mark.parametrize(
    ("rule", "history", "passed", "words"),
    [
        (PATIENT, None, 1, "needs the history of the 1 exits passed"),
        (PATIENT, [[0, 1]], 0, "after 0 exits needs none"),
        (ExitRule.never(3), [[0, 1]], 1, "'entropy' after 1 exits needs none"),
        (PATIENT, [[0, 1], [0, 1]], 1, r"shape is \(2, 2\); it must be \(1, 2\)"),
        (PATIENT, [0, 1], 1, r"shape is \(2,\)"),
        (PATIENT, [[4, 1]], 1, r"sample 0 is \[4, 1\]; it must be a label of 0 to 3 and a run of 1 to 1"),
        (PATIENT, [[-1, 1]], 1, "label of 0 to 3"),
        (PATIENT, [[0, 0]], 1, "run of 1 to 1"),
        (PATIENT, [[0, 3]], 2, "run of 1 to 2"),
    ],
)
def test_a_history_that_cannot_be_is_refused(rule, history, passed, words):
    given_history = None if history is None else np.array(history, dtype=np.int32)
    with pytest.raises(InvalidInput, match=words):
        rule.check_history(given_history, 1, 4, passed)


@given(scorings(3, 4), st.integers(0, 999))
@many
def test_a_table_scores_as_the_exits_do_one_after_the_other(rule, seed):
    table = random_table(3, 9, seed=seed)
    history = None
    for number in range(2):
        history = rule.remember(table.logits[number], history)
        scores = rule.score(number, table.logits[number], history)
        np.testing.assert_array_equal(table.scores(rule)[number], scores)
        median = float(np.median(scores))
        leaves = rule.with_thresholds((median, median)).leaves(number, table.logits[number], history)
        np.testing.assert_array_equal(leaves, rule.criterion.confident(scores, median))


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
def test_a_temperature_divides_the_logits_of_its_exit(criterion):
    logits = seeded(1).normal(0, 3, (9, 5)).astype(np.float32)
    rule = ExitRule(criterion, (0.5, 0.5), (2.0, 0.5, 3.0))
    for number, temperature in enumerate(rule.temperatures):
        np.testing.assert_allclose(rule.score(number, logits), criterion.score(logits / temperature), rtol=1e-5)
    exits = np.array([0, 1, 2] * 3)
    tempered = np.array(rule.temperatures)[exits][:, None]
    np.testing.assert_allclose(rule.probabilities(exits, logits), softmax(logits / tempered), rtol=1e-5)
    assert rule.probabilities(exits, logits).dtype == np.float32


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
def test_one_tempered_sample_is_decided_exactly_as_in_a_batch(criterion, temperature):
    random = seeded(4)
    for scale in (1e-3, 1.0, 30.0, 1e4, 1e37):
        for row in (scale * random.normal(size=(10, 1, 6))).astype(np.float32):
            rule = ExitRule(criterion, (0.0,), (temperature, 1.0))
            score = rule.score(0, row)[0]
            for threshold in (score, np.nextafter(score, 9), np.nextafter(score, -9), score + 1e-6, 0.3):
                asked = rule.with_thresholds((float(threshold),))
                assert asked.leaves(0, row) == asked.leaves(0, np.repeat(row, 2, axis=0))[0]


def test_temperatures_of_one_change_nothing_but_are_kept():
    logits = seeded(2).normal(0, 3, (9, 5)).astype(np.float32)
    plain, tempered = ExitRule.never(3), ExitRule(Criterion.ENTROPY, (0.0, 0.0), (1, 1, 1))
    assert plain != tempered
    np.testing.assert_array_equal(tempered.score(0, logits), entropy(logits))
    exits = np.zeros(9, np.int64)
    np.testing.assert_array_equal(tempered.probabilities(exits, logits), softmax(logits).astype(np.float32))
    np.testing.assert_array_equal(plain.probabilities(exits, logits), softmax(logits).astype(np.float32))


def logistic(gate, row):
    """The gate's formula with Python's own floats."""
    highest = max(map(float, row))
    total = math.fsum(math.exp(float(value) - highest) for value in row)
    logarithms = sorted((max(float(v) - highest - math.log(total), -30.0) for v in row), reverse=True)
    p = [math.exp(value) for value in logarithms]
    known = [-math.fsum(a * b for a, b in zip(p, logarithms, strict=True)), p[0], p[0] - p[1], *logarithms[:10]]
    evidence = math.fsum(w * f for w, f in zip(gate.weights, known, strict=True)) + gate.bias
    return 1 / (1 + math.exp(-evidence))


@pytest.mark.parametrize("classes", [2, 4, 10, 14])
def test_a_gate_is_a_logistic_regression_on_sorted_logits(classes):
    logits = seeded(classes).normal(0, 4, (12, classes)).astype(np.float32)
    (gate,) = gates(2, classes)
    assert features(logits).shape == (12, number_of_features(classes))
    np.testing.assert_allclose(gate.score(logits), [logistic(gate, row) for row in logits], rtol=1e-9)
    np.testing.assert_array_equal(gate.score(logits[:, ::-1]), gate.score(logits))
    np.testing.assert_array_equal([gate.score(row[None])[0] for row in logits], gate.score(logits))


def test_a_gate_stays_within_0_and_1_whatever_the_logits():
    extremes = np.array([[3e38, -3e38], [0, 0], [-3e38, -3e38]], dtype=np.float32)
    for bias in (-1e6, 0.0, 1e6):
        scores = Gate((50.0,) * number_of_features(2), bias).score(extremes)
        assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: ExitRule("gate", (0.5,)), "0 gates with criterion 'gate' and 1 thresholds; there must be 1"),
        (lambda: ExitRule("margin", (0.5,), (), gates(2, 4)), "there must be 0"),
        (lambda: ExitRule("gate", (0.5,), (), gates(3, 4)), "2 gates"),
        (lambda: ExitRule("margin", (0.5,), (1.0,)), "1 temperatures for 2 exits"),
        (lambda: ExitRule("margin", (0.5,), (1.0, 0.0)), "temperature of exit 1 is 0.0"),
        (lambda: ExitRule("margin", (0.5,), (math.inf, 1.0)), "temperature of exit 0 is inf"),
        (lambda: Gate((1.0, math.nan), 0.0), "holds nan"),
        (lambda: Gate((1.0,), math.inf), "holds inf"),
        (lambda: ExitRule.never(3).with_thresholds((0.5,)), "1 thresholds, a network with 3 exits needs 2"),
        (lambda: ExitRule.never(2).with_thresholds((0.5,), "gate"), "0 gates with criterion 'gate'"),
        (lambda: Criterion.PATIENCE.score(np.zeros((1, 3))), "'patience' scores no logits on their own"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(made, words):
    with pytest.raises(InvalidInput, match=words):
        made()


def test_gates_for_other_classes_are_refused_before_they_are_asked():
    rule = ExitRule("gate", (0.5,), (), gates(2, 4))
    rule.check_exits(2, 4)
    with pytest.raises(InvalidInput, match="gate of exit 0 has 7 weights; for 10 classes there must be 13"):
        rule.check_exits(2, 10)
    table = OutcomeTable(np.zeros((2, 1, 10), np.float32), np.zeros(1, np.int64), np.ones(2))
    with pytest.raises(InvalidInput, match="for 10 classes"):
        table.exit_of(rule)


def test_other_thresholds_keep_what_was_fitted_and_another_criterion_the_temperatures():
    rule = ExitRule("gate", (0.5,), (2.0, 3.0), gates(2, 4))
    assert rule.with_thresholds((0.9,)) == ExitRule("gate", (0.9,), (2.0, 3.0), gates(2, 4))
    assert rule.with_thresholds((0.9,), "gate").gates == rule.gates
    assert rule.with_thresholds((0.9,), "margin") == ExitRule("margin", (0.9,), (2.0, 3.0))


def test_patience_can_be_told_from_the_logits_of_a_network():
    network = random_network()
    images = seeded(3).integers(0, 256, (12, 1, 28, 28)).astype(np.uint8)
    labels = exit_logits(network, images).argmax(axis=2)
    table = OutcomeTable(exit_logits(network, images), labels[-1], np.ones(2))
    np.testing.assert_array_equal(table.scores(Criterion.PATIENCE)[1], 1 + (labels[0] == labels[1]))
