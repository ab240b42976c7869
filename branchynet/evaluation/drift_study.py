"""What worse images do to an exit rule: to its shares and cost, how soon one notices, and what re-tuning saves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.exits.drift import Monitor, Reference, Retuner
from branchynet.exits.outcomes import OutcomeTable, RuleResult

__all__ = ["DriftResult", "samples_until_alarm", "study"]

BATCH = 20


@dataclass(frozen=True, slots=True)
class DriftResult:
    """An outcome table under the calibrated rule, and under the rule that was re-tuned on the way.

    *alarms*: the share of random orders in which the monitor raised one; *alarm_after*: the median of the samples it
    took where it did, None where it never did; *alarm_exit*: the exit that raised most of them.
    """

    fixed: RuleResult
    alarms: float
    alarm_after: float | None
    alarm_exit: int | None
    retuned_accuracy: float
    retuned_shares: tuple[float, ...]
    retuned_cost: float

    def to_json(self) -> dict[str, Any]:
        """All numbers by name; the rule is the same in all results and left out."""
        fixed = {"accuracy": self.fixed.accuracy, "exit_shares": list(self.fixed.exit_shares), "macs": self.fixed.cost}
        rest = {name: value for name, value in asdict(self).items() if name not in ("fixed", "retuned_cost")}
        return {**fixed, **rest, "retuned_shares": list(self.retuned_shares), "retuned_macs": self.retuned_cost}


def study(table: OutcomeTable, reference: Reference, budget: float, orders: int, false_alarm: float) -> DriftResult:
    """Run *table*, in as many random *orders*, past the monitor; in one of them past the re-tuner.

    *budget*: mean cost of a sample that the re-tuner keeps. Orders and their number are all that is random; they are
    drawn from a fixed seed.
    """
    found = [
        samples_until_alarm(table, reference, np.random.default_rng(number).permutation(len(table.labels)), false_alarm)
        for number in range(orders)
    ]
    raised = [alarm for alarm in found if alarm is not None]
    retuned = _retune(table, reference, budget, np.random.default_rng(0).permutation(len(table.labels)))
    return DriftResult(
        fixed=table.apply(reference.rule),
        alarms=len(raised) / orders,
        alarm_after=float(np.median([samples for samples, _ in raised])) if raised else None,
        alarm_exit=int(np.bincount([index for _, index in raised]).argmax()) if raised else None,
        retuned_accuracy=float(table.correct[retuned, np.arange(len(retuned))].mean()),
        retuned_shares=tuple(map(float, np.bincount(retuned, minlength=table.exits) / len(retuned))),
        retuned_cost=float(table.costs[retuned].mean()),
    )


def samples_until_alarm(
    table: OutcomeTable, reference: Reference, order: NDArray[np.int64], false_alarm: float
) -> tuple[int, int] | None:
    """How many samples in that *order*, int64 [N], came until the first alarm, and its exit; None if none came."""
    left, scores = table.exit_of(reference.rule)[order], table.scores(reference.rule)[:, order]
    monitor = Monitor(reference, false_alarm)
    for start in range(0, len(order), BATCH):
        batch = slice(start, start + BATCH)
        for index in range(table.exits - 1):
            reached = scores[index, batch][left[batch] >= index]
            if monitor.observe(index, reached) is not None:
                return min(start + BATCH, len(order)), index
    return None


def _retune(table: OutcomeTable, reference: Reference, budget: float, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The exit, int64 [N], that answered each sample while the thresholds moved to keep the *budget*."""
    least, most = float(table.costs[0]), float(table.costs[-1])
    retuner = Retuner(reference, (budget - least) / (most - least))
    taken = np.empty(len(order), dtype=np.int64)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        taken[rows] = table.take(rows).exit_of(retuner.rule)
        retuner.observe(float((table.costs[taken[rows]] - least).sum()) / (most - least), len(rows))
    return taken
