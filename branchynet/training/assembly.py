"""From a trained network to an artifact: calibrate on the held-out split, measure, write."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from branchynet import artifact as artifacts
from branchynet.decisions.calibration import frontier, select
from branchynet.decisions.drift import Reference
from branchynet.decisions.exits import Criterion, ExitRule
from branchynet.decisions.operating import operating_points
from branchynet.decisions.outcomes import OutcomeTable, RuleResult
from branchynet.decisions.risk import RiskControlled
from branchynet.errors import InvalidInput
from branchynet.manifest import Manifest
from branchynet.models import zoo
from branchynet.network import BranchyNet
from branchynet.reference import record_calibration
from branchynet.training import datasets
from branchynet.training.codec_study import calibrated_ranges
from branchynet.training.datasets import Dataset
from branchynet.training.evaluation import measure_outcomes, trunk_accuracy
from branchynet.training.joint import Trained
from branchynet.training.recipes import Recipe
from branchynet.weight_files import Weights

__all__ = [
    "assemble",
    "calibration_table",
    "choose_rule",
    "copy_with_rule",
    "held_out_images",
    "images_of",
    "record_reference",
    "training_split",
]

DEFAULT_CUT = 1


def training_split(recipe: Recipe, data: Path | None) -> tuple[Dataset, Dataset]:
    """The recipe's training images and its held-out calibration images, by the recipe's seed."""
    whole = datasets.load(recipe.dataset, "train", data, progress=True)
    return datasets.split_calibration(whole, recipe.calibration_images, recipe.seed)


def held_out_images(manifest: Manifest, data: Path | None) -> Dataset:
    """The training images that were held out when the artifact was trained; raises what `images_of` raises."""
    return images_of(manifest, data)[1]


def images_of(manifest: Manifest, data: Path | None) -> tuple[Dataset, Dataset]:
    """The images that the artifact was trained on, and those that were held out then.

    Raises `InvalidInput` if its recipe does not say which, `Unavailable` if the training images are not here.
    """
    held, seed = manifest.recipe.get("calibration_images"), manifest.recipe.get("seed")
    if not isinstance(held, int) or not isinstance(seed, int):
        told = manifest.training.get("recipe")
        raise InvalidInput(f"{manifest.name} does not say which images were held out: its recipe is {told!r}")
    whole = datasets.load(manifest.dataset, "train", data, progress=True)
    return datasets.split_calibration(whole, held, seed)


def calibration_table(name_or_folder: str, data: Path | None) -> tuple[Manifest, OutcomeTable]:
    """An artifact's manifest, and its outcomes on the images that were held out when it was trained."""
    manifest, network = artifacts.load_runner(zoo.find(name_or_folder))
    return manifest, measure_outcomes(network, manifest.cost, held_out_images(manifest, data))


def choose_rule(
    table: OutcomeTable, rule: ExitRule | Criterion, max_drop: float
) -> tuple[list[RuleResult], RuleResult]:
    """The frontier of *rule*'s thresholds, and the cheapest that loses at most *max_drop* (0..1) to the final exit."""
    front = frontier(table, rule)
    return front, select(front, float(table.correct[-1].mean()) - max_drop)


def copy_with_rule(
    name_or_folder: str, out: Path, table: OutcomeTable, rule: ExitRule, guarantee: RiskControlled | None = None
) -> Manifest:
    """Copy an artifact to *out* (its own folder is fine) with another *rule*, chosen on *table*.

    What was measured with the old rule is dropped; what the new one does on *table* is recorded, with its *guarantee*
    if it has one, with the scores there, which an edge that watches its exits compares with, and with the operating
    points of its criterion.
    """
    source = zoo.find(name_or_folder)
    if source.resolve() != out.resolve():
        shutil.copytree(source, out, dirs_exist_ok=True)
    results = {"calibration": _result_json(table.apply(rule))}
    manifest = artifacts.read_manifest(source).with_rule(rule, results)
    artifacts.write_manifest(out, manifest)
    return record_calibration(out, _reference(table, rule), guarantee, operating_points(frontier(table, rule)))


def record_reference(name_or_folder: str, data: Path | None, out: Path | None = None) -> tuple[Path, Manifest]:
    """Add to an artifact, or to its copy in *out*, scores of its exits, operating points, and ranges of its maps.

    All are those of the held-out training images. A rule with a memory gets no scores. Returns the folder and the
    manifest; raises what `held_out_images` raises.
    """
    source = zoo.find(name_or_folder)
    manifest, network = artifacts.load_runner(source)
    images = held_out_images(manifest, data)
    folder = out or source
    if source.resolve() != folder.resolve():
        shutil.copytree(source, folder, dirs_exist_ok=True)
    manifest = replace(manifest, codec_ranges=calibrated_ranges(network, images))
    artifacts.write_manifest(folder, manifest)
    table, rule = measure_outcomes(network, manifest.cost, images), manifest.rule
    points = operating_points(frontier(table, rule))
    return folder, record_calibration(folder, _reference(table, rule), points=points)


def assemble(
    name: str,
    out: Path,
    recipe: Recipe,
    trained: Trained,
    calibration: Dataset,
    test: Dataset | None,
    command: str,
    weights: Weights = "fp32",
) -> Manifest:
    """Calibrate *trained* on *calibration*, measure it on *test* if there is one, and write the artifact to *out*.

    The rule is the cheapest that loses at most the recipe's *max_drop* to the plain trunk or to the network's own final
    exit, whichever is better; or to the network's best rule where none is as accurate.
    """
    manifest = Manifest(
        name=name,
        architecture=recipe.architecture,
        normalisation=trained.network.normalisation,
        labels=calibration.classes,
        dataset=recipe.dataset,
        rule=ExitRule.never(trained.network.exits),
        cut=DEFAULT_CUT,
        files={},
        training={"command": command, "recipe": recipe.to_json()},
        results={},
    )
    manifest = artifacts.save(out, manifest, trained.network, trained.baseline, weights)
    # From here on the artifact as it lies on disk, rounded weights and all: a reader who loads it finds the same.
    network, baseline = artifacts.load(out)[1], artifacts.load_baseline(out, manifest)
    manifest = replace(manifest, codec_ranges=calibrated_ranges(network, calibration))
    table = measure_outcomes(network, manifest.cost, calibration)
    front = frontier(table, recipe.criterion)
    best = max(point.accuracy for point in front)
    wanted = max(trunk_accuracy(baseline, calibration), float(table.correct[-1].mean()))
    chosen = select(front, min(wanted, best) - recipe.max_drop)
    results = {"calibration": _result_json(chosen)}
    if test is not None:
        results["test"] = _test_results(manifest, network, baseline, chosen.rule, test)
    artifacts.write_manifest(out, manifest.with_rule(chosen.rule, results))
    return record_calibration(out, _reference(table, chosen.rule), points=operating_points(front))


def _reference(table: OutcomeTable, rule: ExitRule) -> Reference | None:
    """None where nothing can be said: of a rule with a memory, and of one under which nobody reaches some exit."""
    last_reached = int(table.exit_of(rule).max())
    return None if rule.remembers or last_reached < table.exits - 2 else Reference.of(table, rule)


def _test_results(
    manifest: Manifest, network: BranchyNet, baseline: BranchyNet, rule: ExitRule, test: Dataset
) -> dict[str, Any]:
    table = measure_outcomes(network, manifest.cost, test)
    return {
        "images": len(test),
        **_result_json(table.apply(rule)),
        "exit_accuracies": [round(float(right.mean()), 6) for right in table.correct],
        "trunk_accuracy": round(trunk_accuracy(baseline, test), 6),
        "trunk_macs": manifest.cost.trunk_macs,
    }


def _result_json(result: RuleResult) -> dict[str, Any]:
    return {
        "accuracy": round(result.accuracy, 6),
        "exit_shares": [round(share, 6) for share in result.exit_shares],
        "macs": round(result.cost, 1),
    }
