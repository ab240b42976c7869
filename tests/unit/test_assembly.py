"""From a trained network to an artifact: the rule is chosen on held-out images, the results are those on disk."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from network_examples import LENET, TINY, quadrants, random_network, save_artifact
from test_outcomes import random_table

from branchynet import artifact
from branchynet.decisions.calibration import frontier, select
from branchynet.decisions.drift import Reference
from branchynet.decisions.exits import LOGIT_CRITERIA, Criterion, ExitRule
from branchynet.decisions.operating import operating_points
from branchynet.errors import InvalidInput, UnknownModel
from branchynet.models import Architecture, cost
from branchynet.reference import points_of, reference_of
from branchynet.training import datasets
from branchynet.training.assembly import (
    assemble,
    calibration_table,
    choose_rule,
    copy_with_rule,
    record_reference,
    training_split,
)
from branchynet.training.codec_study import calibrated_ranges
from branchynet.training.datasets import split_calibration
from branchynet.training.evaluation import measure_outcomes, trunk_accuracy
from branchynet.training.joint import Trained

CALIBRATION = dataclasses.replace(quadrants(10, seed=5), split="calibration")
TEST = dataclasses.replace(quadrants(12, seed=6), split="test")


@pytest.fixture(scope="module")
def assembled(straight, tmp_path_factory):
    folder = tmp_path_factory.mktemp("assembled")
    assemble("tiny", folder, TINY, straight[0], CALIBRATION, TEST, "branchynet train --recipe tiny")
    return artifact.read_manifest(folder), folder


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
@pytest.mark.parametrize("exits", [2, 3])
@pytest.mark.parametrize("max_drop", [0.0, 0.01, 0.2])
def test_the_rule_is_the_cheapest_within_the_drop(criterion, exits, max_drop):
    table = random_table(exits, 60, seed=exits)
    results, chosen = choose_rule(table, criterion, max_drop)
    floor = table.correct[-1].mean() - max_drop
    assert chosen in results
    assert chosen.accuracy >= floor
    assert chosen.cost == min(result.cost for result in results if result.accuracy >= floor)


def test_no_drop_at_all_is_always_possible():
    for seed in range(20):
        table = random_table(3, 37, seed=seed)
        _, chosen = choose_rule(table, Criterion.ENTROPY, 0.0)
        assert chosen.accuracy >= table.correct[-1].mean()


def test_an_assembled_artifact_says_what_it_is(assembled, straight):
    manifest, _ = assembled
    assert (manifest.name, manifest.architecture, manifest.dataset) == ("tiny", TINY.architecture, TINY.dataset)
    assert manifest.labels == CALIBRATION.classes
    assert manifest.normalisation == straight[0].network.normalisation
    assert manifest.training["command"] == "branchynet train --recipe tiny"
    assert manifest.training["recipe"] == json.loads(json.dumps(TINY.to_json()))
    assert 1 <= manifest.cut < manifest.stages


def test_the_rule_comes_from_the_calibration_images_alone(assembled, straight):
    manifest, folder = assembled
    table = measure_outcomes(straight[0].network, cost(TINY.architecture), CALIBRATION)
    plain = trunk_accuracy(artifact.load_baseline(folder, manifest), CALIBRATION)
    front = frontier(table, Criterion.ENTROPY)
    floor = min(max(plain, table.correct[-1].mean()), max(point.accuracy for point in front)) - TINY.max_drop
    chosen = select(front, floor)
    assert manifest.rule == chosen.rule
    assert manifest.results["calibration"]["accuracy"] == pytest.approx(chosen.accuracy, abs=1e-6)
    assert manifest.results["calibration"]["macs"] == pytest.approx(chosen.cost, abs=0.1)
    assert chosen.accuracy >= floor
    assert points_of(manifest) == operating_points(front)


def test_a_trunk_worse_than_every_exit_is_no_excuse_to_leave_at_the_first(straight, tmp_path):
    network, baseline = straight[0].network, straight[0].baseline
    ruined = {name: torch.zeros_like(tensor) for name, tensor in baseline.items()}
    recipe = dataclasses.replace(TINY, max_drop=0.0)
    manifest = assemble("tiny", tmp_path, recipe, Trained(network, ruined), CALIBRATION, None, "command")
    table = measure_outcomes(network, cost(TINY.architecture), CALIBRATION)
    assert trunk_accuracy(artifact.load_baseline(tmp_path, manifest), CALIBRATION) < table.correct[-1].mean()
    assert manifest.results["calibration"]["accuracy"] >= table.correct[-1].mean() - 1e-6


def test_the_rule_judges_by_the_recipes_criterion(straight, tmp_path):
    recipe = dataclasses.replace(TINY, criterion=Criterion.MARGIN)
    manifest = assemble("tiny", tmp_path, recipe, straight[0], CALIBRATION, None, "command")
    assert manifest.rule.criterion is Criterion.MARGIN
    assert artifact.read_manifest(tmp_path).training["recipe"]["criterion"] == "margin"


def test_recorded_test_results_are_found_again_by_whoever_loads_the_artifact(assembled):
    manifest, folder = assembled
    recorded = manifest.results["test"]
    _, network = artifact.load(folder)
    table = measure_outcomes(network, cost(manifest.architecture), TEST)
    result = table.apply(manifest.rule)
    assert recorded["images"] == len(TEST)
    assert recorded["accuracy"] == pytest.approx(result.accuracy, abs=1e-6)
    assert recorded["exit_shares"] == pytest.approx(result.exit_shares, abs=1e-6)
    assert recorded["macs"] == pytest.approx(result.cost, abs=0.1)
    assert recorded["exit_accuracies"] == pytest.approx(table.correct.mean(axis=1), abs=1e-6)
    baseline = artifact.load_baseline(folder, manifest)
    assert recorded["trunk_accuracy"] == pytest.approx(trunk_accuracy(baseline, TEST), abs=1e-6)
    assert recorded["trunk_macs"] == cost(manifest.architecture).trunk_macs


def test_without_test_images_there_are_no_test_results(straight, tmp_path):
    manifest = assemble("tiny", tmp_path, TINY, straight[0], CALIBRATION, None, "command")
    assert set(manifest.results) == {"calibration"}
    written = artifact.read_manifest(tmp_path)
    assert (written.content_hash, written.rule, written.results) == (
        manifest.content_hash,
        manifest.rule,
        manifest.results,
    )


CHOSEN = ExitRule(Criterion.MARGIN, (0.3,))
SCORED = random_table(2, 40, seed=5)


def test_a_copy_with_another_rule_keeps_the_network_and_drops_old_results(tmp_path):
    original = save_artifact(tmp_path / "old", random_network())
    assert "test" in original.results
    copy = copy_with_rule(str(tmp_path / "old"), tmp_path / "new", SCORED, CHOSEN)
    manifest, network = artifact.load(tmp_path / "new")
    assert manifest == copy
    assert manifest.rule == CHOSEN
    applied = SCORED.apply(CHOSEN)
    calibration = manifest.results["calibration"]
    assert set(manifest.results) == {"calibration"}
    assert calibration["accuracy"] == pytest.approx(applied.accuracy, abs=1e-6)
    assert calibration["exit_shares"] == pytest.approx(applied.exit_shares, abs=1e-6)
    assert calibration["macs"] == pytest.approx(applied.cost, abs=0.1)
    assert reference_of(manifest) == Reference.of(SCORED, CHOSEN)
    assert points_of(manifest) == operating_points(frontier(SCORED, CHOSEN))
    assert manifest.content_hash == original.content_hash
    assert dataclasses.replace(manifest, rule=original.rule, results=original.results) == original
    for name, tensor in random_network().state_dict().items():
        assert network.state_dict()[name].equal(tensor)
    assert artifact.read_manifest(tmp_path / "old") == original
    artifact.load_baseline(tmp_path / "new", manifest)


def test_an_artifact_can_take_another_rule_in_place(tmp_path):
    save_artifact(tmp_path / "own", random_network())
    (tmp_path / "link").symlink_to(tmp_path / "own")
    copy_with_rule(str(tmp_path / "own"), tmp_path / "link", SCORED, CHOSEN)
    assert artifact.load(tmp_path / "own")[0].rule == CHOSEN


def test_a_rule_with_a_memory_leaves_no_reference_to_watch_by(tmp_path):
    save_artifact(tmp_path / "old", random_network())
    manifest = copy_with_rule(str(tmp_path / "old"), tmp_path / "new", SCORED, ExitRule(Criterion.PATIENCE, (1.0,)))
    assert reference_of(manifest) is None
    assert points_of(manifest)


def test_an_exit_that_nobody_reaches_leaves_no_reference_to_watch_by(tmp_path):
    alexnet, table = Architecture("b-alexnet"), random_table(3, 40, seed=5)
    save_artifact(tmp_path / "old", random_network(alexnet), alexnet)
    everybody_at_once = ExitRule(Criterion.MARGIN, (Criterion.MARGIN.always, 0.3))
    manifest = copy_with_rule(str(tmp_path / "old"), tmp_path / "new", table, everybody_at_once)
    assert reference_of(manifest) is None
    assert manifest.results["calibration"]["exit_shares"] == [1.0, 0.0, 0.0]


def test_copying_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(UnknownModel, match="nowhere"):
        copy_with_rule("nowhere", tmp_path / "new", SCORED, CHOSEN)
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
    manifest, table = calibration_table(str(assembled[1]), tmp_path)
    assert asked == [("mnist", "train", tmp_path)], "never the test split"
    _, held = split_calibration(whole, TINY.calibration_images, TINY.seed)
    _, network = artifact.load(assembled[1])
    expected = measure_outcomes(network, cost(manifest.architecture), held)
    np.testing.assert_array_equal(table.logits, expected.logits)
    np.testing.assert_array_equal(table.labels, held.labels)


@pytest.mark.parametrize("training", [{}, {"recipe": {}}, {"recipe": {"seed": 0}}, {"recipe": None}, {"recipe": 5}])
def test_an_artifact_that_does_not_say_what_was_held_out_is_refused(whole_set, tmp_path, training):
    manifest = save_artifact(tmp_path, random_network(LENET))
    artifact.write_manifest(tmp_path, dataclasses.replace(manifest, training=training))
    with pytest.raises(InvalidInput, match="which images were held out"):
        calibration_table(str(tmp_path), None)
    assert not whole_set[1]


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_reference_is_added_beside_the_rule_and_the_results(whole_set, assembled, tmp_path, elsewhere):
    folder = tmp_path / "copy"
    shutil.copytree(assembled[1], folder)
    before = artifact.read_manifest(folder)
    artifact.write_manifest(folder, dataclasses.replace(before, codec_ranges={}))
    out = tmp_path / "out" if elsewhere else None
    written, manifest = record_reference(str(folder), None, out)
    assert written == (out or folder)
    assert artifact.read_manifest(written) == manifest
    held = split_calibration(whole_set[0], TINY.calibration_images, TINY.seed)[1]
    network = artifact.load(folder)[1]
    assert manifest.codec_ranges == calibrated_ranges(network, held)
    table = measure_outcomes(network, manifest.cost, held)
    assert reference_of(manifest) == Reference.of(table, manifest.rule)
    assert points_of(manifest) == operating_points(frontier(table, manifest.rule))
    assert (manifest.rule, manifest.files) == (before.rule, before.files)
    assert manifest.results["test"] == before.results["test"]


def test_a_rule_with_a_memory_gets_ranges_and_points_only(whole_set, assembled, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(assembled[1], folder)
    rule = ExitRule(Criterion.PATIENCE, (2.0,))
    artifact.write_manifest(folder, artifact.read_manifest(folder).with_rule(rule, {}))
    manifest = record_reference(str(folder), None)[1]
    assert reference_of(manifest) is None
    assert points_of(manifest)
    assert set(manifest.codec_ranges) == {1}
