"""Operating points are cheapest for their accuracy, a step apart, and a target gets the cheapest that reaches it."""

import math

import numpy as np
import pytest
from test_outcomes import random_table

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.errors import InvalidInput
from branchynet.exits.operating_points import STEP, OperatingPoint, operating_points, point_for
from branchynet.exits.rules import Criterion
from branchynet.exits.threshold_search import frontier, select


@pytest.mark.parametrize("step", [0.002, 0.05, 1.0])
@pytest.mark.parametrize("exits", [1, 2, 3])
def test_each_point_is_the_cheapest_of_its_accuracy_on_the_frontier(exits, step):
    table = random_table(exits, 500, seed=exits)
    front = frontier(table, Criterion.ENTROPY)
    points = operating_points(front, step)
    assert len(points) == len({point.accuracy for point in points}) == len({point.macs for point in points})
    for point in points:
        applied = table.apply(front[0].rule.with_thresholds(point.thresholds))
        assert (point.accuracy, point.macs) == (pytest.approx(applied.accuracy), pytest.approx(applied.cost, abs=0.1))
        assert point.macs == pytest.approx(select(front, point.accuracy).cost, abs=0.1)
    accuracies = [point.accuracy for point in points]
    assert accuracies == sorted(accuracies)
    assert (accuracies[0], accuracies[-1]) == (front[0].accuracy, front[-1].accuracy)
    for level in np.arange(0, 1, step):
        if accuracies[0] <= level <= accuracies[-1]:
            assert point_for(points, float(level)).macs == pytest.approx(select(front, float(level)).cost, abs=0.1)


def test_a_target_gets_no_dearer_a_rule_than_the_step_costs():
    table = random_table(3, 500, seed=4)
    front = frontier(table, Criterion.MARGIN)
    points = operating_points(front)
    for target in np.linspace(front[0].accuracy, front[-1].accuracy, 50):
        point = point_for(points, float(target))
        assert point.accuracy >= target
        best = select(front, float(target))
        assert best.cost - 0.1 <= point.macs <= select(front, min(best.accuracy + STEP, front[-1].accuracy)).cost + 0.1


POINTS = (OperatingPoint((2.0,), 0.8, 10.0), OperatingPoint((1.0,), 0.85, 20.0), OperatingPoint((0.5,), 0.9, 40.0))


@pytest.mark.parametrize(
    ("target", "chosen"), [(0.0, 0), (0.8, 0), (0.8001, 1), (0.85, 1), (0.87, 2), (0.9, 2), (0.9 + 1e-15, 2)]
)
def test_a_target_gets_the_cheapest_point_that_reaches_it(target, chosen):
    assert point_for(POINTS, target) == POINTS[chosen]
    assert point_for(POINTS[::-1], target) == POINTS[chosen], "in whatever order they lie"


@pytest.mark.parametrize("target", [0.9001, 1.0])
def test_a_target_that_no_point_reaches_is_refused_with_the_best_there_is(target):
    with pytest.raises(InvalidInput, match=rf"accuracy_target is {target}; the best there is .* is 0\.9$"):
        point_for(POINTS, target)


@pytest.mark.parametrize("target", [90.0, -0.1, float("nan"), float("inf")])
def test_a_target_that_is_no_share_is_refused(target):
    with pytest.raises(InvalidInput, match=r"accuracy_target is .* 0 to 1"):
        point_for(POINTS, target)


@pytest.mark.parametrize(
    ("thresholds", "accuracy", "macs"),
    [
        ((1.0,), 1.1, 5.0),
        ((1.0,), -0.1, 5.0),
        ((1.0,), float("nan"), 5.0),
        ((1.0,), 0.5, -1.0),
        ((float("inf"),), 0.5, 1.0),
    ],
)
def test_a_point_that_cannot_be_is_refused(thresholds, accuracy, macs):
    with pytest.raises(InvalidInput, match="an operating point has"):
        OperatingPoint(thresholds, accuracy, macs)


@pytest.mark.parametrize(
    "raw",
    [
        {},
        [],
        None,
        3,
        {"thresholds": 1.0, "accuracy": 0.5, "macs": 1.0},
        {"thresholds": ["x"], "accuracy": 0.5, "macs": 1.0},
    ],
)
def test_json_that_is_no_point_is_refused(raw):
    with pytest.raises(InvalidInput, match="no operating point"):
        OperatingPoint.from_json(raw)
    assert OperatingPoint.from_json(POINTS[0].to_json()) == POINTS[0]


@pytest.mark.parametrize("name", zoo.shipped())
def test_every_shipped_artifact_has_points_around_its_own_rule(name):
    artifact = Artifact.open(name)
    manifest, points = artifact.manifest, artifact.operating_points
    own = manifest.results["calibration"]
    if not manifest.rule.thresholds:
        assert [point.accuracy for point in points] == [own["accuracy"]]
        return
    assert len(points) >= 5
    assert points[0].accuracy < own["accuracy"] <= points[-1].accuracy
    assert point_for(points, math.floor(own["accuracy"] / STEP) * STEP).macs <= own["macs"]
