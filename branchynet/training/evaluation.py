"""Table I of the paper for any artifact, with everything counted: accuracy, exit shares, milliseconds, MACs.

The early-exit network is compared with the plain trunk that had the same training, not with its own last exit.
Every gain is given twice: with the branch heads and the exit rule counted, as a user pays for them, and without, as
the released code of 2016 timed it (only its trunk segments lay between the two clock reads).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from branchynet.decisions.exits import ExitRule
from branchynet.decisions.outcomes import OutcomeTable, wilson_interval
from branchynet.engine import Array, Engine, Runner
from branchynet.export import on_engine, trunk_runner
from branchynet.network import BranchyNet
from branchynet.profile import NetworkCost
from branchynet.training.datasets import Dataset

__all__ = ["Timings", "evaluate", "measure_outcomes", "measure_timings", "trunk_accuracy"]

BATCH = 500


def measure_outcomes(
    network: Runner, cost: NetworkCost, dataset: Dataset, on_image: Callable[[int], None] = lambda _: None
) -> OutcomeTable:
    """Every exit's logits on *dataset*, with the MACs (heads counted) of leaving at each exit.

    *on_image* is told how many images are done.
    """
    parts = []
    for start in range(0, len(dataset), BATCH):
        x: Array = dataset.images[start : start + BATCH]
        scored = []
        for index in range(network.total_stages):
            x, logits = network.run(index, x)
            if logits is not None:
                scored.append(logits)
        parts.append(np.stack(scored))
        on_image(min(start + BATCH, len(dataset)))
    return OutcomeTable(np.concatenate(parts, axis=1), dataset.labels, cost.macs_by_exit(heads=True))


@torch.inference_mode()
def trunk_accuracy(baseline: BranchyNet, dataset: Dataset) -> float:
    """Accuracy 0..1 of the plain trunk on *dataset*."""
    right = 0
    for start in range(0, len(dataset), BATCH):
        images = torch.from_numpy(dataset.images[start : start + BATCH])
        labels = torch.from_numpy(dataset.labels[start : start + BATCH])
        right += int((baseline.trunk(baseline.normalisation(images)).argmax(1) == labels).sum())
    return right / len(dataset)


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds per image at batch 1, one value per pass: the three were measured in turn on every image."""

    trunk_ms: NDArray[np.float64]
    early_exit_ms: NDArray[np.float64]
    without_heads_ms: NDArray[np.float64]

    def to_json(self) -> dict[str, list[float]]:
        """Lowest, median and highest pass of each."""
        return {
            name: [round(float(value), 5) for value in (values.min(), np.median(values), values.max())]
            for name, values in (
                ("trunk_ms", self.trunk_ms),
                ("early_exit_ms", self.early_exit_ms),
                ("without_heads_ms", self.without_heads_ms),
            )
        }


def measure_timings(
    network: Runner,
    baseline: Runner,
    rule: ExitRule,
    images: NDArray[np.uint8],
    passes: int,
    on_image: Callable[[int], None] = lambda _: None,
    engine: Engine = Engine.EAGER,
) -> Timings:
    """Time batch 1 over *images*, uint8 [N, C, H, W], *passes* times, on one thread of *engine*.

    On each image the plain trunk, the early-exit network (heads, rule and gathering included) and its trunk segments
    alone take turns, so that a slow moment of the machine falls on all three.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trunk, early = trunk_runner(baseline, engine), on_engine(network, engine)
    bare = early.without_branches()
    singles = [image[None] for image in images]
    last_stages = [_last_stage(early, single, rule) for single in singles]
    per_pass = np.zeros((passes, 3))
    try:
        for number in range(passes):
            for index, (single, last) in enumerate(zip(singles, last_stages, strict=True)):
                marks = [time.perf_counter()]
                trunk.run(0, single)
                marks.append(time.perf_counter())
                early.resume(single, 0, early.total_stages, rule)
                marks.append(time.perf_counter())
                _run_until(bare, single, last)
                marks.append(time.perf_counter())
                per_pass[number] += np.diff(marks)
                on_image(number * len(singles) + index + 1)
    finally:
        torch.set_num_threads(threads)
    ms = 1e3 * per_pass / len(singles)
    return Timings(ms[:, 0], ms[:, 1], ms[:, 2])


def evaluate(
    table: OutcomeTable, cost: NetworkCost, rule: ExitRule, plain_accuracy: float, timings: Timings
) -> dict[str, Any]:
    """The `trunk` and `early_exit` entries of the evaluation's JSON; see `docs/figures.md` for every key."""
    result = table.apply(rule)
    shares = np.array(result.exit_shares)
    macs_without_heads = float(shares @ cost.macs_by_exit(heads=False))
    trunk_ms, early_ms, bare_ms = (
        float(np.median(values)) for values in (timings.trunk_ms, timings.early_exit_ms, timings.without_heads_ms)
    )
    return {
        "trunk": {"accuracy": plain_accuracy, "ms": trunk_ms, "macs": cost.trunk_macs},
        "early_exit": {
            "accuracy": result.accuracy,
            "interval": list(wilson_interval(result.accuracy, len(table.labels))),
            "criterion": rule.criterion.value,
            "thresholds": list(rule.thresholds),
            "exit_shares": list(result.exit_shares),
            "exit_accuracies": [float(right.mean()) for right in table.correct],
            "ms": early_ms,
            "ms_without_heads": bare_ms,
            "macs": result.cost,
            "macs_without_heads": macs_without_heads,
            "gain_ms": trunk_ms / early_ms,
            "gain_ms_without_heads": trunk_ms / bare_ms,
            "gain_macs": cost.trunk_macs / result.cost,
            "gain_macs_without_heads": cost.trunk_macs / macs_without_heads,
        },
        "spread": timings.to_json(),
    }


def _last_stage(network: Runner, single: Array, rule: ExitRule) -> int:
    """The stage after which *single* leaves."""
    taken = int(network.resume(single, 0, network.total_stages, rule).exits[0])
    return network.exit_of_stage.index(taken)


def _run_until(network: Runner, x: Array, last: int) -> None:
    """Stages 0 to *last*."""
    for index in range(last + 1):
        x, _ = network.run(index, x)
