"""What any exit rule would have done on a labelled set, without running the network again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.rules import Criterion, ExitRule

__all__ = ["OutcomeTable", "RuleResult", "wilson_interval"]


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What a rule achieves on a table: accuracy 0..1, share of samples per exit, mean cost per sample."""

    rule: ExitRule
    accuracy: float
    exit_shares: tuple[float, ...]
    cost: float


@dataclass(frozen=True)
class OutcomeTable:
    """Every exit's logits for a labelled set, with the cost of answering at each exit.

    *logits*: float32 [E, N, C]; *labels*: int64 [N]; *costs*: float64 [E], the total cost (say, MACs with all
    heads passed on the way) of a sample that leaves at each exit.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    costs: NDArray[np.float64]

    def __post_init__(self) -> None:
        exits, samples, _ = self.logits.shape
        if self.labels.shape != (samples,) or self.costs.shape != (exits,):
            raise InvalidInput(
                f"logits {self.logits.shape} do not fit labels {self.labels.shape} and costs {self.costs.shape}"
            )

    def take(self, rows: NDArray[np.int64]) -> OutcomeTable:
        """The table of the samples *rows*, int64 [K], in that order."""
        return OutcomeTable(self.logits[:, rows], self.labels[rows], self.costs)

    @property
    def exits(self) -> int:
        """Number of exits, the last one included."""
        return int(self.logits.shape[0])

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each exit is right about each sample: bool [E, N]."""
        return np.asarray(self.logits.argmax(axis=2) == self.labels)

    def scores(self, rule: ExitRule | Criterion) -> NDArray[np.float64]:
        """Score of each sample at each exit: float64 [E, N]; at the last exit of a gate, which has none, all are 1.

        A *rule*'s thresholds do not matter here. Raises `InvalidInput` for a criterion that needs a rule's gates.
        """
        if isinstance(rule, Criterion):
            rule = ExitRule(rule, (rule.never,) * (self.exits - 1))
        rule.check_exits(self.exits, self.logits.shape[2])
        scores, history = np.ones(self.logits.shape[:2]), None
        for index, logits in enumerate(self.logits):
            history = rule.remember(logits, history)
            if index < self.exits - 1 or rule.criterion is not Criterion.GATE:
                scores[index] = rule.score(index, logits, history)
        return scores

    def exit_of(self, rule: ExitRule) -> NDArray[np.int64]:
        """The exit at which each sample leaves under *rule*: int64 [N]."""
        rule.check_exits(self.exits, self.logits.shape[2])
        leaves, history = [], None
        for index, logits in enumerate(self.logits):
            history = rule.remember(logits, history)
            leaves.append(rule.leaves(index, logits, history))
        return np.asarray(np.argmax(leaves, axis=0), dtype=np.int64)

    def correct_under(self, rule: ExitRule) -> NDArray[np.bool_]:
        """Whether the exit that *rule* takes is right about each sample: bool [N]."""
        right: NDArray[np.bool_] = self.correct[self.exit_of(rule), np.arange(len(self.labels))]
        return right

    def apply(self, rule: ExitRule) -> RuleResult:
        """Accuracy, exit shares and mean cost of *rule* on this table."""
        shares = np.bincount(self.exit_of(rule), minlength=self.exits) / len(self.labels)
        accuracy = float(self.correct_under(rule).mean())
        return RuleResult(rule, accuracy, tuple(map(float, shares)), float(shares @ self.costs))


def wilson_interval(accuracy: float, samples: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval (95 % with the default *z*) of an accuracy 0..1 measured on *samples* (Wilson 1927)."""
    if samples <= 0:
        raise InvalidInput(f"samples is {samples}; an interval needs at least one")
    z2 = z * z / samples
    centre = (accuracy + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * math.sqrt(accuracy * (1 - accuracy) / samples + z2 / (4 * samples))
    return max(0.0, centre - half), min(1.0, centre + half)
