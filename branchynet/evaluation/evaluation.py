"""Table I of the paper for any artifact, with everything counted: accuracy, exit shares, milliseconds, MACs.

The early-exit network is compared with the plain trunk that had the same training, not with its own last exit.
Every gain is given twice: with the branch heads and the exit rule counted, as a user pays for them, and without, as
the released code of 2016 timed it (only its trunk segments lay between the two clock reads).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.evaluation.timings import Timings
from branchynet.exits.outcomes import OutcomeTable, wilson_interval
from branchynet.exits.paired_tests import PairedComparison, compare_paired
from branchynet.exits.rules import ExitRule
from branchynet.network.costs import NetworkCost
from branchynet.network.runner import Array, Runner, batch_slices
from branchynet.system import usable_cores

__all__ = [
    "Evaluated",
    "accuracy_figures",
    "early_exit_figures",
    "exit_logits",
    "measure_outcomes",
    "paired_figures",
    "score",
    "trunk_accuracy",
    "trunk_figures",
]


@dataclass(frozen=True)
class Evaluated:
    """An artifact, and what its exits and its plain trunk answer on a data set.

    *table*: every exit's logits, with MACs; *trunk_logits*: float32 [N, C] of the plain trunk.
    """

    artifact: Artifact
    table: OutcomeTable
    trunk_logits: NDArray[np.float32]

    @property
    def trunk_right(self) -> NDArray[np.bool_]:
        """Whether the plain trunk is right about each sample: bool [N]."""
        return np.asarray(self.trunk_logits.argmax(axis=1) == self.table.labels)


def score(artifact: Artifact, dataset: Dataset, on_image: Callable[[int], None] = lambda _: None) -> Evaluated:
    """Score the exits and the plain trunk of *artifact* on *dataset*; *on_image* counts to twice its size."""
    engine, threads = artifact.reference_engine, usable_cores()
    table = measure_outcomes(artifact.runner(engine=engine, threads=threads), artifact.manifest.cost, dataset, on_image)
    trunk = artifact.trunk(engine, threads)
    logits = exit_logits(trunk, dataset, lambda done: on_image(len(dataset) + done))[0]
    return Evaluated(artifact, table, logits)


def measure_outcomes(
    network: Runner, cost: NetworkCost, dataset: Dataset, on_image: Callable[[int], None] = lambda _: None
) -> OutcomeTable:
    """Every exit's logits on *dataset*, with the MACs (heads counted) of leaving at each exit.

    *on_image* receives how many images are done.
    """
    return OutcomeTable(exit_logits(network, dataset, on_image), dataset.labels, cost.macs_by_exit(heads=True))


def exit_logits(
    network: Runner, dataset: Dataset, on_image: Callable[[int], None] = lambda _: None
) -> NDArray[np.float32]:
    """Logits of every exit of *network* on *dataset*, none of them taken: float32 [E, N, C]."""
    parts = []
    for batch in batch_slices(dataset.images):
        x: Array = dataset.images[batch]
        scored = []
        for index in range(network.total_stages):
            x, logits = network.run(index, x)
            if logits is not None:
                scored.append(logits)
        parts.append(np.stack(scored))
        on_image(batch.stop)
    return np.concatenate(parts, axis=1)


def trunk_accuracy(plain_trunk: Runner, dataset: Dataset) -> float:
    """Accuracy 0..1 on *dataset* of the plain trunk, as `Artifact.trunk` gives it."""
    return float((exit_logits(plain_trunk, dataset)[0].argmax(axis=1) == dataset.labels).mean())


def trunk_figures(evaluated: Evaluated, timings: Timings) -> dict[str, Any]:
    """The plain trunk: accuracy with its interval, ms, MACs; whether it is only the network's own final exit."""
    return {
        "own_final_exit": evaluated.artifact.manifest.recipe.get("baseline") == "final-exit",
        **accuracy_figures(evaluated.trunk_right),
        "ms": timings.median("trunk"),
        "ms_spread": timings.spread("trunk"),
        "engine": timings.engine_of("trunk"),
        "macs": evaluated.artifact.manifest.cost.trunk_macs,
    }


def early_exit_figures(
    evaluated: Evaluated, rule: ExitRule, timings: Timings, contender: str = "early_exit"
) -> dict[str, Any]:
    """The network under *rule*, timed as *contender*; see `docs/reference/json.md` for every key."""
    table, counted = evaluated.table, evaluated.artifact.manifest.cost
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
