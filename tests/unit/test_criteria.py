"""Gates and temperatures are fitted, and criteria compared, on images that the other side never sees."""

import json

import numpy as np
import pytest
from network_examples import seeded
from test_frontier import alike

from branchynet import errors
from branchynet.errors import InvalidInput, SettingsError
from branchynet.evaluation import criteria
from branchynet.evaluation.criteria import CANDIDATES, compare_criteria, judge
from branchynet.evaluation.fit import fit_gate, fit_rule
from branchynet.exits.calibration_metrics import auroc, fit_temperature
from branchynet.exits.gates import Gate, features
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule
from cli.plots.calibration import draw_frontier, draw_reliability


def test_a_gate_learns_the_probability_that_its_exit_is_right():
    logits = seeded(1).normal(0, 3, (4_000, 5)).astype(np.float32)
    known = features(logits)
    truth = 1 / (1 + np.exp(3 - 4 * known[:, 2]))  # of the margin alone
    correct = seeded(2).uniform(0, 1, 4_000) < truth
    learned = fit_gate(logits, correct).score(logits)
    assert np.abs(learned - truth).mean() < 0.03
    assert learned.mean() == pytest.approx(correct.mean(), abs=0.01)


@pytest.mark.parametrize("right", [True, False])
def test_an_exit_that_is_always_right_or_never_gets_a_gate_that_says_so(right):
    gate = fit_gate(seeded(1).normal(0, 3, (98, 5)).astype(np.float32), np.full(98, right))
    assert set(gate.weights) == {0.0}
    assert gate.score(np.zeros((1, 5)))[0] == pytest.approx(0.99 if right else 0.01)


def test_a_rule_is_fitted_with_what_its_criterion_needs():
    table = alike(3, 300, seed=3)
    temperatures = tuple(fit_temperature(logits, table.labels) for logits in table.logits)
    for criterion, tempered in CANDIDATES:
        rule = fit_rule(table, criterion, tempered=tempered)
        assert rule.temperatures == (temperatures if tempered else ())
        assert len(rule.gates) == (2 if criterion is Criterion.GATE else 0)
        assert table.apply(rule).exit_shares == (0, 0, 1)
    cold = fit_rule(table, Criterion.GATE, tempered=True).gates[0]
    assert cold == fit_gate(table.logits[0] / temperatures[0], table.correct[0])


def test_without_scikit_learn_a_gate_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda _name: None)
    table = alike(2, 50, seed=4)
    with pytest.raises(SettingsError, match=r"pip install 'branchynet\[torch\]'"):
        fit_rule(table, Criterion.GATE)
    fit_rule(table, Criterion.MARGIN, tempered=True)


def test_whoever_judges_has_not_been_fitted_to(monkeypatch):
    table, seen = alike(2, 60, seed=5), []
    numbered = OutcomeTable(np.concatenate([table.logits] * 1), np.arange(60) % 4, table.costs)
    names = numbered.logits[0, :, 0].tolist()

    def fit(part, *rest):
        seen.append(("fit", [names.index(value) for value in part.logits[0, :, 0].tolist()]))
        return ExitRule("margin", (0.5,))

    def remembered(rule, part):
        seen.append(("judge", [names.index(value) for value in part.logits[0, :, 0].tolist()]))
        return judge(rule, part)

    monkeypatch.setattr(criteria, "fit_and_choose", fit)
    monkeypatch.setattr(criteria, "judge", remembered)
    compare_criteria(numbered, 0.01, 3)
    fitted, judged = ([rows for kind, rows in seen if kind == wanted] for wanted in ("fit", "judge"))
    assert len(fitted) == len(judged) == 3 * len(CANDIDATES)
    for one, other in zip(fitted, judged, strict=True):
        assert sorted(one + other) == list(range(60))
    assert fitted[:3] == fitted[3:6], "every candidate gets the same halves"
    assert fitted[0] != fitted[1]


@pytest.fixture(scope="module")
def tables():
    return alike(3, 240, seed=6), alike(3, 200, seed=7)


@pytest.fixture(scope="module")
def compared(tables):
    return compare_criteria(tables[0], 0.02, 2, tables[1])


def test_a_comparison_has_every_candidate_and_no_figure_without_a_meaning(compared):
    assert [(one.criterion, one.tempered) for one in compared] == list(CANDIDATES)
    for one in compared:
        says = one.criterion in (Criterion.MAX_PROBABILITY, Criterion.GATE)
        gate = one.criterion is Criterion.GATE
        for figures in (one.mean, one.test):
            assert np.isnan(figures["ece"]).tolist() == [not says, not says, not says or gate]
            assert np.isnan(figures["aurc"]).tolist() == [False, False, gate]
            assert figures["drop"] == pytest.approx(figures["drop"].clip(-1, 1))
            assert figures["exit_shares"].sum() == pytest.approx(1)
        assert all((values[~np.isnan(values)] >= 0).all() for values in one.spread.values())

    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    json.loads(json.dumps([one.to_json() for one in compared]), parse_constant=refuse)


def test_test_figures_are_those_of_the_rule_chosen_on_the_whole_split(compared, tables):
    whole, test = tables
    (entropy,) = (one for one in compared if (one.criterion, one.tempered) == (Criterion.ENTROPY, True))
    rule = criteria.fit_and_choose(whole, Criterion.ENTROPY, True, 0.02)
    result = test.apply(rule)
    assert whole.apply(rule).accuracy >= whole.correct[-1].mean() - 0.02
    assert entropy.test["accuracy"] == pytest.approx(result.accuracy)
    assert entropy.test["cost"] == pytest.approx(result.cost)
    assert entropy.test["drop"] == pytest.approx(test.correct[-1].mean() - result.accuracy)
    assert entropy.test["auroc"][0] == pytest.approx(auroc(-test.scores(rule)[0], test.correct[0]))


def test_one_halving_has_no_spread():
    with pytest.raises(InvalidInput, match="halvings is 1"):
        compare_criteria(alike(2, 20, seed=8), 0.01, 1)


def test_pictures_are_drawn(tables, tmp_path):
    whole, test = tables
    draw_reliability(whole, test, tmp_path / "deep" / "trust.png", "example")
    front, chosen = criteria.choose_rule(whole, Criterion.MARGIN, 0.02)
    draw_frontier(front, chosen, "MACs", tmp_path / "frontier.png", "example")
    for name in ("deep/trust.png", "frontier.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_gate_fitted_on_one_class_of_logits_is_finite():
    gate = fit_gate(np.zeros((20, 3), np.float32), np.arange(20) % 2 == 0)
    assert isinstance(gate, Gate)
    assert gate.score(np.zeros((1, 3)))[0] == pytest.approx(0.5)
