"""Lines of rules: all values of one exit's threshold while the others stay, each with what it achieves on a table.

Sort the samples by how sure the exit is of them. Its threshold then says how many of them, counted from the surest,
would leave there. Whoever leaves there no longer leaves later: what that changes, in right answers and in cost, summed
up along the sorted samples, is the result of every threshold at once. With all thresholds free, the same sums run over
a table of counts with a side for each exit: a *grid* of rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.exits.rules import Criterion

__all__ = ["Axis", "Cuts", "Front", "Lines", "grid"]

Integers = NDArray[np.int64]
# For each exit but the last, the position of its threshold on its axis.
Cuts = tuple[int, ...]
# Costs are reckoned in whole parts, so that the order of a sum does not change it; millions of samples fit an int64.
COST_PARTS = 2**40


@dataclass(frozen=True, slots=True)
class Axis:
    """One exit's candidate thresholds on N samples.

    *thresholds*: float64 [K]. *leavers*: int64 [K], how many samples would leave at each. *order*: int64 [N], the
    samples, surest first. *position*: int64 [N], where each is in that order.
    """

    thresholds: NDArray[np.float64]
    leavers: Integers
    order: Integers
    position: Integers

    @classmethod
    def of(cls, scores: NDArray[np.float64], criterion: Criterion, thresholds: NDArray[np.float64]) -> Axis:
        """The axis of an exit with these *scores* [N]."""
        sign = 1.0 if criterion is Criterion.ENTROPY else -1.0
        doubt = sign * scores
        order = np.argsort(doubt, kind="stable")
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        return cls(thresholds, np.searchsorted(doubt[order], sign * thresholds, side="left"), order, position)


class Lines:
    """The lines through any rule: *axes* for each exit but the last, *correct* bool [E, N], *costs* float64 [E]."""

    def __init__(self, axes: Sequence[Axis], correct: NDArray[np.bool_], costs: NDArray[np.float64]) -> None:
        self.axes = axes
        self.correct = correct
        self.costs = costs
        self._samples = np.arange(correct.shape[1])
        self._right = correct.astype(np.int64)
        parts = (
            np.rint(costs * (COST_PARTS / costs.max())).astype(np.int64)
            if costs.max() > 0
            else np.zeros(len(costs), np.int64)
        )
        self._cost = np.repeat(parts[:, None], correct.shape[1], axis=1)

    def taken(self, cuts: Cuts, without: int | None = None) -> Integers:
        """The exit at which each sample leaves: int64 [N]; exit *without* lets nobody leave."""
        taken = np.full(len(self._samples), len(self.axes))
        for number in reversed(range(len(self.axes))):
            if number != without:
                axis = self.axes[number]
                taken[axis.position < axis.leavers[cuts[number]]] = number
        return taken

    def line(self, cuts: Cuts, along: int) -> tuple[Integers, Integers]:
        """Right answers and cost in parts, int64 [K] each, for each threshold of exit *along*; the others as *cuts*."""
        other = self.taken(cuts, without=along)
        return self._sums(self._right, other, along), self._sums(self._cost, other, along)

    def _sums(self, worth: Integers, other: Integers, along: int) -> Integers:
        """The sum of *worth* [E, N] over the samples, each at the exit where it leaves: int64 [K]."""
        axis = self.axes[along]
        otherwise = worth[other, self._samples]
        # Whoever has left before *along* is not asked there.
        change = np.where(other > along, worth[along] - otherwise, 0)
        running = np.concatenate([[0], np.cumsum(change[axis.order])])
        return np.asarray(otherwise.sum() + running[axis.leavers])


class Front:
    """The best of what was offered from *lines*: for each number of right answers, the cheapest rule."""

    def __init__(self, lines: Lines) -> None:
        samples = lines.correct.shape[1]
        self._lines = lines
        self._cost = np.full(samples + 1, np.iinfo(np.int64).max)
        self._cuts = np.zeros((samples + 1, len(lines.axes)), dtype=np.int64)
        # The lowest cost among the rules with at least as many right answers: what is not below it is beaten.
        self._bound = self._cost.copy()

    def offer(self, cuts: Cuts, along: int) -> None:
        """Take from the line through *cuts* along exit *along* what nothing offered so far beats."""
        right, cost = self._lines.line(cuts, along)
        better = np.flatnonzero(cost < self._bound[right])
        if not len(better):
            return
        better = better[np.lexsort((cost[better], right[better]))]
        better = better[np.unique(right[better], return_index=True)[1]]
        self._cost[right[better]] = cost[better]
        self._cuts[right[better]] = cuts
        self._cuts[right[better], along] = better
        self._bound = np.minimum.accumulate(self._cost[::-1])[::-1]

    def members(self) -> list[Cuts]:
        """The rules that no other one beats in both right answers and cost, cheapest first."""
        dearer = np.append(self._bound[1:], np.iinfo(np.int64).max)
        return [tuple(map(int, cuts)) for cuts in self._cuts[self._bound < dearer]]


def grid(axes: Sequence[Axis], correct: NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """What each combination of the *axes*' thresholds does, P of them; the last axis' threshold changes fastest.

    *correct*: bool [E, N], with an axis for each exit but the last. Gives how many samples leave at each exit, int64
    [P, E], and how many get a right answer, int64 [P].
    """
    exits, samples = correct.shape
    sides = tuple(len(axis.thresholds) for axis in axes)
    # Where each threshold is if the strictest comes first, and how many of them, in that order, keep each sample.
    ranks = [np.argsort(np.argsort(axis.leavers, kind="stable")) for axis in axes]
    kept_by = [np.searchsorted(np.sort(axis.leavers), axis.position, side="right") for axis in axes]

    def leaving(number: int, worth: NDArray[np.bool_]) -> Integers:
        """The sum of *worth* [N] over those who leave at exit *number*, for each combination that it depends on."""
        asked = range(min(number + 1, len(axes)))
        shape = [sides[along] + 1 for along in asked]
        cell = np.zeros(samples, dtype=np.int64)
        for along in asked:
            cell = cell * shape[along] + kept_by[along]
        counted = np.bincount(cell, weights=worth, minlength=math.prod(shape)).astype(np.int64)
        sums = counted.reshape(shape)
        for along in asked:
            running = np.cumsum(np.moveaxis(sums, along, 0), axis=0)
            chosen = running[:-1] if along == number else running[-1] - running[:-1]
            sums = np.moveaxis(chosen[ranks[along]], 0, along)
        return sums.reshape(sums.shape + (1,) * (len(axes) - len(asked)))

    counts, right = np.zeros((exits, *sides), dtype=np.int64), np.zeros(sides, dtype=np.int64)
    everybody = np.ones(samples, dtype=np.bool_)
    for number in range(exits):
        counts[number, ...] = leaving(number, everybody)
        right += leaving(number, correct[number])
    return counts.reshape(exits, -1).T, right.ravel()
