"""Choosing thresholds on a calibration table (BranchyNet, section V-B): the frontier of accuracy against cost.

The table must come from a held-out split of the training data. The released code screened on the test set,
which flatters the result; nothing here can tell the difference, so the callers must.

With one threshold free and all others fixed, one sort and one running sum give the result of each of its values: a
*line* of rules; with all of them free it is a *grid* (`branchynet.exits.threshold_grid`). Everything here is made of
these.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable, RuleResult
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.exits.threshold_grid import Axis, Cuts, Front, Lines, grid

__all__ = [
    "ACCURACY_DROP_POINTS",
    "candidate_thresholds",
    "distinct_thresholds",
    "frontier",
    "pareto_front",
    "screen",
    "select",
    "select_within",
]

MAX_RULES = 1_000_000
# 20,000 lines over 5,000 samples take some five seconds.
MAX_LINES = 20_000


def candidate_thresholds(scores: NDArray[np.float64], criterion: Criterion, count: int) -> NDArray[np.float64]:
    """Up to *count* thresholds at even quantiles of *scores* [N], plus the one that lets nobody leave."""
    quantiles = np.unique(np.quantile(scores, np.linspace(0.0, 1.0, count)))
    return np.concatenate([[criterion.never], quantiles])


def distinct_thresholds(scores: NDArray[np.float64], criterion: Criterion) -> NDArray[np.float64]:
    """Thresholds that make every difference there is among *scores* [N], from nobody leaves to everybody leaves.

    Each lies halfway between two neighbouring scores, out of reach of rounding. Patience counts in whole numbers.
    """
    confident_first = np.unique(scores) if criterion is Criterion.ENTROPY else np.unique(scores)[::-1]
    if criterion is Criterion.PATIENCE:
        return np.append(confident_first, criterion.always)
    leaver, stayer = confident_first[:-1], confident_first[1:]
    middle = (leaver + stayer) / 2
    between = np.where(middle == leaver, stayer, middle)
    return np.concatenate([[criterion.never], between, [criterion.always]])


def frontier(
    table: OutcomeTable, rule: ExitRule | Criterion, fixed: Mapping[int, float] | None = None
) -> list[RuleResult]:
    """The rules that no other rule beats in both accuracy and cost, cheapest first; of *rule* all but thresholds count.

    *fixed*: thresholds that are given, by exit; the others are searched over all values that make a difference on
    *table*. While there are at most `MAX_LINES` combinations of all thresholds but the last free one (one free
    threshold always, two up to 20,000 samples), every combination is tried: nothing beats these rules on *table*.
    Beyond that it is a Pareto local search (Paquete, Chiarandini and Stützle 2004): every rule it gives has exactly the
    figures it says, and no change of a single threshold of any of them beats any of them; a change of two might.

    Raises `InvalidInput` for a fixed exit that there is not, or as `OutcomeTable.scores` does.
    """
    rule = _template(table, rule)
    early = table.exits - 1
    fixed = dict(fixed or {})
    if wrong := [number for number in fixed if not 0 <= number < early]:
        raise InvalidInput(f"exit {wrong[0]} has no threshold; exits 0 to {early - 1} of {table.exits} do")
    if early == 0:
        return [table.apply(rule)]
    scores = table.scores(rule)
    thresholds = [
        np.array([fixed[i]]) if i in fixed else distinct_thresholds(scores[i], rule.criterion) for i in range(early)
    ]
    lines = _lines(table, rule, scores, thresholds)
    # The line goes along the exit with most candidates: that leaves the fewest combinations of the others.
    along = max(range(early), key=lambda number: len(thresholds[number]))
    others = [range(1 if number == along else len(values)) for number, values in enumerate(thresholds)]
    front = Front(lines)
    if math.prod(map(len, others)) <= MAX_LINES:
        for cuts in itertools.product(*others):
            front.offer(cuts, along)
    else:
        _search(front, early)
    return [_result(lines, rule, cuts) for cuts in front.members()]


def _search(front: Front, early: int) -> None:
    """Offer every line through every member of *front*, until no line holds a rule that none of them beats."""
    looked_at: set[Cuts] = set()
    waiting: list[Cuts] = [(0,) * early]
    while waiting:
        for cuts in waiting:
            for along in range(early):
                front.offer(cuts, along)
        looked_at.update(waiting)
        waiting = [cuts for cuts in front.members() if cuts not in looked_at]


def screen(table: OutcomeTable, rule: ExitRule | Criterion, per_exit: int = 64) -> list[RuleResult]:
    """The result of every combination of candidate thresholds, in no particular order.

    Raises `InvalidInput` if that would be more than a million rules; lower *per_exit* then, or ask for the `frontier`.
    """
    rule = _template(table, rule)
    early = table.exits - 1
    if (per_exit + 1) ** early > MAX_RULES:
        raise InvalidInput(f"{per_exit} candidates at {early} exits make more than {MAX_RULES} rules")
    scores = table.scores(rule)
    thresholds = [candidate_thresholds(scores[index], rule.criterion, per_exit) for index in range(early)]
    axes = [Axis.of(scores[index], rule.criterion, values) for index, values in enumerate(thresholds)]
    counts, right = grid(axes, table.correct)
    samples = len(table.labels)
    shares = counts / samples
    costs = shares @ table.costs
    return [
        RuleResult(
            rule.with_thresholds(tuple(map(float, values))),
            int(right[row]) / samples,
            tuple(map(float, shares[row])),
            float(costs[row]),
        )
        for row, values in enumerate(itertools.product(*thresholds))
    ]


def select(results: list[RuleResult], accuracy_floor: float) -> RuleResult:
    """The cheapest rule whose accuracy is at least *accuracy_floor* (0..1); of equals, the more accurate.

    Raises `InvalidInput`, with the best accuracy there is, if no rule reaches the floor.
    """
    good = [result for result in results if result.accuracy >= accuracy_floor]
    if not good:
        best = max(result.accuracy for result in results)
        raise InvalidInput(f"no rule reaches accuracy {accuracy_floor:.4f}; the best one reaches {best:.4f}")
    return min(good, key=lambda result: (result.cost, -result.accuracy))


def select_within(results: list[RuleResult], budget: float) -> RuleResult:
    """The most accurate rule whose mean cost is at most *budget*, in the table's unit; of equals, the cheaper.

    Raises `InvalidInput`, with the lowest cost there is, if no rule is as cheap.
    """
    good = [result for result in results if result.cost <= budget]
    if not good:
        least = min(result.cost for result in results)
        raise InvalidInput(f"no rule keeps to a mean cost of {budget:,.6g}; the cheapest one takes {least:,.6g}")
    return max(good, key=lambda result: (result.accuracy, -result.cost))


def pareto_front(results: list[RuleResult]) -> list[RuleResult]:
    """The rules that no other rule beats in both accuracy and cost, cheapest first."""
    front: list[RuleResult] = []
    for result in sorted(results, key=lambda result: (result.cost, -result.accuracy)):
        if not front or result.accuracy > front[-1].accuracy:
            front.append(result)
    return front


def _template(table: OutcomeTable, rule: ExitRule | Criterion) -> ExitRule:
    """*rule*, or the plain one of a criterion, for as many exits as *table* has."""
    return ExitRule(rule, (rule.never,) * (table.exits - 1)) if isinstance(rule, Criterion) else rule


def _lines(
    table: OutcomeTable,
    rule: ExitRule,
    scores: NDArray[np.float64],
    thresholds: Sequence[NDArray[np.float64]],
) -> Lines:
    axes = [Axis.of(scores[number], rule.criterion, values) for number, values in enumerate(thresholds)]
    return Lines(axes, table.correct, table.costs)


def _result(lines: Lines, rule: ExitRule, cuts: Cuts) -> RuleResult:
    taken = lines.taken(cuts)
    samples = len(taken)
    shares = np.bincount(taken, minlength=len(lines.costs)) / samples
    thresholds = tuple(float(axis.thresholds[cut]) for axis, cut in zip(lines.axes, cuts, strict=True))
    right = int(lines.correct[taken, np.arange(samples)].sum())
    return RuleResult(
        rule.with_thresholds(thresholds), right / samples, tuple(map(float, shares)), float(shares @ lines.costs)
    )


ACCURACY_DROP_POINTS = 0.1
