"""The figures of an evaluation: keys, arithmetic, and which layers are timed."""

import dataclasses
import json

import numpy as np
import pytest
from network_examples import HELD_OUT, LENET, exit_logits, mixing_rule, pictures, random_network

from branchynet import artifact
from branchynet.decisions.exits import ExitRule
from branchynet.decisions.outcomes import OutcomeTable, wilson_interval
from branchynet.models import cost, zoo
from branchynet.training import evaluation
from branchynet.training.datasets import Dataset, load_sample
from branchynet.training.evaluation import Timings, evaluate, measure_outcomes, measure_timings, trunk_accuracy

RULE = ExitRule("entropy", (0.5,))
TIMINGS = Timings(
    trunk_ms=np.array([3.0, 1.0, 2.0]),
    early_exit_ms=np.array([0.5, 0.5, 0.9]),
    without_heads_ms=np.array([0.4, 0.25, 0.1]),
)


def labelled(images, labels=None):
    labels = np.zeros(len(images), dtype=np.int64) if labels is None else labels
    return Dataset("noise", images, labels, tuple("0123456789"), "test", "made by a test")


@pytest.fixture
def table():
    """Four samples: three are sure at exit 0 (one of them wrongly), the last goes on and is right."""
    logits = np.zeros((2, 4, 10), dtype=np.float32)
    logits[0, :3, 1] = 20
    logits[1, :, 2] = 20
    costs = cost(LENET).macs_by_exit(heads=True)
    return OutcomeTable(logits, np.array([1, 1, 2, 2]), costs)


def test_the_figures_have_the_documented_keys(table):
    figures = evaluate(table, cost(LENET), RULE, 0.9, TIMINGS)
    assert set(figures) == {"trunk", "early_exit", "spread"}
    assert set(figures["trunk"]) == {"accuracy", "ms", "macs"}
    assert set(figures["early_exit"]) == {
        "accuracy", "interval", "criterion", "thresholds", "exit_shares", "exit_accuracies", "ms", "macs",
        "ms_without_heads", "macs_without_heads", "gain_ms", "gain_ms_without_heads", "gain_macs",
        "gain_macs_without_heads",
    }  # fmt: skip
    assert set(figures["spread"]) == {"trunk_ms", "early_exit_ms", "without_heads_ms"}
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_the_figures_are_their_arithmetic(table):
    figures = evaluate(table, cost(LENET), RULE, 0.9, TIMINGS)
    trunk, early = figures["trunk"], figures["early_exit"]
    assert trunk == {"accuracy": 0.9, "ms": 2.0, "macs": 1_140_070}
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
    assert figures["spread"]["trunk_ms"] == [1.0, 2.0, 3.0]
    assert figures["spread"]["early_exit_ms"] == [0.5, 0.5, 0.9]


def test_outcomes_are_the_logits_of_every_exit_in_the_order_of_the_images(monkeypatch):
    monkeypatch.setattr(evaluation, "BATCH", 3)
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
    monkeypatch.setattr(evaluation, "BATCH", 7)
    network = straight[0].network
    right = exit_logits(network, HELD_OUT.images)[-1].argmax(1) == HELD_OUT.labels
    assert trunk_accuracy(network, HELD_OUT) == pytest.approx(right.mean())
    shifted = dataclasses.replace(HELD_OUT, labels=(HELD_OUT.labels + 1) % 4)
    assert trunk_accuracy(network, shifted) < 0.2


class Calls:
    """Counts the forward passes of a module."""

    def __init__(self, module):
        self.count = 0
        self._handle = module.register_forward_hook(self._add)

    def _add(self, *_):
        self.count += 1


def test_timing_runs_trunk_segments_only_as_far_as_the_image_goes():
    _, network = artifact.load(zoo.find("lenet-fashion"))
    _, baseline = artifact.load(zoo.find("lenet-fashion"))
    images = pictures(LENET, 4)
    rule = mixing_rule(network, images)
    first, second, branch, final, plain = (
        Calls(module)
        for module in (
            network.stage(0).trunk,
            network.stage(1).trunk,
            network.stage(0).head,
            network.stage(1).head,
            baseline.stage(1).trunk,
        )
    )
    progress = []
    timings = measure_timings(network, baseline, rule, images, 3, progress.append)
    # One run of each of the four images finds where it leaves (two of them at once); then come three timed passes.
    assert first.count == 4 + 3 * 4 * 2
    assert branch.count == 4 + 3 * 4
    assert second.count == final.count == 2 + 3 * 2 * 2
    assert plain.count == 3 * 4
    assert progress == list(range(1, 13))
    for values in (timings.trunk_ms, timings.early_exit_ms, timings.without_heads_ms):
        assert values.shape == (3,)
        assert (values > 0).all()


def test_timing_uses_one_thread_and_gives_the_others_back(monkeypatch):
    set_to = []
    monkeypatch.setattr(evaluation.torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(evaluation.torch, "set_num_threads", set_to.append)

    def fail(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_timings(random_network(), random_network(), ExitRule.never(2), pictures(LENET, 1), 1, fail)
    assert set_to == [1, 5]


def test_the_shipped_network_does_on_the_sample_about_what_its_manifest_records():
    manifest, network = artifact.load(zoo.find("lenet-fashion"))
    sample, recorded = load_sample(), manifest.results["test"]
    result = measure_outcomes(network, cost(manifest.architecture), sample).apply(manifest.rule)
    low, high = wilson_interval(result.accuracy, len(sample), z=3.3)
    assert low < recorded["accuracy"] < high
    assert result.exit_shares == pytest.approx(recorded["exit_shares"], abs=0.05)
    baseline = artifact.load_baseline(zoo.find("lenet-fashion"), manifest)
    low, high = wilson_interval(trunk_accuracy(baseline, sample), len(sample), z=3.3)
    assert low < recorded["trunk_accuracy"] < high
