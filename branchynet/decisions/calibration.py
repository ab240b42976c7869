"""Choosing thresholds by screening them on a calibration table (BranchyNet, section V-B).

The table must come from a held-out split of the training data. The released code screened on the test set,
which flatters the result; nothing here can tell the difference, so the callers must.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from branchynet.decisions.exits import Criterion, ExitRule
from branchynet.decisions.outcomes import OutcomeTable, RuleResult
from branchynet.errors import InvalidInput

__all__ = ["candidate_thresholds", "pareto_front", "screen", "select"]

MAX_RULES = 1_000_000


def candidate_thresholds(scores: NDArray[np.float64], criterion: Criterion, count: int) -> NDArray[np.float64]:
    """Up to *count* thresholds at even quantiles of *scores* [N], plus the one that lets nobody leave."""
    quantiles = np.unique(np.quantile(scores, np.linspace(0.0, 1.0, count)))
    return np.concatenate([[criterion.never], quantiles])


def screen(table: OutcomeTable, criterion: Criterion, per_exit: int = 64) -> list[RuleResult]:
    """The result of every combination of candidate thresholds, in no particular order.

    Raises `InvalidInput` if that would be more than a million rules; lower *per_exit* then.
    """
    early = table.exits - 1
    if (per_exit + 1) ** early > MAX_RULES:
        raise InvalidInput(f"{per_exit} candidates at {early} exits make more than {MAX_RULES} rules")
    scores = table.scores(criterion)
    axes = [candidate_thresholds(scores[index], criterion, per_exit) for index in range(early)]
    masks = [
        [criterion.confident(scores[index], float(threshold)) for threshold in axes[index]] for index in range(early)
    ]
    samples = len(table.labels)
    results = []
    for combination in itertools.product(*(range(len(axis)) for axis in axes)):
        inside = np.ones(samples, dtype=np.bool_)
        right, shares = 0, []
        for index, choice in enumerate(combination):
            leaving = masks[index][choice] & inside
            shares.append(int(leaving.sum()) / samples)
            right += int(table.correct[index][leaving].sum())
            inside &= ~leaving
        shares.append(int(inside.sum()) / samples)
        right += int(table.correct[-1][inside].sum())
        rule = ExitRule(criterion, tuple(float(axes[i][choice]) for i, choice in enumerate(combination)))
        results.append(RuleResult(rule, right / samples, tuple(shares), float(np.dot(shares, table.costs))))
    return results


def select(results: list[RuleResult], accuracy_floor: float) -> RuleResult:
    """The cheapest rule whose accuracy is at least *accuracy_floor* (0..1); of equals, the more accurate.

    Raises `InvalidInput`, with the best accuracy there is, if no rule reaches the floor.
    """
    good = [result for result in results if result.accuracy >= accuracy_floor]
    if not good:
        best = max(result.accuracy for result in results)
        raise InvalidInput(f"no rule reaches accuracy {accuracy_floor:.4f}; the best one reaches {best:.4f}")
    return min(good, key=lambda result: (result.cost, -result.accuracy))


def pareto_front(results: list[RuleResult]) -> list[RuleResult]:
    """The rules that no other rule beats in both accuracy and cost, cheapest first."""
    front: list[RuleResult] = []
    for result in sorted(results, key=lambda result: (result.cost, -result.accuracy)):
        if not front or result.accuracy > front[-1].accuracy:
            front.append(result)
    return front
