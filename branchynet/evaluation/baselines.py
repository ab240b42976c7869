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

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.manifest import Manifest
from branchynet.data.datasets import Dataset
from branchynet.errors import InvalidInput
from branchynet.evaluation.calibrate import choose_rule
from branchynet.evaluation.evaluation import Evaluated, accuracy_figures, exit_logits, measure_outcomes, paired_figures
from branchynet.evaluation.timings import Timings, run_plain
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.paired_tests import compare_paired
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.exits.threshold_search import ACCURACY_DROP_POINTS
from branchynet.network.runner import Engine, Runner

__all__ = ["Baseline", "baseline_figures", "cascade_baseline", "static_baseline", "verdict"]

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Baseline:
    """The network of one exit in *artifact*, by itself (*kind* static) or before a plain trunk (cascade).

    *table*: outcomes on the test set with one exit or two; *rule*: without a threshold or with one.
    """

    kind: Literal["static", "cascade"]
    artifact: Artifact
    table: OutcomeTable
    rule: ExitRule

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each sample is answered rightly: bool [N]."""
        return self.table.correct[self.table.exit_of(self.rule), np.arange(len(self.table.labels))]

    def network(self, engine: Engine) -> Runner:
        """The small network on *engine*."""
        return self.artifact.runner(engine=engine)

    def run(self, small: Runner, trunk: Runner, image: NDArray[np.uint8]) -> object:
        """What is timed: the small network, and for a cascade the rule and, for an image that stays, the trunk."""
        logits = run_plain(small, image)
        if self.kind == "cascade" and not self.rule.leaves(0, logits).all():
            logits = run_plain(trunk, image)
        return logits


def static_baseline(name: str | Path, evaluated: Evaluated, dataset: Dataset) -> Baseline:
    """The artifact *name* beside *evaluated*. Raises `InvalidInput` if it has branches or was made for other images."""
    small = _open_plain(name, evaluated.artifact.manifest)
    table = measure_outcomes(small.runner(engine=small.reference_engine), small.manifest.cost, dataset)
    return Baseline("static", small, table, ExitRule.never(1))


def cascade_baseline(name: str | Path, evaluated: Evaluated, dataset: Dataset, data: Path | None) -> Baseline:
    """The artifact *name* before the plain trunk of *evaluated*.

    Raises `InvalidInput` if *name* has branches, was made for other images, or was trained on images that the trunk's
    training held out; `Unavailable` if the training images are not here, for the threshold comes from those held out.
    """
    large, small = evaluated.artifact, _open_plain(name, evaluated.artifact.manifest)
    ours, theirs = (one.manifest.recipe for one in (large, small))
    if any(ours.get(key) != theirs.get(key) for key in ("calibration_images", "seed")):
        raise InvalidInput(f"{small.manifest.name} and {large.manifest.name} held out different images when trained")
    held_out = large.calibration_split(data)[1]
    first, trunk = small.runner(engine=small.reference_engine), large.trunk(large.reference_engine)
    macs, trunk_macs = small.manifest.cost.trunk_macs, large.manifest.cost.trunk_macs

    def outcomes(images: Dataset, trunk_logits: NDArray[np.float32]) -> OutcomeTable:
        logits = np.stack([exit_logits(first, images)[0], trunk_logits])
        return OutcomeTable(logits, images.labels, np.array([macs, macs + trunk_macs], dtype=np.float64))

    calibration = outcomes(held_out, exit_logits(trunk, held_out)[0])
    drop = ours.get("accuracy_drop_points", ACCURACY_DROP_POINTS)
    _, chosen = choose_rule(calibration, Criterion.ENTROPY, drop)
    return Baseline("cascade", small, outcomes(dataset, evaluated.trunk_logits), chosen.rule)


def baseline_figures(
    baseline: Baseline, early_right: NDArray[np.bool_], early: dict[str, Any], timings: Timings
) -> dict[str, Any]:
    """The baseline's figures, how it compares with the early-exit figures *early*, and who wins in words."""
    result = baseline.table.apply(baseline.rule)
    compared = compare_paired(baseline.right, early_right)
    ms = timings.median(baseline.kind)
    figures = {
        "artifact": baseline.artifact.manifest.name,
        **accuracy_figures(baseline.right),
        "thresholds": list(baseline.rule.thresholds),
        "exit_shares": list(result.exit_shares),
        "ms": ms,
        "ms_spread": timings.spread(baseline.kind),
        "engine": timings.engine_of(baseline.kind),
        "macs": result.cost,
        "gain_ms": timings.median("trunk") / ms,
        "gain_ms_spread": timings.gain_spread(baseline.kind),
        "against_early_exit": paired_figures(compared),
    }
    words = verdict(compared.difference, compared.p_value, early["macs"] / result.cost, early["ms"] / ms)
    return {**figures, "verdict": words}


def verdict(difference: float, p_value: float, macs_ratio: float, ms_ratio: float) -> str:
    """Who wins, in words.

    *difference*: the baseline's accuracy less early exit's; *macs_ratio*, *ms_ratio*: early exit's over the
    baseline's, so above 1 the baseline is cheaper.
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


def _open_plain(name: str | Path, beside: Manifest) -> Artifact:
    artifact = Artifact.open(name)
    manifest = artifact.manifest
    if manifest.cost.exits != 1:
        raise InvalidInput(f"{manifest.name} has {manifest.cost.exits} exits; a baseline is a plain network with one")
    if (manifest.dataset, manifest.labels) != (beside.dataset, beside.labels):
        raise InvalidInput(f"{manifest.name} is for {manifest.dataset}, {beside.name} for {beside.dataset}")
    return artifact
