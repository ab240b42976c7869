"""What early exit has to beat besides its own trunk: a small plain network, and a cascade of two whole models.

*static*: a smaller network without branches answers everything. *cascade*: a small network answers what it is sure of,
and the plain trunk starts from the raw image for the rest, as production systems do it. The cascade is an early-exit
network whose exits share no layers: its outcome table has the exits [small, trunk] with the costs [small, small +
trunk], and its threshold is chosen as an artifact's is, on the images that were held out from both trainings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from branchynet import artifact as artifacts
from branchynet.decisions.exits import Criterion, ExitRule
from branchynet.decisions.outcomes import OutcomeTable
from branchynet.decisions.paired import compare_paired
from branchynet.engine import Engine, Runner
from branchynet.errors import InvalidInput
from branchynet.manifest import Manifest
from branchynet.models import zoo
from branchynet.training.assembly import choose_rule, held_out_images
from branchynet.training.datasets import Dataset
from branchynet.training.evaluation import Evaluated, accuracy_figures, exit_logits, measure_outcomes, paired_figures
from branchynet.training.recipes import MAX_DROP
from branchynet.training.timings import Timings, run_plain

__all__ = ["Yardstick", "cascade_yardstick", "static_yardstick", "verdict", "yardstick_figures"]

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Yardstick:
    """The network of one exit in *folder*, alone (*kind* static) or before a plain trunk (cascade).

    *table*: outcomes on the test set with one exit or two; *rule*: without a threshold or with one.
    """

    kind: Literal["static", "cascade"]
    folder: Path
    manifest: Manifest
    table: OutcomeTable
    rule: ExitRule

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each sample is answered rightly: bool [N]."""
        return self.table.correct[self.table.exit_of(self.rule), np.arange(len(self.table.labels))]

    def network(self, engine: Engine) -> Runner:
        """The small network on *engine*."""
        return artifacts.load_runner(self.folder, engine=engine)[1]

    def run(self, small: Runner, trunk: Runner, image: NDArray[np.uint8]) -> object:
        """What is timed: the small network, and for a cascade the rule and, if it says so, the trunk on the image."""
        logits = run_plain(small, image)
        if self.kind == "cascade" and not self.rule.leaves(0, logits).all():
            logits = run_plain(trunk, image)
        return logits


def static_yardstick(name: str | Path, evaluated: Evaluated, dataset: Dataset) -> Yardstick:
    """The artifact *name* beside *evaluated*. Raises `InvalidInput` if it has branches or was made for other images."""
    folder, manifest = _find_plain(name, evaluated.manifest)
    table = measure_outcomes(artifacts.load_runner(folder)[1], manifest.cost, dataset)
    return Yardstick("static", folder, manifest, table, ExitRule.never(1))


def cascade_yardstick(name: str | Path, evaluated: Evaluated, dataset: Dataset, data: Path | None) -> Yardstick:
    """The artifact *name* before the plain trunk of *evaluated*.

    Raises `InvalidInput` if *name* has branches, was made for other images, or was trained on images that the trunk's
    training held out; `Unavailable` if the training images are not here, for the threshold comes from those held out.
    """
    folder, manifest = _find_plain(name, evaluated.manifest)
    ours, theirs = (m.recipe for m in (evaluated.manifest, manifest))
    if any(ours.get(key) != theirs.get(key) for key in ("calibration_images", "seed")):
        raise InvalidInput(f"{manifest.name} and {evaluated.manifest.name} held out different images when trained")
    held_out = held_out_images(evaluated.manifest, data)
    small = artifacts.load_runner(folder)[1]
    trunk = artifacts.load_trunk(evaluated.folder, evaluated.manifest)
    macs, trunk_macs = manifest.cost.trunk_macs, evaluated.manifest.cost.trunk_macs

    def outcomes(images: Dataset, trunk_logits: NDArray[np.float32]) -> OutcomeTable:
        logits = np.stack([exit_logits(small, images)[0], trunk_logits])
        return OutcomeTable(logits, images.labels, np.array([macs, macs + trunk_macs], dtype=np.float64))

    calibration = outcomes(held_out, exit_logits(trunk, held_out)[0])
    _, chosen = choose_rule(calibration, Criterion.ENTROPY, ours.get("max_drop", MAX_DROP))
    return Yardstick("cascade", folder, manifest, outcomes(dataset, evaluated.trunk_logits), chosen.rule)


def yardstick_figures(
    yardstick: Yardstick, early_right: NDArray[np.bool_], early: dict[str, Any], timings: Timings
) -> dict[str, Any]:
    """The yard-stick's figures, how it compares with the early-exit figures *early*, and who wins in words."""
    result = yardstick.table.apply(yardstick.rule)
    compared = compare_paired(yardstick.right, early_right)
    ms = timings.median(yardstick.kind)
    figures = {
        "artifact": yardstick.manifest.name,
        **accuracy_figures(yardstick.right),
        "thresholds": list(yardstick.rule.thresholds),
        "exit_shares": list(result.exit_shares),
        "ms": ms,
        "ms_spread": timings.spread(yardstick.kind),
        "engine": timings.engine_of(yardstick.kind),
        "macs": result.cost,
        "gain_ms": timings.median("trunk") / ms,
        "gain_ms_spread": timings.gain_spread(yardstick.kind),
        "against_early_exit": paired_figures(compared),
    }
    words = verdict(compared.difference, compared.p_value, early["macs"] / result.cost, early["ms"] / ms)
    return {**figures, "verdict": words}


def verdict(difference: float, p_value: float, macs_ratio: float, ms_ratio: float) -> str:
    """Who wins, in words.

    *difference*: the yard-stick's accuracy less early exit's; *macs_ratio*, *ms_ratio*: early exit's over the
    yard-stick's, so above 1 the yard-stick is cheaper.
    """
    points = f"{100 * difference:+.2f} points"
    if p_value >= SIGNIFICANT:
        accuracy = f"as accurate within chance ({points}, p = {p_value:.2g})"
    else:
        accuracy = f"{'more' if difference > 0 else 'less'} accurate ({points}, p = {p_value:.2g})"
    macs = f"{macs_ratio:.2f}x fewer MACs" if macs_ratio >= 1 else f"{1 / macs_ratio:.2f}x more MACs"
    ms = f"{ms_ratio:.2f}x quicker" if ms_ratio >= 1 else f"{1 / ms_ratio:.2f}x slower"
    worse, better = (p_value < SIGNIFICANT and sign * difference > 0 for sign in (-1, 1))
    if not worse and min(macs_ratio, ms_ratio) >= 1:
        winner = "it beats early exit"
    elif not better and max(macs_ratio, ms_ratio) <= 1:
        winner = "early exit beats it"
    else:
        winner = "neither beats the other"
    return f"{winner}: {accuracy}, {macs}, {ms}"


def _find_plain(name: str | Path, beside: Manifest) -> tuple[Path, Manifest]:
    folder = zoo.find(name)
    manifest = artifacts.read_manifest(folder)
    if manifest.cost.exits != 1:
        raise InvalidInput(f"{manifest.name} has {manifest.cost.exits} exits; a yard-stick is a plain network with one")
    if (manifest.dataset, manifest.labels) != (beside.dataset, beside.labels):
        raise InvalidInput(f"{manifest.name} is for {manifest.dataset}, {beside.name} for {beside.dataset}")
    return folder, manifest
