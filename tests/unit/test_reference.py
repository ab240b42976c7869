"""The guarantee, the reference and the operating points in an artifact's manifest."""

import shutil

import pytest
from network_examples import LENET
from test_risk import population

from branchynet.artifact.artifact import Artifact
from branchynet.errors import InvalidInput
from branchynet.exits.drift import Reference
from branchynet.exits.operating_points import OperatingPoint
from branchynet.exits.risk_control import control_risk
from branchynet.exits.rules import Criterion, ExitRule


@pytest.fixture
def folder(artifact_folder, tmp_path):
    return shutil.copytree(artifact_folder(LENET), tmp_path / "example")


def test_what_calibration_leaves_is_there_when_the_artifact_is_read_again(folder):
    table = population()
    found = control_risk(table, Criterion.ENTROPY, 0.1, 0.9)
    artifact = Artifact.open(folder).with_rule(found.rule, {"calibration": {"macs": 5.0}})
    reference = Reference.of(table, found.rule)
    artifact.with_calibration(reference, found).save()
    again = Artifact.open(folder)
    assert again.drift_reference == reference
    assert again.manifest.results["calibration"]["macs"] == 5.0
    assert again.guarantee == found.to_json()


def test_a_record_of_another_rule_is_refused(folder):
    with pytest.raises(InvalidInput, match="this record is about"):
        Artifact.open(folder).with_calibration(Reference.of(population(), ExitRule(Criterion.ENTROPY, (0.123,))))


def test_an_artifact_without_a_reference_has_none_and_a_wrong_one_is_told(folder):
    artifact = Artifact.open(folder)
    assert artifact.drift_reference is None
    artifact.with_calibration(Reference.of(population(), artifact.manifest.rule)).save()
    assert Artifact.open(folder).drift_reference is not None
    for wrong in ("no reference", {"exits": []}, {"exits": [{"samples": 3}]}):
        damaged = artifact.with_results({"calibration": {"reference": wrong}})
        with pytest.raises(InvalidInput):
            assert damaged.drift_reference


POINTS = (OperatingPoint((2.0,), 0.8, 10.0), OperatingPoint((1.0,), 0.85, 20.0))


def test_operating_points_are_there_again_and_go_with_the_rule(folder):
    artifact = Artifact.open(folder)
    assert artifact.operating_points == ()
    reference = Reference.of(population(), artifact.manifest.rule)
    recorded = artifact.with_calibration(reference, points=POINTS).save()
    again = Artifact.open(folder)
    assert again == recorded
    assert again.operating_points == POINTS
    assert again.drift_reference == reference
    assert again.manifest.content_hash == artifact.manifest.content_hash
    assert again.with_rule(ExitRule(Criterion.MARGIN, (0.5,)), {}).operating_points == ()


def test_points_need_no_reference(folder):
    Artifact.open(folder).with_calibration(None, points=POINTS).save()
    again = Artifact.open(folder)
    assert (again.operating_points, again.drift_reference) == (POINTS, None)


@pytest.mark.parametrize("wrong", ["none", {}, [{}], [3], [{"thresholds": [1.0, 2.0], "accuracy": 0.5, "macs": 1.0}]])
def test_what_is_no_list_of_points_for_the_rule_is_told(folder, wrong):
    damaged = Artifact.open(folder).with_results({"calibration": {"operating_points": wrong}})
    with pytest.raises(InvalidInput):
        assert damaged.operating_points
