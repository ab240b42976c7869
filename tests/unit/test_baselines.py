"""The dull baselines: a plain network alone, and two whole models one after the other; and who wins."""

import dataclasses

import numpy as np
import pytest
from network_examples import HELD_OUT, TINY, TRAINING, quadrants
from node_examples import LIMITS

from branchynet.artifact.artifact import Artifact
from branchynet.data import datasets
from branchynet.data.datasets import split_calibration
from branchynet.errors import InvalidInput
from branchynet.evaluation.baselines import cascade_baseline, static_baseline, verdict
from branchynet.evaluation.calibrate import choose_rule
from branchynet.evaluation.compare import comparison_figures, measure_timings
from branchynet.evaluation.evaluation import exit_logits, measure_outcomes, score
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.exits.threshold_search import ACCURACY_DROP_POINTS
from branchynet.models.architectures import Architecture, cost
from branchynet.network.runner import Engine
from branchynet.serving.prediction import Place
from branchynet.training.assembly import assemble
from branchynet.training.trainer import train
from edge_node.node import EdgeNode
from edge_node.version import EdgeVersion

PLAIN = Architecture("lenet-small", "plain", classes=4)
PLAIN_MACS = cost(PLAIN).trunk_macs
WHOLE = quadrants(40, seed=3)
TEST = dataclasses.replace(quadrants(12, seed=6), split="test")


@pytest.fixture(scope="module")
def folders(straight, tmp_path_factory):
    """A trained early-exit artifact, and a plain one of the same data."""
    early, small = (tmp_path_factory.mktemp(name) for name in ("early", "small"))
    held_out = split_calibration(WHOLE, TINY.calibration_images, TINY.seed)[1]
    assemble("early", early, TINY, straight[0], held_out, TEST, "command")
    recipe = dataclasses.replace(TINY, architecture=PLAIN, exit_weights=(1.0,))
    trained = train(recipe, TRAINING, HELD_OUT, tmp_path_factory.mktemp("run"))
    assemble("small", small, recipe, trained, held_out, TEST, "command")
    return early, small


@pytest.fixture(autouse=True)
def training_images(monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda name, split, data, *, progress: WHOLE if split == "train" else None)


@pytest.fixture
def early(folders):
    return score(Artifact.open(folders[0]), TEST)


def test_a_network_of_one_exit_is_trained_written_read_and_has_no_threshold(folders):
    artifact = Artifact.open(folders[1])
    manifest, network = artifact.manifest, artifact.network()
    assert (network.exits, manifest.stages, manifest.rule.thresholds) == (1, 1, ())
    assert manifest.results["test"]["exit_shares"] == [1.0]
    assert manifest.results["test"]["macs"] == manifest.results["test"]["trunk_macs"] == PLAIN_MACS


async def test_an_edge_serves_a_network_of_one_exit(folders):
    artifact = Artifact.open(folders[1])
    manifest, network = artifact.manifest, artifact.network()
    node = EdgeNode(EdgeVersion(artifact, network, None, LIMITS, 64))
    try:
        answers = await node.classify(TEST.images[:5])
    finally:
        node.close()
    expected = measure_outcomes(network, manifest.cost, TEST.take(range(5))).logits[0].argmax(1)
    assert [answer.label for answer in answers] == expected.tolist()
    assert {(answer.place, answer.exit) for answer in answers} == {(Place.EDGE, 0)}


def test_a_static_baseline_is_the_plain_network_alone(folders, early):
    baseline = static_baseline(folders[1], early, TEST)
    assert (baseline.kind, baseline.rule, baseline.table.exits) == ("static", ExitRule.never(1), 1)
    np.testing.assert_array_equal(baseline.right, baseline.table.correct[0])


def test_a_cascade_asks_the_trunk_about_what_the_small_network_doubts(folders, early):
    baseline = cascade_baseline(folders[1], early, TEST, None)
    artifact = Artifact.open(folders[1])
    manifest, small = artifact.manifest, artifact.network()
    held_out = split_calibration(WHOLE, TINY.calibration_images, TINY.seed)[1]
    macs = manifest.cost.trunk_macs
    costs = np.array([macs, macs + early.artifact.manifest.cost.trunk_macs], dtype=float)
    np.testing.assert_array_equal(baseline.table.costs, costs)
    np.testing.assert_array_equal(baseline.table.logits[1], early.trunk_logits)
    trunk = early.artifact.trunk()
    logits = np.stack([exit_logits(network, held_out)[0] for network in (small, trunk)])
    calibration = OutcomeTable(logits, held_out.labels, costs)
    _, chosen = choose_rule(calibration, Criterion.ENTROPY, ACCURACY_DROP_POINTS)
    assert baseline.rule == chosen.rule
    taken = baseline.table.exit_of(baseline.rule)
    expected = np.where(taken == 0, baseline.table.correct[0], early.trunk_right)
    np.testing.assert_array_equal(baseline.right, expected)


def test_the_threshold_of_a_cascade_does_not_look_at_the_test_set(folders, early):
    """On these images the trunk is always right and the small network hardly ever, so none should leave there."""
    other = dataclasses.replace(TEST, labels=(TEST.labels + 1) % 4)
    always_right = dataclasses.replace(early, trunk_logits=np.eye(4, dtype=np.float32)[other.labels])
    chosen = cascade_baseline(folders[1], early, TEST, None).rule
    assert chosen.thresholds > (0.0,)
    assert cascade_baseline(folders[1], always_right, other, None).rule == chosen


def test_a_cascade_is_timed_as_it_would_run(folders, early):
    baseline = cascade_baseline(folders[1], early, TEST, None)
    score = Criterion.ENTROPY.score(baseline.table.logits[0])
    median = dataclasses.replace(baseline, rule=ExitRule("entropy", (float(np.median(score)),)))
    ran = []

    class Remembering:
        total_stages = 1

        def __init__(self, name, logits):
            self.name, self.logits = name, logits

        def run(self, index, x):
            ran.append((self.name, int(x[0, 0, 0, 0])))
            return x, self.logits[int(x[0, 0, 0, 0])][None]

    small, trunk = Remembering("small", median.table.logits[0]), Remembering("trunk", early.trunk_logits)
    for position in range(len(TEST)):
        median.run(small, trunk, np.full((1, 1, 28, 28), position, dtype=np.uint8))
    assert [position for name, position in ran if name == "small"] == list(range(len(TEST)))
    asked = [position for name, position in ran if name == "trunk"]
    np.testing.assert_array_equal(asked, np.flatnonzero(median.table.exit_of(median.rule)))


def test_baselines_come_with_their_figures_and_a_verdict(folders, early):
    baselines = [static_baseline(folders[1], early, TEST), cascade_baseline(folders[1], early, TEST, None)]
    rules = {"early_exit": early.artifact.manifest.rule}
    timings = measure_timings(early, rules, baselines, TEST.images[:3], 2, [Engine.EAGER])
    figures = comparison_figures(early, baselines, timings)["baselines"]
    assert list(figures) == ["static", "cascade"]
    for kind, measured in figures.items():
        assert measured["artifact"] == "small"
        assert measured["ms"] == timings.median(kind)
        assert measured["against_early_exit"]["difference"] == pytest.approx(
            measured["accuracy"] - early.table.apply(early.artifact.manifest.rule).accuracy
        )
        assert any(word in measured["verdict"] for word in ("beats", "neither"))
    assert figures["static"]["macs"] == PLAIN_MACS
    assert len(figures["cascade"]["exit_shares"]) == 2


def test_what_is_no_baseline_is_refused(folders, early):
    with pytest.raises(InvalidInput, match="early has 2 exits"):
        static_baseline(folders[0], early, TEST)
    artifact = Artifact(early.artifact.folder, dataclasses.replace(early.artifact.manifest, dataset="fashion-mnist"))
    with pytest.raises(InvalidInput, match="small is for mnist, early for fashion-mnist"):
        static_baseline(folders[1], dataclasses.replace(early, artifact=artifact), TEST)
    other_seed = {"recipe": {**early.artifact.manifest.training["recipe"], "seed": 1}}
    artifact = early.artifact.with_fields(training=other_seed)
    with pytest.raises(InvalidInput, match="held out different images"):
        cascade_baseline(folders[1], dataclasses.replace(early, artifact=artifact), TEST, None)


VERDICTS = {
    "cheaper and as good": ((-0.001, 0.4, 1.5, 1.2), "it beats early exit: as accurate within chance"),
    "cheaper and better": ((0.02, 0.001, 1.5, 1.2), "it beats early exit: more accurate (+2.00 points"),
    "cheaper and worse": ((-0.02, 0.001, 3.0, 2.0), "neither beats the other: less accurate (-2.00 points"),
    "dearer and as good": ((0.001, 0.4, 0.5, 0.8), "early exit beats it: as accurate within chance"),
    "dearer and better": ((0.02, 0.001, 0.5, 0.8), "neither beats the other: more accurate"),
    "fewer MACs, slower": ((0.0, 1.0, 1.5, 0.5), "neither beats the other: as accurate"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_who_wins_is_said_in_words(case):
    arguments, words = VERDICTS[case]
    assert verdict(*arguments).startswith(words)


def test_a_verdict_gives_ratios_above_one():
    assert verdict(0.0, 1.0, 2.0, 0.5).endswith("2.00x fewer MACs, 2.00x slower")
    assert verdict(0.0, 1.0, 0.25, 4.0).endswith("4.00x more MACs, 4.00x quicker")
