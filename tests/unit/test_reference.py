"""The guarantee, the reference and the operating points in an artifact's manifest."""

import dataclasses
import json
import shutil

import pytest
from network_examples import LENET
from test_risk import population

from branchynet.artifact import read_manifest, write_manifest
from branchynet.decisions.drift import Reference
from branchynet.decisions.exits import Criterion, ExitRule
from branchynet.decisions.operating import OperatingPoint
from branchynet.decisions.risk import control_risk
from branchynet.errors import InvalidInput
from branchynet.reference import points_of, record_calibration, reference_of


@pytest.fixture
def folder(artifact_folder, tmp_path):
    return shutil.copytree(artifact_folder(LENET), tmp_path / "example")


def test_what_calibration_leaves_is_there_when_the_artifact_is_read_again(folder):
    table = population()
    found = control_risk(table, Criterion.ENTROPY, 0.1, 0.9)
    write_manifest(folder, read_manifest(folder).with_rule(found.rule, {"calibration": {"macs": 5.0}}))
    reference = Reference.of(table, found.rule)
    record_calibration(folder, reference, found)
    again = read_manifest(folder)
    assert reference_of(again) == reference
    assert again.results["calibration"]["macs"] == 5.0
    assert again.results["calibration"]["guarantee"] == found.to_json()
    assert again.results["calibration"]["guarantee"]["tolerated_loss"] == 0.1


def test_a_record_of_another_rule_is_refused(folder):
    with pytest.raises(InvalidInput, match="this record is about"):
        record_calibration(folder, Reference.of(population(), ExitRule(Criterion.ENTROPY, (0.123,))))


def test_an_artifact_without_a_reference_has_none_and_a_wrong_one_is_told(folder):
    manifest = read_manifest(folder)
    assert reference_of(manifest) is None
    record_calibration(folder, Reference.of(population(), manifest.rule))
    assert reference_of(read_manifest(folder)) is not None
    for wrong in ("no reference", {"exits": []}, {"exits": [{"samples": 3}]}):
        damaged = dataclasses.replace(manifest, results={"calibration": {"reference": wrong}})
        json.dumps(damaged.results)
        with pytest.raises(InvalidInput):
            reference_of(damaged)


POINTS = (OperatingPoint((2.0,), 0.8, 10.0), OperatingPoint((1.0,), 0.85, 20.0))


def test_operating_points_are_there_again_and_go_with_the_rule(folder):
    manifest = read_manifest(folder)
    assert points_of(manifest) == ()
    reference = Reference.of(population(), manifest.rule)
    recorded = record_calibration(folder, reference, points=POINTS)
    again = read_manifest(folder)
    assert again == recorded
    assert points_of(again) == POINTS
    assert reference_of(again) == reference
    assert again.content_hash == manifest.content_hash
    assert points_of(again.with_rule(ExitRule(Criterion.MARGIN, (0.5,)), {})) == ()


def test_points_need_no_reference(folder):
    record_calibration(folder, None, points=POINTS)
    again = read_manifest(folder)
    assert (points_of(again), reference_of(again)) == (POINTS, None)


@pytest.mark.parametrize("wrong", ["none", {}, [{}], [3], [{"thresholds": [1.0, 2.0], "accuracy": 0.5, "macs": 1.0}]])
def test_what_is_no_list_of_points_for_the_rule_is_told(folder, wrong):
    manifest = read_manifest(folder)
    damaged = dataclasses.replace(manifest, results={"calibration": {"operating_points": wrong}})
    with pytest.raises(InvalidInput):
        points_of(damaged)
