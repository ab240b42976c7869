"""The figures of an evaluation: keys and arithmetic."""

import dataclasses
import json

import numpy as np
import pytest
from network_examples import HELD_OUT, LENET, exit_logits, mixing_rule, pictures, random_network, save_artifact

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset, load_sample
from branchynet.evaluation.compare import comparison_figures, measure_timings
from branchynet.evaluation.evaluation import Evaluated, measure_outcomes, score, trunk_accuracy
from branchynet.evaluation.timings import Timings
from branchynet.exits.outcomes import OutcomeTable, wilson_interval
from branchynet.exits.rules import ExitRule
from branchynet.models.architectures import cost
from branchynet.network import runner
from branchynet.network.runner import Engine
from cli.tables.evaluation import print_evaluation

RULE = ExitRule("entropy", (0.5,))
TIMINGS = Timings(
    {
        "eager": {
            "trunk": np.array([[3.0], [1.0], [2.0]]),
            "early_exit": np.array([[0.5], [0.5], [0.9]]),
            "early_exit/without_heads": np.array([[0.4], [0.25], [0.1]]),
        }
    }
)


def labelled(images, labels=None):
    labels = np.zeros(len(images), dtype=np.int64) if labels is None else labels
    return Dataset("noise", images, labels, tuple("0123456789"), "test", "made by a test")


@pytest.fixture
def evaluated(tmp_path):
    """Four samples: three are sure at exit 0 (one of them wrongly), the last goes on and is right.

    The plain trunk is right about the second and the last.
    """
    artifact = save_artifact(tmp_path, random_network(), rule=RULE)
    logits = np.zeros((2, 4, 10), dtype=np.float32)
    logits[0, :3, 1] = 20
    logits[1, :, 2] = 20
    table = OutcomeTable(logits, np.array([1, 1, 2, 2]), cost(LENET).macs_by_exit(heads=True))
    trunk = np.zeros((4, 10), dtype=np.float32)
    trunk[[0, 1, 2, 3], [5, 1, 5, 2]] = 1
    return Evaluated(artifact, table, trunk)


def test_the_figures_have_the_documented_keys(evaluated):
    figures = comparison_figures(evaluated, [], TIMINGS)
    assert set(figures) == {"trunk", "early_exit", "baselines", "medians_ms"}
    assert set(figures["trunk"]) == {"accuracy", "interval", "ms", "ms_spread", "engine", "macs", "own_final_exit"}
    assert set(figures["early_exit"]) == {
        "accuracy", "interval", "criterion", "thresholds", "exit_shares", "exit_accuracies", "exit_ms", "ms",
        "ms_spread", "ms_without_heads", "engine", "macs", "macs_without_heads", "gain_ms", "gain_ms_spread",
        "gain_ms_without_heads", "gain_ms_without_heads_spread", "gain_macs", "gain_macs_without_heads",
        "against_trunk",
    }  # fmt: skip
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


@pytest.mark.parametrize(
    ("training", "own"),
    [({"recipe": {"baseline": "final-exit"}}, True), ({"recipe": {"baseline": "trained-on"}}, False), ({}, False)],
)
def test_a_trunk_that_was_not_trained_alone_is_called_the_final_exit(evaluated, training, own, capsys):
    taken = dataclasses.replace(evaluated, artifact=evaluated.artifact.with_fields(training=training))
    figures = comparison_figures(taken, [], TIMINGS)
    assert figures["trunk"]["own_final_exit"] is own
    described = {"artifact": "a", "images": 4, "dataset": "noise", "engine": "eager", "timing_images": 1, "passes": 3}
    print_evaluation({**figures, **described, "machine": {"cpu": "some", "cores": 1}}, "noise", {})
    assert (("own final exit" in (printed := capsys.readouterr().out)), "plain trunk" in printed) == (own, not own)


def test_the_figures_are_their_arithmetic(evaluated):
    figures = comparison_figures(evaluated, [], TIMINGS)
    trunk, early = figures["trunk"], figures["early_exit"]
    assert (trunk["accuracy"], trunk["ms"], trunk["macs"]) == (0.5, 2.0, 1_140_070)
    assert trunk["ms_spread"] == [1.0, 2.0, 3.0]
    assert early["accuracy"] == 0.75
    assert early["interval"] == list(wilson_interval(0.75, 4))
    assert early["exit_shares"] == [0.75, 0.25]
    assert early["exit_accuracies"] == [0.5, 0.5]
    assert (early["criterion"], early["thresholds"]) == ("entropy", [0.5])
    macs = 0.75 * (112_500 + 107_650) + 0.25 * (1_140_070 + 107_650)
    bare = 0.75 * 112_500 + 0.25 * 1_140_070
    assert early["macs"] == pytest.approx(macs)
    assert early["macs_without_heads"] == pytest.approx(bare)
    assert early["gain_macs"] == pytest.approx(1_140_070 / macs)
    assert early["gain_macs_without_heads"] == pytest.approx(1_140_070 / bare)
    assert (early["ms"], early["ms_without_heads"]) == (0.5, 0.25)
    assert (early["gain_ms"], early["gain_ms_without_heads"]) == (4.0, 8.0)
    assert early["gain_ms_spread"] == [2.0, 4.0, 6.0]
    against = early["against_trunk"]
    assert (against["difference"], against["only_this_right"], against["only_that_right"]) == (0.25, 1, 0)
    assert against["p_value"] == 1.0


def test_outcomes_are_the_logits_of_every_exit_in_the_order_of_the_images(monkeypatch):
    monkeypatch.setattr(runner, "BATCH", 3)
    images, done = pictures(LENET, 8), []
    table = measure_outcomes(random_network(), cost(LENET), labelled(images), done.append)
    np.testing.assert_allclose(table.logits, exit_logits(random_network(), images), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(table.costs, cost(LENET).macs_by_exit(heads=True))
    assert done == [3, 6, 8]


def test_a_table_predicts_what_the_network_does():
    images = pictures(LENET, 40)
    rule = mixing_rule(random_network(), images)
    labels = np.arange(40) % 10
    table = measure_outcomes(random_network(), cost(LENET), labelled(images, labels))
    ran = random_network().resume(images, 0, 2, rule)
    np.testing.assert_array_equal(table.exit_of(rule), ran.exits)
    assert table.apply(rule).accuracy == (ran.logits.argmax(1) == labels).mean()


def test_trunk_accuracy_counts_the_final_exit(monkeypatch, straight):
    monkeypatch.setattr(runner, "BATCH", 7)
    network = straight[0].network
    right = exit_logits(network, HELD_OUT.images)[-1].argmax(1) == HELD_OUT.labels
    assert trunk_accuracy(network, HELD_OUT) == pytest.approx(right.mean())
    shifted = dataclasses.replace(HELD_OUT, labels=(HELD_OUT.labels + 1) % 4)
    assert trunk_accuracy(network, shifted) < 0.2


def test_the_shipped_network_does_on_the_sample_about_what_its_manifest_records():
    sample, done = load_sample(), []
    shipped = score(Artifact.open("lenet-fashion"), sample, done.append)
    assert done == [500, 1000, 1500, 2000]
    recorded = shipped.artifact.manifest.results["test"]
    result = shipped.table.apply(shipped.artifact.manifest.rule)
    low, high = wilson_interval(result.accuracy, len(sample), z=3.3)
    assert low < recorded["accuracy"] < high
    assert result.exit_shares == pytest.approx(recorded["exit_shares"], abs=0.05)
    low, high = wilson_interval(float(shipped.trunk_right.mean()), len(sample), z=3.3)
    assert low < recorded["trunk_accuracy"] < high
    baseline = shipped.artifact.trunk(Engine.EAGER)
    assert trunk_accuracy(baseline, sample) == shipped.trunk_right.mean()


@pytest.mark.parametrize("by_exit", [False, True])
def test_an_artifact_is_timed_under_every_rule_that_is_asked(by_exit):
    sample = load_sample().take(range(20))
    shipped = score(Artifact.open("lenet-fashion"), sample)
    rules = {"early_exit": shipped.artifact.manifest.rule, "everyone": ExitRule.never(2)}
    timings = measure_timings(shipped, rules, [], sample.images[:3], 2, [Engine.EAGER], by_exit=by_exit)
    parts = {"without_heads", "exit_0", "exit_1"} if by_exit else {"without_heads"}
    assert set(timings.ms["eager"]) == {"trunk", *rules} | {f"{rule}/{part}" for rule in rules for part in parts}
    assert len(comparison_figures(shipped, [], timings)["early_exit"]["exit_ms"]) == (2 if by_exit else 0)
