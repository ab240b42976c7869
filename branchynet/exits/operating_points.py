"""Operating points: the rules of one network from cheap to accurate, so that a request can name an accuracy.

They are taken from the frontier of accuracy against cost on the calibration split. Each says what its rule achieved
*there*, on the images that chose it: an estimate, and for the best ones a slightly flattering one. A promise about
images that chose nothing is another thing (`branchynet.exits.risk_control`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import RuleResult

__all__ = ["STEP", "OperatingPoint", "operating_points", "point_for"]

# Of accuracy: a tenth of a percentage point, so that who asks for 0.905 gets the cheapest rule there is.
STEP = 0.001
# Sums of steps are not exact, neither here nor in a client; no accuracy on a million images is as fine as this.
SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """*thresholds* with their *accuracy* (0..1) and mean cost on the calibration split, in *macs* an image.

    Raises `InvalidInput` for an accuracy or a cost that there cannot be.
    """

    thresholds: tuple[float, ...]
    accuracy: float
    macs: float

    def __post_init__(self) -> None:
        if not (0 <= self.accuracy <= 1 and 0 <= self.macs < math.inf):
            raise InvalidInput(f"an operating point has accuracy {self.accuracy} and {self.macs} MACs")
        if not all(map(math.isfinite, self.thresholds)):
            raise InvalidInput(f"an operating point has thresholds {self.thresholds}; they must be finite")

    def to_json(self) -> dict[str, Any]:
        """What an artifact's manifest keeps of it."""
        return {"thresholds": list(self.thresholds), "accuracy": self.accuracy, "macs": self.macs}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> OperatingPoint:
        """The point that `to_json` wrote. Raises `InvalidInput` if it is not one."""
        try:
            return cls(tuple(map(float, raw["thresholds"])), float(raw["accuracy"]), float(raw["macs"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"{raw!r} is no operating point: {error!r}") from None


def operating_points(front: Sequence[RuleResult], step: float = STEP) -> tuple[OperatingPoint, ...]:
    """For each multiple of *step* that accuracies on *front* span, the cheapest rule that has it; cheapest first.

    The cheapest and the most accurate rule of all are there too.
    *front*: rules of which none beats another, as `frontier` gives them.
    """
    ascending = sorted(front, key=lambda result: result.accuracy)
    accuracies = np.array([result.accuracy for result in ascending])
    steps = np.arange(math.ceil(accuracies[0] / step), math.floor(accuracies[-1] / step) + 1)
    levels = np.concatenate([accuracies[[0, -1]], step * steps])
    kept = np.unique(np.searchsorted(accuracies, levels - SLACK))
    return tuple(
        OperatingPoint(ascending[row].rule.thresholds, round(ascending[row].accuracy, 6), round(ascending[row].cost, 1))
        for row in map(int, kept)
    )


def point_for(points: Sequence[OperatingPoint], accuracy: float) -> OperatingPoint:
    """The cheapest of *points* with at least *accuracy* (0..1) on the calibration split.

    Raises `InvalidInput` for a target that is no share, or, with the best there is, one that no point reaches.
    """
    if not 0 <= accuracy <= 1:
        raise InvalidInput(f"accuracy_target is {accuracy}; it must be a share of right answers, 0 to 1")
    good = [point for point in points if point.accuracy >= accuracy - SLACK]
    if not good:
        best = max(point.accuracy for point in points)
        raise InvalidInput(f"accuracy_target is {accuracy}; the best there is on the calibration split is {best}")
    return min(good, key=lambda point: point.macs)
