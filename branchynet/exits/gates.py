"""A learned gate: a logistic regression on what an exit's logits say, for the probability that the exit is right.

Fitted in `branchynet.evaluation.fit`; here it is only evaluated. The target is "this exit is right", a probability that
can be checked; "no later exit does better" saved little and lost accuracy on images that nothing was fitted to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

__all__ = ["Gate", "features", "number_of_features"]

Floats = NDArray[np.float64]

MAX_LOGARITHMS = 10
# e⁻³⁰ is far below anything a calibration split can tell apart; without a floor one certain image outweighs the rest.
LOWEST_LOGARITHM = -30.0


def number_of_features(classes: int) -> int:
    """How many features, and so weights, there are for *classes* classes."""
    return 3 + min(classes, MAX_LOGARITHMS)


def features(logits: NDArray[np.floating]) -> Floats:
    """Float64 [..., F] of *logits* [..., C]: entropy, largest probability, margin, and the largest log-probabilities.

    They depend on the sorted logits alone: which class is the largest says nothing.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    logarithms = np.sort(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), axis=-1)[..., ::-1]
    logarithms = np.maximum(logarithms, LOWEST_LOGARITHM)
    p = np.exp(logarithms)
    scores = np.stack([-(p * logarithms).sum(axis=-1), p[..., 0], p[..., 0] - p[..., 1]], axis=-1)
    return np.concatenate([scores, logarithms[..., :MAX_LOGARITHMS]], axis=-1)


@dataclass(frozen=True, slots=True)
class Gate:
    """One exit's gate: a weight for each of `features`, and a bias.

    Raises `InvalidInput` for a number that is not finite.
    """

    weights: tuple[float, ...]
    bias: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))
        object.__setattr__(self, "bias", float(self.bias))
        for value in (*self.weights, self.bias):
            if not math.isfinite(value):
                raise InvalidInput(f"a gate holds {value}; weights and bias must be finite numbers")

    def score(self, logits: NDArray[np.floating]) -> Floats:
        """Probability, 0 … 1, float64 [...], that the exit which said *logits* [..., C] is right."""
        # A sum over the last axis, unlike a matrix product, does not depend on how many samples there are.
        evidence = (features(logits) * self.weights).sum(axis=-1) + self.bias
        return np.asarray(0.5 + 0.5 * np.tanh(evidence / 2))  # the logistic function, which cannot overflow
