"""Plan files: what is written is read again, and what is no plan file is refused with what is wrong."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from test_adaptation import CANDIDATES, FLOOR, PROFILE

from branchynet.artifact.plan_file import PlanFile, read_plan_file, write_plan_file
from branchynet.errors import DamagedData, InvalidInput
from branchynet.placement.replanner import Adaptation, Replanner
from branchynet.placement.serving_profile import Link

HASH = "ab" * 32
PLANS = PlanFile(
    "toy", HASH, CANDIDATES.accurate(FLOOR), PROFILE, Link(5.0, rtt_ms=50.0), Adaptation(FLOOR, deadline_ms=300.0)
)


@pytest.fixture
def path(tmp_path):
    write_plan_file(tmp_path / "made" / "plans.json", PLANS)
    return tmp_path / "made" / "plans.json"


def test_what_is_written_is_read_again(path):
    found = read_plan_file(path)
    for name in ("artifact", "content_hash", "profile", "guessed", "adaptation"):
        assert getattr(found, name) == getattr(PLANS, name), name
    for field in fields(found.candidates):
        np.testing.assert_array_equal(getattr(found.candidates, field.name), getattr(PLANS.candidates, field.name))
    first = (Replanner(plans.candidates, PROFILE, plans.guessed, plans.adaptation, 0.0) for plans in (found, PLANS))
    assert len({replanner.plan for replanner in first}) == 1


def test_plans_of_another_artifact_are_refused_with_both_hashes():
    PLANS.check_artifact("toy", HASH)
    with pytest.raises(InvalidInput, match=f"for toy with content hash {HASH}; other has {'cd' * 32}"):
        PLANS.check_artifact("other", "cd" * 32)


def plan(number, **changes):
    """A change of plan *number*."""
    return lambda file: file["plans"][number].update(changes)


DAMAGES = {
    "another version": (lambda file: file.update(format=2), "format: Input should be 1"),
    "a key too many": (lambda file: file.update(more=1), "more: Extra inputs"),
    "a key too few": (lambda file: file.pop("guessed"), "guessed: Field required"),
    "no plans": (lambda file: file.update(plans=[]), "plans: Tuple should have at least 1"),
    "a way that is not there": (plan(-1, way=99), "is of way 99"),
    "ways that descend": (lambda file: file["plans"].reverse(), "ways must ascend"),
    "shares of more than all": (plan(0, shares=[0.5, 0.5, 0.5]), "the shares of plan 0 add up to 1.5"),
    "a share too few": (plan(1, shares=[0.5, 0.5]), "plan 1 has 2 shares and 2 thresholds"),
    "an accuracy above 1": (plan(0, accuracy=90.2), "accuracy: Input should be less than or equal to 1"),
    "no number": (plan(0, thresholds=[float("nan"), 1.0]), "finite number"),
    "no criterion": (lambda file: file["rule"].update(criterion="luck"), "'luck'"),
    "no link": (lambda file: file["guessed"].update(uplink_mbps=0), "uplink 0.0 Mbit/s"),
    "a gain of all": (lambda file: file["adaptation"].update(gain=1.0), "gain is 1.0"),
    "an adaptation without a floor": (lambda file: file["adaptation"].pop("min_accuracy"), "min_accuracy"),
    "another network's profile": (
        lambda file: file["profile"].update(exit_stages=[2]),
        "for 3 exits, the profile for 1",
    ),
    "a codec without a size": (
        lambda file: file["profile"].update(codecs=[]),
        "no codec 'uint4' was measured at cut 1",
    ),
    "more than is held": (lambda file: file["profile"].update(held=1), r"edge holds stages \[0, 1\)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_none_is_refused_with_what_is_wrong(path, damage):
    change, complaint = DAMAGES[damage]
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    with pytest.raises(DamagedData, match=complaint) as refused:
        read_plan_file(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "PK\x03"])
def test_what_is_not_even_json_is_refused_too(path, text):
    path.write_text(text)
    with pytest.raises(DamagedData, match="holds no plans"):
        read_plan_file(path)


def test_one_plan_alone_is_a_file_as_well(path):
    write_plan_file(path, replace(PLANS, candidates=PLANS.candidates.only(np.array([1]))))
    found = read_plan_file(path)
    assert [found.candidates.plan(0)] == [PLANS.candidates.plan(1)]
