"""Two classifiers on the same samples: what one is better by, and whether that could be chance.

Two networks that are judged on one test set fail on much the same images, so comparing their separate intervals throws
away most of what is known. Only the samples on which exactly one of them is right tell them apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable, wilson_interval
from branchynet.exits.rules import ExitRule

__all__ = ["PairedComparison", "compare_paired", "difference_points"]


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """How often each of two classifiers is right where the other is not, in counts of samples.

    Raises `InvalidInput` if there is no sample or a count is negative.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    def __post_init__(self) -> None:
        counts = (self.both, self.only_first, self.only_second, self.neither)
        if min(counts) < 0 or not sum(counts):
            raise InvalidInput(f"counts are {counts}; they must be 0 or more, and at least one sample is needed")

    @property
    def samples(self) -> int:
        """Number of samples both were judged on."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the first less that of the second, -1..1."""
        return (self.only_first - self.only_second) / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `difference`: Newcombe's square-and-add, method 10 (Statistics in Medicine 17, 1998, 2635).

        Wilson's intervals of the two accuracies, put together with the correlation of the two classifiers, which is
        corrected for continuity where it is positive.
        """
        first, second = self.both + self.only_first, self.both + self.only_second
        samples = self.samples
        (low1, high1), (low2, high2) = (wilson_interval(right / samples, samples) for right in (first, second))
        spread = math.sqrt(first * (samples - first) * second * (samples - second))
        together = float(self.both * self.neither - self.only_first * self.only_second)
        if together > 0:
            together = max(together - samples / 2, 0.0)
        phi = together / spread if spread else 0.0
        up1, down1 = high1 - first / samples, first / samples - low1
        up2, down2 = high2 - second / samples, second / samples - low2
        down = math.sqrt(max(down1**2 - 2 * phi * down1 * up2 + up2**2, 0.0))
        up = math.sqrt(max(up1**2 - 2 * phi * up1 * down2 + down2**2, 0.0))
        return max(-1.0, self.difference - down), min(1.0, self.difference + up)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of McNemar's exact test (1947): of no difference, given how many samples differ at all."""
        differing = self.only_first + self.only_second
        ways, tail = 1, 1  # in whole numbers: how many ways there are to pick `count` of them, and up to `count`
        for count in range(1, min(self.only_first, self.only_second) + 1):
            ways = ways * (differing - count + 1) // count
            tail += ways
        return min(1.0, 2 * tail / (1 << differing))


def compare_paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedComparison:
    """Compare two classifiers by whether each was right about each sample: bool [N] both, in the same order."""
    if first.shape != second.shape:
        raise InvalidInput(f"{first.shape} and {second.shape} are not the same samples")
    return PairedComparison(
        both=int((first & second).sum()),
        only_first=int((first & ~second).sum()),
        only_second=int((~first & second).sum()),
        neither=int((~first & ~second).sum()),
    )


def difference_points(table: OutcomeTable, rule: ExitRule) -> list[float]:
    """Accuracy under *rule* less that of the final exit, in percentage points: what it may be, is, and may be.

    The first and last are a 95 % interval for new images like those of *table*. Thresholds that were chosen on *table*
    lie towards its better end: the fewer images, the more.
    """
    compared = compare_paired(table.correct_under(rule), table.correct[-1])
    low, high = compared.interval
    return [round(100 * value, 4) for value in (low, compared.difference, high)]
