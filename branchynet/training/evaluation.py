"""Table I of the paper for any artifact, with everything counted: accuracy, exit shares, milliseconds, MACs.

The early-exit network is compared with the plain trunk that had the same training, not with its own last exit.
Every gain is given twice: with the branch heads and the exit rule counted, as a user pays for them, and without, as
the released code of 2016 timed it (only its trunk segments lay between the two clock reads).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from branchynet import artifact as artifacts
from branchynet.decisions.exits import ExitRule
from branchynet.decisions.outcomes import OutcomeTable, wilson_interval
from branchynet.decisions.paired import PairedComparison, compare_paired
from branchynet.manifest import Manifest
from branchynet.models import cost, zoo
from branchynet.network import BranchyNet
from branchynet.profile import NetworkCost
from branchynet.training.datasets import Dataset
from branchynet.training.timings import Timings

__all__ = [
    "Evaluated",
    "accuracy_figures",
    "early_exit_figures",
    "measure_outcomes",
    "paired_figures",
    "score",
    "trunk_accuracy",
    "trunk_figures",
    "trunk_logits",
]

BATCH = 500


@dataclass(frozen=True)
class Evaluated:
    """An artifact and what its exits and its plain trunk say about a data set.

    *table*: every exit's logits, with MACs; *trunk_logits*: float32 [N, C] of *baseline*, the plain trunk.
    """

    manifest: Manifest
    network: BranchyNet
    baseline: BranchyNet
    table: OutcomeTable
    trunk_logits: NDArray[np.float32]

    @property
    def cost(self) -> NetworkCost:
        """What the network costs."""
        return cost(self.manifest.architecture)

    @property
    def trunk_right(self) -> NDArray[np.bool_]:
        """Whether the plain trunk is right about each sample: bool [N]."""
        return np.asarray(self.trunk_logits.argmax(axis=1) == self.table.labels)


def score(name_or_folder: str | Path, dataset: Dataset, on_image: Callable[[int], None] = lambda _: None) -> Evaluated:
    """Load an artifact and score its exits and its plain trunk on *dataset*; *on_image* counts to twice its size."""
    folder = zoo.find(name_or_folder)
    manifest, network = artifacts.load(folder)
    baseline = artifacts.load_baseline(folder, manifest)
    table = measure_outcomes(network, cost(manifest.architecture), dataset, on_image)
    logits = trunk_logits(baseline, dataset, lambda done: on_image(len(dataset) + done))
    return Evaluated(manifest, network, baseline, table, logits)


@torch.inference_mode()
def measure_outcomes(
    network: BranchyNet, cost: NetworkCost, dataset: Dataset, on_image: Callable[[int], None] = lambda _: None
) -> OutcomeTable:
    """Every exit's logits on *dataset*, with the MACs (heads counted) of leaving at each exit.

    *on_image* is told how many images are done.
    """
    parts = []
    for start in range(0, len(dataset), BATCH):
        images = torch.from_numpy(dataset.images[start : start + BATCH])
        parts.append(torch.stack(network(network.normalisation(images))).numpy())
        on_image(min(start + BATCH, len(dataset)))
    return OutcomeTable(np.concatenate(parts, axis=1), dataset.labels, cost.macs_by_exit(heads=True))


@torch.inference_mode()
def trunk_logits(
    baseline: BranchyNet, dataset: Dataset, on_image: Callable[[int], None] = lambda _: None
) -> NDArray[np.float32]:
    """What the plain trunk says about *dataset*: float32 [N, C]."""
    parts = []
    for start in range(0, len(dataset), BATCH):
        images = torch.from_numpy(dataset.images[start : start + BATCH])
        parts.append(baseline.trunk(baseline.normalisation(images)).numpy())
        on_image(min(start + BATCH, len(dataset)))
    return np.concatenate(parts)


def trunk_accuracy(baseline: BranchyNet, dataset: Dataset) -> float:
    """Accuracy 0..1 of the plain trunk on *dataset*."""
    return float((trunk_logits(baseline, dataset).argmax(axis=1) == dataset.labels).mean())


def trunk_figures(evaluated: Evaluated, timings: Timings) -> dict[str, Any]:
    """The plain trunk: accuracy with its interval, ms, MACs."""
    return {
        **accuracy_figures(evaluated.trunk_right),
        "ms": timings.median("trunk"),
        "ms_spread": timings.spread("trunk"),
        "engine": timings.engine_of("trunk"),
        "macs": evaluated.cost.trunk_macs,
    }


def early_exit_figures(
    evaluated: Evaluated, rule: ExitRule, timings: Timings, contender: str = "early_exit"
) -> dict[str, Any]:
    """The network under *rule*, timed as *contender*; see `docs/figures.md` for every key."""
    table, counted = evaluated.table, evaluated.cost
    result = table.apply(rule)
    right = table.correct[table.exit_of(rule), np.arange(len(table.labels))]
    bare_macs = float(np.array(result.exit_shares) @ counted.macs_by_exit(heads=False))
    bare = f"{contender}/without_heads"
    trunk_ms = timings.median("trunk")
    return {
        **accuracy_figures(right),
        "criterion": rule.criterion.value,
        "thresholds": list(rule.thresholds),
        "exit_shares": list(result.exit_shares),
        "exit_accuracies": [float(right.mean()) for right in table.correct],
        "ms": timings.median(contender),
        "ms_spread": timings.spread(contender),
        "ms_without_heads": timings.median(bare),
        "engine": timings.engine_of(contender),
        "macs": result.cost,
        "macs_without_heads": bare_macs,
        "gain_ms": trunk_ms / timings.median(contender),
        "gain_ms_spread": timings.gain_spread(contender),
        "gain_ms_without_heads": trunk_ms / timings.median(bare),
        "gain_ms_without_heads_spread": timings.gain_spread(bare),
        "gain_macs": counted.trunk_macs / result.cost,
        "gain_macs_without_heads": counted.trunk_macs / bare_macs,
        "against_trunk": paired_figures(compare_paired(right, evaluated.trunk_right)),
    }


def accuracy_figures(right: NDArray[np.bool_]) -> dict[str, Any]:
    """Accuracy with its 95 % Wilson interval, from whether each sample was answered rightly: bool [N]."""
    accuracy = float(right.mean())
    return {"accuracy": accuracy, "interval": list(wilson_interval(accuracy, len(right)))}


def paired_figures(compared: PairedComparison) -> dict[str, Any]:
    """Difference of accuracies (-1..1) with its 95 % interval for paired samples, and McNemar's p-value."""
    return {
        "difference": compared.difference,
        "interval": list(compared.interval),
        "p_value": compared.p_value,
        "only_this_right": compared.only_first,
        "only_that_right": compared.only_second,
    }
