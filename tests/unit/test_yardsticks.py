"""The dull baselines: a plain network alone, and two whole models one after the other; and who wins."""

import dataclasses

import numpy as np
import pytest
from network_examples import HELD_OUT, TINY, TRAINING, quadrants
from node_examples import LIMITS

from branchynet import artifact
from branchynet.decisions.exits import Criterion, ExitRule
from branchynet.decisions.outcomes import OutcomeTable
from branchynet.engine import Engine
from branchynet.errors import InvalidInput
from branchynet.models import Architecture, cost
from branchynet.prediction import Place
from branchynet.training import datasets
from branchynet.training.assembly import assemble, choose_rule
from branchynet.training.comparison import compare, measure_timings
from branchynet.training.datasets import split_calibration
from branchynet.training.evaluation import exit_logits, measure_outcomes, score
from branchynet.training.joint import train
from branchynet.training.recipes import MAX_DROP
from branchynet.training.yardsticks import cascade_yardstick, static_yardstick, verdict
from edge_node.node import EdgeNode

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
    return score(folders[0], TEST)


def test_a_network_of_one_exit_is_trained_written_read_and_has_no_threshold(folders):
    manifest, network = artifact.load(folders[1])
    assert (network.exits, manifest.stages, manifest.rule.thresholds) == (1, 1, ())
    assert manifest.results["test"]["exit_shares"] == [1.0]
    assert manifest.results["test"]["macs"] == manifest.results["test"]["trunk_macs"] == PLAIN_MACS


async def test_an_edge_serves_a_network_of_one_exit(folders):
    manifest, network = artifact.load(folders[1])
    node = EdgeNode(manifest, network, None, LIMITS, 64)
    try:
        answers = await node.classify(TEST.images[:5])
    finally:
        node.close()
    expected = measure_outcomes(network, cost(manifest.architecture), TEST.take(range(5))).logits[0].argmax(1)
    assert [answer.label for answer in answers] == expected.tolist()
    assert {(answer.place, answer.exit) for answer in answers} == {(Place.EDGE, 0)}


def test_a_static_yardstick_is_the_plain_network_alone(folders, early):
    yardstick = static_yardstick(folders[1], early, TEST)
    assert (yardstick.kind, yardstick.rule, yardstick.table.exits) == ("static", ExitRule.never(1), 1)
    np.testing.assert_array_equal(yardstick.right, yardstick.table.correct[0])


def test_a_cascade_asks_the_trunk_about_what_the_small_network_doubts(folders, early):
    yardstick = cascade_yardstick(folders[1], early, TEST, None)
    manifest, small = artifact.load(folders[1])
    held_out = split_calibration(WHOLE, TINY.calibration_images, TINY.seed)[1]
    macs = cost(manifest.architecture).trunk_macs
    costs = np.array([macs, macs + early.manifest.cost.trunk_macs], dtype=float)
    np.testing.assert_array_equal(yardstick.table.costs, costs)
    np.testing.assert_array_equal(yardstick.table.logits[1], early.trunk_logits)
    trunk = artifact.load_trunk(early.folder, early.manifest)
    logits = np.stack([exit_logits(network, held_out)[0] for network in (small, trunk)])
    calibration = OutcomeTable(logits, held_out.labels, costs)
    _, chosen = choose_rule(calibration, Criterion.ENTROPY, MAX_DROP)
    assert yardstick.rule == chosen.rule
    taken = yardstick.table.exit_of(yardstick.rule)
    expected = np.where(taken == 0, yardstick.table.correct[0], early.trunk_right)
    np.testing.assert_array_equal(yardstick.right, expected)


def test_a_cascade_is_timed_as_it_would_run(folders, early):
    yardstick = cascade_yardstick(folders[1], early, TEST, None)
    score = Criterion.ENTROPY.score(yardstick.table.logits[0])
    median = dataclasses.replace(yardstick, rule=ExitRule("entropy", (float(np.median(score)),)))
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


def test_yardsticks_come_with_their_figures_and_a_verdict(folders, early):
    yardsticks = [static_yardstick(folders[1], early, TEST), cascade_yardstick(folders[1], early, TEST, None)]
    rules = {"early_exit": early.manifest.rule}
    timings = measure_timings(early, rules, yardsticks, TEST.images[:3], 2, [Engine.EAGER])
    figures = compare(early, yardsticks, timings)["yardsticks"]
    assert list(figures) == ["static", "cascade"]
    for kind, measured in figures.items():
        assert measured["artifact"] == "small"
        assert measured["ms"] == timings.median(kind)
        assert measured["against_early_exit"]["difference"] == pytest.approx(
            measured["accuracy"] - early.table.apply(early.manifest.rule).accuracy
        )
        assert any(word in measured["verdict"] for word in ("beats", "neither"))
    assert figures["static"]["macs"] == PLAIN_MACS
    assert len(figures["cascade"]["exit_shares"]) == 2


def test_what_is_no_yardstick_is_refused(folders, early):
    with pytest.raises(InvalidInput, match="early has 2 exits"):
        static_yardstick(folders[0], early, TEST)
    manifest = dataclasses.replace(early.manifest, dataset="fashion-mnist")
    with pytest.raises(InvalidInput, match="small is for mnist, early for fashion-mnist"):
        static_yardstick(folders[1], dataclasses.replace(early, manifest=manifest), TEST)
    other_seed = {"recipe": {**early.manifest.training["recipe"], "seed": 1}}
    manifest = dataclasses.replace(early.manifest, training=other_seed)
    with pytest.raises(InvalidInput, match="held out different images"):
        cascade_yardstick(folders[1], dataclasses.replace(early, manifest=manifest), TEST, None)


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
