"""Are live samples still like those of calibration? And if not: a budget can be kept all the same.

Thresholds and guarantees hold for samples like those that chose them. Two state machines, fed with scores and counts
and never with labels, look after that (the paper's section VI leaves adapting thresholds to new samples open):

- `Monitor` compares the scores at each exit with those of the calibration split, and raises an alarm at the exit where
  they differ. The chance that it *ever* raises one while nothing changed is bounded, however long it watches.
- `Retuner` moves all thresholds along the calibration split's quantiles so that a mean of what samples spend keeps its
  target, whatever the samples are. It keeps the budget, not the accuracy: only new labels could.

At exit k the calibration's samples are those that its rule kept at the exits before; so must the live ones be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.confidence_bounds import check_share, share_limits
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule

__all__ = ["Alarm", "ExitReference", "Monitor", "Reference", "Retuner"]

Floats = NDArray[np.float64]

KNOTS = 65
WATCHED = 8  # every eighth knot but the outermost: quantiles at 1/8 … 7/8
WINDOWS = (20.0, 200.0)  # samples; a strong change shows in the short one, a slight one in the long one
SUREST = 1e-3
# The logarithm of the largest capital: far beyond any alarm, and a float can still hold the sum of a few hundred.
RICHEST = 690.0


@dataclass(frozen=True, slots=True)
class ExitReference:
    """Scores of the *samples* that reached an exit in calibration.

    *knots*: scores at even quantiles, the surest first. *counts*: how many samples were surer than each.
    """

    samples: int
    knots: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.knots) != len(self.counts) or not self.knots or not np.isfinite(self.knots).all():
            raise InvalidInput(f"{len(self.knots)} knots and {len(self.counts)} counts; a number of each is needed")
        if any(low > high for low, high in pairwise((0, *self.counts, self.samples))) or self.samples < 1:
            raise InvalidInput(f"counts are {self.counts}; they must ascend within 0 … {self.samples}")

    def share_surer(self, threshold: float, criterion: Criterion) -> float:
        """The share of calibration samples that would leave at *threshold*, between knots linear in the score."""
        shares = np.array(self.counts) / self.samples
        ascending = criterion.never < criterion.always
        knots = np.array(self.knots) if ascending else -np.array(self.knots)
        return float(np.interp(threshold if ascending else -threshold, knots, shares))

    def threshold(self, share: float, criterion: Criterion) -> float:
        """The threshold at which *share* of the calibration samples would leave; nobody below 0, everybody above 1."""
        if share < 0.0 or share > 1.0:
            return criterion.never if share < 0.0 else criterion.always
        return float(np.interp(share * (len(self.knots) - 1), np.arange(len(self.knots)), self.knots))


@dataclass(frozen=True, slots=True)
class Reference:
    """What the calibration split's scores look like at each exit but the last, under *rule*."""

    rule: ExitRule
    exits: tuple[ExitReference, ...]

    def __post_init__(self) -> None:
        self.rule.check_exits(len(self.exits) + 1)

    @classmethod
    def of(cls, table: OutcomeTable, rule: ExitRule) -> Reference:
        """The reference that *table*, outcomes on the calibration split, makes for *rule*.

        Raises `InvalidInput` if an exit is reached by no sample, so that nothing can be said of it.
        """
        left, scores, exits = table.exit_of(rule), table.scores(rule), []
        for index in range(table.exits - 1):
            reached = np.sort(scores[index][left >= index])
            if not len(reached):
                raise InvalidInput(f"under this rule no sample of the calibration split reaches exit {index}")
            surest_first = reached if rule.criterion.never < rule.criterion.always else reached[::-1]
            knots = surest_first[np.linspace(0, len(reached) - 1, KNOTS).round().astype(np.int64)]
            counts = [int(rule.criterion.confident(reached, float(knot)).sum()) for knot in knots]
            exits.append(ExitReference(len(reached), tuple(knots.tolist()), tuple(counts)))
        return cls(rule, tuple(exits))

    def to_json(self) -> dict[str, Any]:
        """What an artifact's manifest keeps of it, beside the rule."""
        return {
            "exits": [
                {"samples": one.samples, "knots": list(one.knots), "counts": list(one.counts)} for one in self.exits
            ]
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], rule: ExitRule) -> Reference:
        """The reference for *rule* that `to_json` wrote. Raises `InvalidInput` if it is not one."""
        try:
            exits = tuple(
                ExitReference(int(one["samples"]), tuple(map(float, one["knots"])), tuple(map(int, one["counts"])))
                for one in raw["exits"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"this is no reference of scores: {type(error).__name__}: {error}") from None
        return cls(rule, exits)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Scores at *exit* are no longer those of calibration; seen after *samples* had reached it.

    Of calibration's samples *expected_share* were surer than a certain score, lately *seen_share* are.
    """

    exit: int
    samples: int
    expected_share: float
    seen_share: float


class Monitor:
    """Watches the scores at each exit for as long as they come.

    With probability 1 - *false_alarm* at least, there is never an alarm while the samples are like those of
    calibration: independent, of the same distribution. Samples that resemble their forerunners, as frames of a film
    do, look like a change.

    One half of *false_alarm* pays for the reference being a sample itself: the true share of samples surer than each
    watched knot lies between limits (Clopper and Pearson). Without that any finite reference would be found wrong in
    the end. The other half pays for the watching: for each knot, direction and window a gambler bets that the share has
    left the limits, by the likelihood ratio of the share seen lately; while it has not, its capital is a
    supermartingale (Waudby-Smith and Ramdas 2024). Part of the capital, 1/(t(t+1)), starts with sample t, so a change
    after a long calm is not drowned by losses before it (a weighted Shiryaev-Roberts sum; Shin, Ramdas and Rinaldo
    2024, "E-detectors"). The mean of all capitals ever reaching c has a probability of at most 1/c (Ville 1939).
    """

    def __init__(self, reference: Reference, false_alarm: float = 0.01) -> None:
        check_share("chance of a false alarm", false_alarm)
        error = false_alarm / 2 / len(reference.exits)
        self._criterion = reference.rule.criterion
        self._exits = [_Gamblers(one, error) for one in reference.exits]
        self._alarms: dict[int, Alarm] = {}

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """One alarm for each exit that raised one, in the order of the exits. They stay."""
        return tuple(self._alarms[index] for index in sorted(self._alarms))

    def samples(self, exit_index: int) -> int:
        """How many samples were observed at exit *exit_index*."""
        return self._exits[exit_index].seen

    def evidence(self, exit_index: int) -> float:
        """How close exit *exit_index* is to an alarm: 0, nothing speaks for a change; 1, an alarm."""
        gamblers = self._exits[exit_index]
        return float(np.clip(np.log(max(gamblers.wealth, 1.0)) / np.log(gamblers.limit), 0.0, 1.0))

    def observe(self, exit_index: int, scores: Floats, passed_on: int = 0, threshold: float = 0.0) -> Alarm | None:
        """Take note of samples that reached exit *exit_index*; its alarm if these raised one.

        *scores*: float64 [B]. *passed_on*: how many more reached it whose scores are not known, only that they were
        not surer than *threshold*. Of these, what lies beyond *threshold* is not looked at.
        """
        gamblers, criterion = self._exits[exit_index], self._criterion
        surer = np.array([int(criterion.confident(scores, float(knot)).sum()) for knot in gamblers.knots])
        known = np.ones(len(surer), dtype=np.bool_)
        if passed_on:
            known = (gamblers.knots - threshold) * np.sign(criterion.always - criterion.never) <= 0
        gamblers.bet(surer, len(scores) + passed_on, known)
        if exit_index in self._alarms or gamblers.wealth < gamblers.limit:
            return None
        self._alarms[exit_index] = Alarm(exit_index, gamblers.seen, *gamblers.richest())
        return self._alarms[exit_index]


class _Gamblers:
    """The bets at one exit. Arrays are [W, 2, J]: window; surer or less sure than at calibration; knot."""

    def __init__(self, reference: ExitReference, error: float) -> None:
        inner = slice(WATCHED, -1, WATCHED) if len(reference.knots) > 2 * WATCHED else slice(None)
        self.knots = np.array(reference.knots[inner])
        counts = reference.counts[inner]
        limits = np.array([share_limits(count, reference.samples, error / (2 * len(counts))) for count in counts])
        # "Less than low are surer" is the same as "more than 1 - low are not".
        self._most = np.minimum(np.stack([limits[:, 1], 1 - limits[:, 0]]), 1 - SUREST)
        expected = np.array(counts) / reference.samples
        self._expected = np.stack([expected, 1 - expected])
        self._lately = np.repeat(self._expected[None], len(WINDOWS), axis=0)
        # As logarithms: samples unlike those of calibration multiply a capital beyond what a float can hold.
        self._log_capital = np.full_like(self._lately, -np.inf)
        self.limit = 1 / error
        self.seen = 0

    @property
    def wealth(self) -> float:
        """Mean capital; with what has not started yet, it has no gain to expect while nothing changed."""
        return float(np.exp(self._log_capital).mean())

    def bet(self, surer: NDArray[np.int64], samples: int, known: NDArray[np.bool_]) -> None:
        """Bet on *samples* of which *surer*, int64 [J], were surer than each knot, where that is *known*."""
        if not samples:
            return
        hits = np.stack([surer, samples - surer])
        # The stakes come from the past alone; where it shows no excess, the ratio is 1 and nothing is staked.
        claimed = np.maximum(np.minimum(self._lately, 1 - SUREST), self._most)
        gain = hits * np.log(claimed / self._most) + (samples - hits) * np.log((1 - claimed) / (1 - self._most))
        gain[..., ~known] = 0.0
        fresh = samples / ((self.seen + 1) * (self.seen + samples + 1))
        self._log_capital = np.minimum(np.logaddexp(self._log_capital, math.log(fresh)) + gain, RICHEST)
        self.seen += samples
        for lately, window in zip(self._lately, WINDOWS, strict=True):
            kept = (1 - 1 / window) ** samples
            lately[:, known] = kept * lately[:, known] + (1 - kept) * hits[:, known] / samples

    def richest(self) -> tuple[float, float]:
        """Share surer than the knot of the gambler with the largest capital: expected, and seen lately."""
        window, direction, knot = np.unravel_index(int(self._log_capital.argmax()), self._log_capital.shape)
        shares = self._expected[direction, knot], self._lately[window, direction, knot]
        expected, seen = shares if direction == 0 else (1 - shares[0], 1 - shares[1])
        return float(expected), float(seen)


class Retuner:
    """Keeps the mean of what samples spend at *target*, by moving thresholds along calibration's quantiles.

    A sample spends 0 to 1: say 1 if it is offloaded, or its MACs between the least and the most. *offset* is how much
    more of calibration's samples would leave at each of the first *moved* exits (all, if not given); with each sample
    it goes up by *step* times what was spent too much. Whatever samples come, in any order, after T of them in batches
    of at most B the mean is within (1 + step·B) / (step·T) of the target: beyond -1 nobody leaves early and beyond 1
    everybody does, so the offset comes back (Gibbs and Candès 2021, "Adaptive conformal inference under distribution
    shift", proposition 4.1).
    """

    def __init__(self, reference: Reference, target: float, step: float = 0.01, moved: int | None = None) -> None:
        check_share("target", target)
        check_share("step", step)
        self._reference = reference
        self._target, self._step = target, step
        self._moved = len(reference.exits) if moved is None else moved
        self.offset = 0.0

    @property
    def rule(self) -> ExitRule:
        """The rule for the samples to come."""
        calibrated, exits = self._reference.rule, self._reference.exits
        if self.offset == 0.0:
            return calibrated
        thresholds = list(calibrated.thresholds)
        for index in range(self._moved):
            share = exits[index].share_surer(thresholds[index], calibrated.criterion) + self.offset
            thresholds[index] = exits[index].threshold(share, calibrated.criterion)
        return replace(calibrated, thresholds=tuple(thresholds))

    def observe(self, spent: float, samples: int) -> None:
        """Take note of what *samples* spent together under the present rule."""
        self.offset += self._step * (spent - self._target * samples)
