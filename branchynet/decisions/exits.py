"""Who leaves at an exit: a criterion turns logits into a score, a rule compares scores with thresholds.

The criteria differ in direction. Entropy measures doubt, so a sample leaves when its score lies *below*
the threshold (BranchyNet, Teerapittayanon et al. 2016, section III-C and Fig. 2: natural logarithm, strict `<`).
Maximum probability and margin measure confidence, so it leaves when its score lies *above* (again strictly).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

__all__ = ["Criterion", "ExitRule", "entropy", "margin", "max_probability", "softmax"]

Floats = NDArray[np.float64]


def softmax(logits: NDArray[np.floating]) -> Floats:
    """Class probabilities, float64 [..., C], of *logits* [..., C]; each row is shifted by its maximum first."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def entropy(logits: NDArray[np.floating]) -> Floats:
    """Entropy in nats, 0 … ln C, float64 [...], of the softmax of *logits* [..., C].

    The paper (section III-C) prints the sum without its minus sign; this is the usual, non-negative entropy,
    as in the released code, with 0·ln 0 = 0.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=-1)
    # H = ln Z - Σ p·z avoids ln 0: a class whose probability underflows to 0 contributes 0·z = 0.
    return np.asarray(np.maximum(np.log(total) - (exponentials * shifted).sum(axis=-1) / total, 0.0))


def max_probability(logits: NDArray[np.floating]) -> Floats:
    """Largest softmax probability, 1/C … 1, float64 [...], of *logits* [..., C]."""
    return np.asarray(softmax(logits).max(axis=-1))


def margin(logits: NDArray[np.floating]) -> Floats:
    """Distance between the two largest softmax probabilities, 0 … 1, float64 [...], of *logits* [..., C]."""
    top_two = np.partition(softmax(logits), -2, axis=-1)[..., -2:]
    return np.asarray(top_two[..., 1] - top_two[..., 0])


class Criterion(StrEnum):
    """How the confidence of an exit is scored."""

    ENTROPY = "entropy"
    MAX_PROBABILITY = "max-probability"
    MARGIN = "margin"

    def score(self, logits: NDArray[np.floating]) -> Floats:
        """Score, float64 [...], of *logits* [..., C]."""
        return _SCORES[self](logits)

    def confident(self, scores: Floats, threshold: float) -> NDArray[np.bool_]:
        """True where a sample with this score may leave; the comparison is strict."""
        return scores < threshold if self is Criterion.ENTROPY else scores > threshold

    @property
    def never(self) -> float:
        """The threshold at which no sample ever leaves."""
        return 0.0 if self is Criterion.ENTROPY else 1.0

    @property
    def always(self) -> float:
        """A threshold at which every sample leaves (ln C stays below it for any number of classes)."""
        return 1e9 if self is Criterion.ENTROPY else -1.0


_SCORES: dict[Criterion, Callable[[NDArray[np.floating]], Floats]] = {
    Criterion.ENTROPY: entropy,
    Criterion.MAX_PROBABILITY: max_probability,
    Criterion.MARGIN: margin,
}


@dataclass(frozen=True, slots=True)
class ExitRule:
    """A criterion and one threshold for each exit but the last, which always answers.

    Raises `InvalidInput` for an unknown criterion or a threshold that is not a finite number.
    """

    criterion: Criterion
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        # Files and messages carry the criterion by name; it is as good as the value.
        known = [member.value for member in Criterion]
        if self.criterion not in known:
            raise InvalidInput(f"criterion is {self.criterion!r}; it must be one of {', '.join(known)}")
        object.__setattr__(self, "criterion", Criterion(self.criterion))
        object.__setattr__(self, "thresholds", tuple(float(threshold) for threshold in self.thresholds))
        for index, threshold in enumerate(self.thresholds):
            if not math.isfinite(threshold):
                raise InvalidInput(f"threshold of exit {index} is {threshold}; it must be a finite number")

    @classmethod
    def never(cls, exits: int) -> ExitRule:
        """The rule of a plain network with *exits* exits: everything goes to the last one."""
        return cls(Criterion.ENTROPY, (Criterion.ENTROPY.never,) * (exits - 1))

    def check_exits(self, exits: int) -> None:
        """Raise `InvalidInput` unless this rule fits a network with *exits* exits."""
        if len(self.thresholds) != exits - 1:
            raise InvalidInput(
                f"the rule has {len(self.thresholds)} thresholds, a network with {exits} exits needs {exits - 1} "
                "(one for each exit but the last)"
            )

    def leaves(self, exit_index: int, logits: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which samples leave at exit *exit_index*: bool [B] for *logits* [B, C]."""
        if exit_index >= len(self.thresholds):
            return np.ones(logits.shape[:-1], dtype=np.bool_)
        threshold = self.thresholds[exit_index]
        if len(logits) == 1 and logits.ndim == 2 and logits.shape[1] <= _FEW_CLASSES:
            score = _score_of_one(self.criterion, logits[0].tolist())
            if abs(score - threshold) > _ROUNDING:
                return np.array([(score < threshold) is (self.criterion is Criterion.ENTROPY)])
        return self.criterion.confident(self.criterion.score(logits), threshold)


# A camera's images come one at a time, and on ten numbers a dozen calls of NumPy take longer than LeNet's first layer.
# The score of one row is therefore first reckoned without NumPy; only where the two might differ in their last bits
# does NumPy decide, as it does for batches.
_FEW_CLASSES = 32
_ROUNDING = 1e-9


def _score_of_one(criterion: Criterion, row: list[float]) -> float:
    """The score of one sample's logits, but for rounding; NaN if one of them is not finite."""
    top, total, weighted, exponentials = max(row), 0.0, 0.0, []
    for logit in row:
        exponential = math.exp(logit - top)
        exponentials.append(exponential)
        total += exponential
        weighted += exponential * (logit - top)
    if criterion is Criterion.ENTROPY:
        return math.log(total) - weighted / total
    return (1.0 - (0.0 if criterion is Criterion.MAX_PROBABILITY else sorted(exponentials)[-2])) / total
