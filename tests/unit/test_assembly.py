"""From a trained network to an artifact: the rule is chosen on held-out images, the results are those on disk."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from network_examples import LENET, TINY, quadrants, random_network, save_artifact
from test_outcomes import random_table

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.network_spec import NetworkSpec
from branchynet.data import datasets
from branchynet.data.datasets import split_calibration
from branchynet.errors import InvalidInput, UnknownModel
from branchynet.evaluation.calibrate import calibration_table, choose_rule, copy_with_rule, record_reference
from branchynet.evaluation.codec_study import calibrated_ranges
from branchynet.evaluation.evaluation import measure_outcomes, trunk_accuracy
from branchynet.exits.drift import Reference
from branchynet.exits.operating_points import operating_points
from branchynet.exits.rules import LOGIT_CRITERIA, Criterion, ExitRule
from branchynet.exits.threshold_search import frontier, select
from branchynet.models.architectures import Architecture, cost
from branchynet.network.runner import Engine
from branchynet.training.assembly import assemble, training_split
from branchynet.training.trainer import Trained

CALIBRATION = dataclasses.replace(quadrants(10, seed=5), split="calibration")
TEST = dataclasses.replace(quadrants(12, seed=6), split="test")


@pytest.fixture(scope="module")
def assembled(straight, tmp_path_factory):
    folder = tmp_path_factory.mktemp("assembled")
    assemble("tiny", folder, TINY, straight[0], CALIBRATION, TEST, "branchynet train --recipe tiny")
    return Artifact.open(folder), folder


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
@pytest.mark.parametrize("exits", [2, 3])
@pytest.mark.parametrize("drop_points", [0.0, 1.0, 20.0])
def test_the_rule_is_the_cheapest_within_the_drop(criterion, exits, drop_points):
    table = random_table(exits, 60, seed=exits)
    results, chosen = choose_rule(table, criterion, drop_points)
    floor = table.correct[-1].mean() - drop_points / 100
    assert chosen in results
    assert chosen.accuracy >= floor
    assert chosen.cost == min(result.cost for result in results if result.accuracy >= floor)


def test_no_drop_at_all_is_always_possible():
    for seed in range(20):
        table = random_table(3, 37, seed=seed)
        _, chosen = choose_rule(table, Criterion.ENTROPY, 0.0)
        assert chosen.accuracy >= table.correct[-1].mean()


def test_an_assembled_artifact_says_what_it_is(assembled, straight):
    manifest = assembled[0].manifest
    assert (manifest.name, manifest.dataset) == ("tiny", TINY.dataset)
    assert manifest.architecture == NetworkSpec("b-lenet", 4, (1, 28, 28), cost(TINY.architecture), "paper")
    assert manifest.labels == CALIBRATION.classes
    assert manifest.normalisation == straight[0].network.normalisation
    assert manifest.training["command"] == "branchynet train --recipe tiny"
    assert manifest.training["recipe"] == json.loads(json.dumps(TINY.to_json()))
    assert 1 <= manifest.cut < manifest.stages


def test_the_rule_comes_from_the_calibration_images_alone(assembled, straight):
    artifact, folder = assembled
    manifest = artifact.manifest
    table = measure_outcomes(straight[0].network, cost(TINY.architecture), CALIBRATION)
    plain = trunk_accuracy(Artifact.open(folder).trunk(Engine.EAGER), CALIBRATION)
    front = frontier(table, Criterion.ENTROPY)
    floor = (
        min(max(plain, table.correct[-1].mean()), max(point.accuracy for point in front))
        - TINY.accuracy_drop_points / 100
    )
    chosen = select(front, floor)
    assert manifest.rule == chosen.rule
    assert manifest.results["calibration"]["accuracy"] == pytest.approx(chosen.accuracy, abs=1e-6)
    assert manifest.results["calibration"]["macs"] == pytest.approx(chosen.cost, abs=0.1)
    assert chosen.accuracy >= floor
    assert artifact.operating_points == operating_points(front)


def test_a_trunk_worse_than_every_exit_is_no_excuse_to_leave_at_the_first(straight, tmp_path):
    network, plain_trunk = straight[0].network, straight[0].plain_trunk
    ruined = {name: torch.zeros_like(tensor) for name, tensor in plain_trunk.items()}
    recipe = dataclasses.replace(TINY, accuracy_drop_points=0.0)
    manifest = assemble("tiny", tmp_path, recipe, Trained(network, ruined), CALIBRATION, None, "command").manifest
    table = measure_outcomes(network, cost(TINY.architecture), CALIBRATION)
    assert trunk_accuracy(Artifact.open(tmp_path).trunk(Engine.EAGER), CALIBRATION) < table.correct[-1].mean()
    assert manifest.results["calibration"]["accuracy"] >= table.correct[-1].mean() - 1e-6


def test_the_rule_judges_by_the_recipes_criterion(straight, tmp_path):
    recipe = dataclasses.replace(TINY, criterion=Criterion.MARGIN)
    manifest = assemble("tiny", tmp_path, recipe, straight[0], CALIBRATION, None, "command").manifest
    assert manifest.rule.criterion is Criterion.MARGIN
    assert Artifact.open(tmp_path).manifest.training["recipe"]["criterion"] == "margin"


def test_recorded_test_results_are_found_again_by_whoever_loads_the_artifact(assembled):
    artifact, folder = assembled
    manifest = artifact.manifest
    recorded = manifest.results["test"]
    network = Artifact.open(folder).network()
    table = measure_outcomes(network, manifest.cost, TEST)
    result = table.apply(manifest.rule)
    assert recorded["images"] == len(TEST)
    assert recorded["accuracy"] == pytest.approx(result.accuracy, abs=1e-6)
    assert recorded["exit_shares"] == pytest.approx(result.exit_shares, abs=1e-6)
    assert recorded["macs"] == pytest.approx(result.cost, abs=0.1)
    assert recorded["exit_accuracies"] == pytest.approx(table.correct.mean(axis=1), abs=1e-6)
    plain_trunk = artifact.trunk(Engine.EAGER)
    assert recorded["trunk_accuracy"] == pytest.approx(trunk_accuracy(plain_trunk, TEST), abs=1e-6)
    assert recorded["trunk_macs"] == manifest.cost.trunk_macs


def test_without_test_images_there_are_no_test_results(straight, tmp_path):
    manifest = assemble("tiny", tmp_path, TINY, straight[0], CALIBRATION, None, "command").manifest
    assert set(manifest.results) == {"calibration"}
    written = Artifact.open(tmp_path).manifest
    assert (written.content_hash, written.rule, written.results) == (
        manifest.content_hash,
        manifest.rule,
        manifest.results,
    )


CHOSEN = ExitRule(Criterion.MARGIN, (0.3,))
SCORED = random_table(2, 40, seed=5)


def test_a_copy_with_another_rule_keeps_the_network_and_drops_old_results(tmp_path):
    original = save_artifact(tmp_path / "old", random_network()).manifest
    assert "test" in original.results
    copy = copy_with_rule(Artifact.open(tmp_path / "old"), tmp_path / "new", SCORED, CHOSEN)
    artifact = Artifact.open(tmp_path / "new")
    manifest, network = artifact.manifest, artifact.network()
    assert artifact == copy
    assert manifest.rule == CHOSEN
    applied = SCORED.apply(CHOSEN)
    calibration = manifest.results["calibration"]
    assert set(manifest.results) == {"calibration"}
    assert calibration["accuracy"] == pytest.approx(applied.accuracy, abs=1e-6)
    assert calibration["exit_shares"] == pytest.approx(applied.exit_shares, abs=1e-6)
    assert calibration["macs"] == pytest.approx(applied.cost, abs=0.1)
    assert artifact.drift_reference == Reference.of(SCORED, CHOSEN)
    assert artifact.operating_points == operating_points(frontier(SCORED, CHOSEN))
    assert manifest.content_hash == original.content_hash
    assert dataclasses.replace(manifest, rule=original.rule, results=original.results) == original
    for name, tensor in random_network().state_dict().items():
        assert network.state_dict()[name].equal(tensor)
    assert Artifact.open(tmp_path / "old").manifest == original
    Artifact.open(tmp_path / "new").trunk(Engine.EAGER)


def test_an_artifact_can_take_another_rule_in_place(tmp_path):
    save_artifact(tmp_path / "own", random_network())
    (tmp_path / "link").symlink_to(tmp_path / "own")
    copy_with_rule(Artifact.open(tmp_path / "own"), tmp_path / "link", SCORED, CHOSEN)
    assert Artifact.open(tmp_path / "own").manifest.rule == CHOSEN


def test_a_rule_with_a_memory_leaves_no_reference_to_watch_by(tmp_path):
    save_artifact(tmp_path / "old", random_network())
    copy = copy_with_rule(
        Artifact.open(tmp_path / "old"), tmp_path / "new", SCORED, ExitRule(Criterion.PATIENCE, (1.0,))
    )
    assert copy.drift_reference is None
    assert copy.operating_points


def test_an_exit_that_nobody_reaches_leaves_no_reference_to_watch_by(tmp_path):
    alexnet, table = Architecture("b-alexnet"), random_table(3, 40, seed=5)
    save_artifact(tmp_path / "old", random_network(alexnet), alexnet)
    everybody_at_once = ExitRule(Criterion.MARGIN, (Criterion.MARGIN.always, 0.3))
    copy = copy_with_rule(Artifact.open(tmp_path / "old"), tmp_path / "new", table, everybody_at_once)
    assert copy.drift_reference is None
    assert copy.manifest.results["calibration"]["exit_shares"] == [1.0, 0.0, 0.0]


def test_copying_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(UnknownModel, match="nowhere"):
        copy_with_rule(Artifact.open("nowhere"), tmp_path / "new", SCORED, CHOSEN)
    assert not (tmp_path / "new").exists()


@pytest.fixture
def whole_set(monkeypatch):
    """What `datasets.load` hands out in place of a data set, and how it was asked."""
    whole, asked = quadrants(10, classes=4), []

    def load(name, split, data, *, progress):
        asked.append((name, split, data))
        return whole

    monkeypatch.setattr(datasets, "load", load)
    return whole, asked


def test_a_training_split_is_the_recipes(whole_set):
    whole, asked = whole_set
    training, calibration = training_split(TINY, None)
    assert asked == [("mnist", "train", None)]
    expected = split_calibration(whole, TINY.calibration_images, TINY.seed)
    np.testing.assert_array_equal(training.images, expected[0].images)
    np.testing.assert_array_equal(calibration.images, expected[1].images)
    assert not {i.tobytes() for i in training.images} & {i.tobytes() for i in calibration.images}


def test_a_calibration_table_is_made_of_the_images_held_out_in_training(whole_set, assembled, tmp_path):
    whole, asked = whole_set
    table = calibration_table(assembled[0], tmp_path)
    assert asked == [("mnist", "train", tmp_path)], "never the test split"
    _, held = split_calibration(whole, TINY.calibration_images, TINY.seed)
    expected = measure_outcomes(assembled[0].network(), assembled[0].manifest.cost, held)
    np.testing.assert_array_equal(table.logits, expected.logits)
    np.testing.assert_array_equal(table.labels, held.labels)


@pytest.mark.parametrize("training", [{}, {"recipe": {}}, {"recipe": {"seed": 0}}, {"recipe": None}, {"recipe": 5}])
def test_an_artifact_that_does_not_say_what_was_held_out_is_refused(whole_set, tmp_path, training):
    artifact = save_artifact(tmp_path, random_network(LENET)).with_fields(training=training)
    with pytest.raises(InvalidInput, match="which images were held out"):
        calibration_table(artifact, None)
    assert not whole_set[1]


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_reference_is_added_beside_the_rule_and_the_results(whole_set, assembled, tmp_path, elsewhere):
    folder = tmp_path / "copy"
    shutil.copytree(assembled[1], folder)
    artifact = Artifact.open(folder).with_fields(codec_ranges={}).save()
    before = artifact.manifest
    out = tmp_path / "out" if elsewhere else None
    recorded = record_reference(artifact, None, out)
    assert recorded.folder == (out or folder)
    assert Artifact.open(recorded.folder) == recorded
    manifest = recorded.manifest
    held = split_calibration(whole_set[0], TINY.calibration_images, TINY.seed)[1]
    network = Artifact.open(folder).network()
    assert manifest.codec_ranges == calibrated_ranges(network, held)
    table = measure_outcomes(network, manifest.cost, held)
    assert recorded.drift_reference == Reference.of(table, manifest.rule)
    assert recorded.operating_points == operating_points(frontier(table, manifest.rule))
    assert (manifest.rule, manifest.files) == (before.rule, before.files)
    assert manifest.results["test"] == before.results["test"]


def test_a_rule_with_a_memory_gets_ranges_and_points_only(whole_set, assembled, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(assembled[1], folder)
    rule = ExitRule(Criterion.PATIENCE, (2.0,))
    recorded = record_reference(Artifact.open(folder).with_rule(rule, {}), None)
    assert recorded.drift_reference is None
    assert recorded.operating_points
    assert set(recorded.manifest.codec_ranges) == {1}
