"""Who leaves at an exit: a criterion turns logits into a score, a rule compares scores with thresholds.

The criteria differ in direction. Entropy measures doubt, so a sample leaves when its score lies *below*
the threshold (BranchyNet, Teerapittayanon et al. 2016, section III-C and Fig. 2: natural logarithm, strict `<`).
All others measure confidence, so it leaves when its score lies *above* (again strictly).

Two criteria need more than one exit's logits. Patience (PABEE, Zhou et al. 2020, section 3.3) counts how many exits in
a row agree: its rule has a memory, the `History`, that goes with a sample from exit to exit and over the cut. A gate
has learned weights (`branchynet.exits.gates`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.gates import Gate, number_of_features

__all__ = ["LOGIT_CRITERIA", "Criterion", "ExitRule", "History", "entropy", "margin", "max_probability", "softmax"]

Floats = NDArray[np.float64]
# Int32 [B, 2]: the label that each sample was given last, and how many exits in a row, that one included, gave it.
History = NDArray[np.int32]


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
    # One sample's score is waited for: this works in place, and without the array methods' detour.
    shifted = logits.astype(np.float64)
    shifted -= np.maximum.reduce(shifted, axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    total = np.add.reduce(exponentials, axis=-1)
    exponentials *= shifted
    # H = ln Z - Σ p·z avoids ln 0: a class whose probability underflows to 0 contributes 0·z = 0.
    return np.asarray(np.maximum(np.log(total) - np.add.reduce(exponentials, axis=-1) / total, 0.0))


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
    PATIENCE = "patience"
    GATE = "gate"

    def score(self, logits: NDArray[np.floating]) -> Floats:
        """Score, float64 [...], of *logits* [..., C].

        Raises `InvalidInput` for a criterion that one exit's logits are not enough for; see `ExitRule.score`.
        """
        if self not in _SCORES:
            raise InvalidInput(f"criterion {self.value!r} scores no logits on their own; only its rule can")
        return _SCORES[self](logits)

    def confident(self, scores: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
        """True where a sample with this score may leave; the comparison is strict."""
        return scores < threshold if self is Criterion.ENTROPY else scores > threshold

    @property
    def never(self) -> float:
        """The threshold at which no sample ever leaves."""
        return {Criterion.ENTROPY: 0.0, Criterion.PATIENCE: 1e9}.get(self, 1.0)

    @property
    def always(self) -> float:
        """A threshold at which every sample leaves (ln C stays below it for any number of classes)."""
        return {Criterion.ENTROPY: 1e9, Criterion.PATIENCE: 0.0}.get(self, -1.0)


_SCORES: dict[Criterion, Callable[[NDArray[np.floating]], Floats]] = {
    Criterion.ENTROPY: entropy,
    Criterion.MAX_PROBABILITY: max_probability,
    Criterion.MARGIN: margin,
}
LOGIT_CRITERIA = tuple(_SCORES)


@dataclass(frozen=True, slots=True)
class ExitRule:
    """A criterion and one threshold for each exit but the last, which always answers.

    *temperatures*: one for each exit, the last included, or none, which means 1 everywhere. An exit's logits are
    divided by its temperature before they are scored and before they become the answer's probabilities (Guo et al.
    2017, section 4.2), so that a client reads what the rule believed. *gates*: with the criterion `gate`, one for each
    exit but the last. With `patience` a threshold *p* is PABEE's patience: *p* + 1 exits in a row must agree.

    Raises `InvalidInput` for an unknown criterion, a number that is not finite, a temperature that is not positive,
    or a number of temperatures or gates that does not fit the thresholds.
    """

    criterion: Criterion
    thresholds: tuple[float, ...]
    temperatures: tuple[float, ...] = ()
    gates: tuple[Gate, ...] = ()

    def __post_init__(self) -> None:
        # Files and messages carry the criterion by name; it is as good as the value.
        known = [member.value for member in Criterion]
        if self.criterion not in known:
            raise InvalidInput(f"criterion is {self.criterion!r}; it must be one of {', '.join(known)}")
        object.__setattr__(self, "criterion", Criterion(self.criterion))
        object.__setattr__(self, "thresholds", tuple(float(threshold) for threshold in self.thresholds))
        object.__setattr__(self, "temperatures", tuple(float(temperature) for temperature in self.temperatures))
        object.__setattr__(self, "gates", tuple(self.gates))
        for index, threshold in enumerate(self.thresholds):
            if not math.isfinite(threshold):
                raise InvalidInput(f"threshold of exit {index} is {threshold}; it must be a finite number")
        for index, temperature in enumerate(self.temperatures):
            if not (math.isfinite(temperature) and temperature > 0):
                raise InvalidInput(f"temperature of exit {index} is {temperature}; it must be a positive number")
        early = len(self.thresholds)
        if len(self.temperatures) not in (0, early + 1):
            raise InvalidInput(f"{len(self.temperatures)} temperatures for {early + 1} exits; give one each, or none")
        gates = early if self.criterion is Criterion.GATE else 0
        if len(self.gates) != gates:
            raise InvalidInput(
                f"{len(self.gates)} gates with criterion {self.criterion.value!r} and {early} thresholds; "
                f"there must be {gates}"
            )

    @classmethod
    def never(cls, exits: int) -> ExitRule:
        """The rule of a plain network with *exits* exits: everything goes to the last one."""
        return cls(Criterion.ENTROPY, (Criterion.ENTROPY.never,) * (exits - 1))

    def with_thresholds(self, thresholds: tuple[float, ...], criterion: str | None = None) -> ExitRule:
        """The same rule with other *thresholds*; another *criterion* keeps the temperatures, which are the network's.

        Raises `InvalidInput` for another number of thresholds, and as the constructor does: gates cannot be made up.
        """
        ExitRule(Criterion.ENTROPY, thresholds).check_exits(len(self.thresholds) + 1)
        if criterion in (None, self.criterion):
            return replace(self, thresholds=thresholds)
        return ExitRule(criterion, thresholds, self.temperatures)  # type: ignore[arg-type]

    @property
    def remembers(self) -> bool:
        """Whether this rule needs the `History` of a sample."""
        return self.criterion is Criterion.PATIENCE

    def check_exits(self, exits: int, classes: int | None = None) -> None:
        """Raise `InvalidInput` unless this rule fits a network with *exits* exits and, if given, *classes* classes."""
        if len(self.thresholds) != exits - 1:
            raise InvalidInput(
                f"the rule has {len(self.thresholds)} thresholds, a network with {exits} exits needs {exits - 1} "
                "(one for each exit but the last)"
            )
        for index, gate in enumerate(self.gates):
            if classes is not None and len(gate.weights) != number_of_features(classes):
                raise InvalidInput(
                    f"the gate of exit {index} has {len(gate.weights)} weights; "
                    f"for {classes} classes there must be {number_of_features(classes)}"
                )

    def check_history(self, history: History | None, samples: int, classes: int, passed: int) -> None:
        """Raise `InvalidInput` unless *history* is what *samples* samples that passed *passed* exits bring along."""
        if not (self.remembers and passed):
            if history is not None:
                raise InvalidInput(f"a history came, but {self.criterion.value!r} after {passed} exits needs none")
            return
        if history is None:
            raise InvalidInput(f"criterion {self.criterion.value!r} needs the history of the {passed} exits passed")
        if history.shape != (samples, 2):
            raise InvalidInput(f"the history's shape is {history.shape}; it must be ({samples}, 2)")
        wrong = ((history < (0, 1)) | (history > (classes - 1, passed))).any(axis=1)
        if wrong.any():
            raise InvalidInput(
                f"the history of sample {wrong.argmax()} is {history[wrong.argmax()].tolist()}; "
                f"it must be a label of 0 to {classes - 1} and a run of 1 to {passed}"
            )

    def remember(self, logits: NDArray[np.floating], history: History | None = None) -> History | None:
        """The history after an exit that said *logits* [B, C], from the one before it (None: there was no exit yet).

        None for a rule that has no use for it.
        """
        if not self.remembers:
            return None
        labels = logits.argmax(axis=-1).astype(np.int32)
        runs = np.ones_like(labels) if history is None else np.where(labels == history[:, 0], history[:, 1] + 1, 1)
        return np.stack([labels, runs], axis=1).astype(np.int32)

    def score(self, exit_index: int, logits: NDArray[np.floating], history: History | None = None) -> Floats:
        """Score, float64 [B], of *logits* [B, C] at exit *exit_index*; *history* as `remember` gave it at this exit."""
        if self.remembers:
            if history is None:
                raise InvalidInput(f"criterion {self.criterion.value!r} needs the history of exits 0 to {exit_index}")
            return history[:, 1].astype(np.float64)
        if self.temperatures:
            logits = (logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)) / self.temperatures[exit_index]
        return self.gates[exit_index].score(logits) if self.gates else _SCORES[self.criterion](logits)

    def leaves(
        self, exit_index: int, logits: NDArray[np.floating], history: History | None = None
    ) -> NDArray[np.bool_]:
        """Which samples leave at exit *exit_index*: bool [B] for *logits* [B, C]; *history* as for `score`."""
        if exit_index >= len(self.thresholds):
            return np.ones(logits.shape[:-1], dtype=np.bool_)
        threshold = self.thresholds[exit_index]
        if len(logits) == 1 and logits.ndim == 2 and logits.shape[1] <= _FEW_CLASSES and self.criterion in _SCORES:
            temperature = self.temperatures[exit_index] if self.temperatures else 1.0
            score = _score_of_one(self.criterion, logits[0].tolist(), temperature)
            if abs(score - threshold) > _ROUNDING:
                return np.array([(score < threshold) is (self.criterion is Criterion.ENTROPY)])
        return self.criterion.confident(self.score(exit_index, logits, history), threshold)

    def probabilities(self, exits: NDArray[np.integer], logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """What the answers report, float32 [B, C]: the softmax of *logits* [B, C], each at its exit's temperature."""
        if self.temperatures:
            logits = logits.astype(np.float64) / np.array(self.temperatures)[exits][:, None]
        return softmax(logits).astype(np.float32)


# A camera's images come one at a time, and on ten numbers a dozen calls of NumPy take longer than LeNet's first layer.
# The score of one row is therefore first reckoned without NumPy; only where the two might differ in their last bits
# does NumPy decide, as it does for batches.
_FEW_CLASSES = 32
_ROUNDING = 1e-9


def _score_of_one(criterion: Criterion, row: list[float], temperature: float) -> float:
    """The score of one sample's logits, but for rounding; NaN if one of them is not finite."""
    top, total, weighted, exponentials = max(row), 0.0, 0.0, []
    for logit in row:
        shifted = (logit - top) / temperature
        exponential = math.exp(shifted)
        exponentials.append(exponential)
        total += exponential
        weighted += exponential * shifted
    if criterion is Criterion.ENTROPY:
        return math.log(total) - weighted / total
    return (1.0 - (0.0 if criterion is Criterion.MAX_PROBABILITY else sorted(exponentials)[-2])) / total
