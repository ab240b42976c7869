"""From a trained network to an artifact: calibrate on the held-out split, measure, write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.weights import Weights
from branchynet.data import datasets
from branchynet.data.datasets import Dataset
from branchynet.evaluation.calibrate import drift_reference, result_json
from branchynet.evaluation.codec_study import calibrated_ranges
from branchynet.evaluation.evaluation import measure_outcomes, trunk_accuracy
from branchynet.exits.operating_points import operating_points
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.paired_tests import difference_points
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.exits.threshold_search import frontier, select
from branchynet.network.runner import Runner
from branchynet.training.recipes import Recipe
from branchynet.training.trainer import Trained

__all__ = ["assemble", "calibrated", "training_split"]


def training_split(recipe: Recipe, data: Path | None) -> tuple[Dataset, Dataset]:
    """The recipe's training images and its held-out calibration images, by the recipe's seed."""
    whole = datasets.load(recipe.dataset, "train", data, progress=True)
    return datasets.split_calibration(whole, recipe.calibration_images, recipe.seed)


def assemble(
    name: str,
    out: Path,
    recipe: Recipe,
    trained: Trained,
    calibration: Dataset,
    test: Dataset | None,
    command: str,
    weights: Weights = "fp32",
) -> Artifact:
    """Write *trained* to *out*, `calibrated` by its recipe on *calibration* and measured on *test* if there is one."""
    artifact = Artifact.create(
        out,
        trained.network,
        trained.plain_trunk,
        name=name,
        architecture=recipe.architecture,
        labels=calibration.classes,
        dataset=recipe.dataset,
        weights=weights,
    ).with_fields(training={"command": command, "recipe": recipe.to_json()})
    return calibrated(artifact, calibration, test, recipe.criterion, recipe.accuracy_drop_points)


def calibrated(
    artifact: Artifact, calibration: Dataset, test: Dataset | None, criterion: Criterion, accuracy_drop_points: float
) -> Artifact:
    """*artifact* with its rule chosen on *calibration* and measured on *test*, and what nodes go by; written.

    The rule is the cheapest that loses at most *accuracy_drop_points* percentage points to the plain trunk or to the
    network's own final exit, whichever is better; or to the network's best rule where none is as accurate.
    """
    # The artifact as it lies on disk, rounded weights and all: a reader who loads it finds the same.
    engine = artifact.reference_engine
    network, plain_trunk, cost = artifact.runner(engine=engine), artifact.trunk(engine), artifact.manifest.cost
    table = measure_outcomes(network, cost, calibration)
    front = frontier(table, criterion)
    best = max(point.accuracy for point in front)
    # Joint training may leave the final exit behind the plain trunk, even behind exit 0: the better one counts.
    wanted = max(trunk_accuracy(plain_trunk, calibration), float(table.correct[-1].mean()))
    chosen = select(front, min(wanted, best) - accuracy_drop_points / 100)
    differs = difference_points(table, chosen.rule)
    results: dict[str, Any] = {"calibration": {**result_json(chosen), "difference_points": differs}}
    if test is not None:
        results["test"] = _test_results(measure_outcomes(network, cost, test), plain_trunk, chosen.rule, test)
        results["test"]["trunk_macs"] = cost.trunk_macs
    artifact = artifact.with_rule(chosen.rule, results).with_fields(
        codec_ranges=calibrated_ranges(network, calibration)
    )
    return artifact.with_calibration(drift_reference(table, chosen.rule), points=operating_points(front)).save()


def _test_results(table: OutcomeTable, plain_trunk: Runner, rule: ExitRule, test: Dataset) -> dict[str, Any]:
    return {
        "images": len(test),
        **result_json(table.apply(rule)),
        "exit_accuracies": [round(float(right.mean()), 6) for right in table.correct],
        "trunk_accuracy": round(trunk_accuracy(plain_trunk, test), 6),
    }
