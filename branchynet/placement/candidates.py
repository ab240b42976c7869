"""The plans worth considering, with what of them does not depend on devices and link: who leaves where, who is right.

With nobody else in its way, what a sample takes depends on the exit at which it leaves and on nothing else. A plan's
means are then the shares of samples at each exit times what that exit takes (`branchynet.placement.optimise`), so
everything that needs the samples is done here, once.

No device and no link makes a later exit cost less than an earlier one. A rule is therefore never missed if another one
with the same cut and codec gets at least as many samples right and lets no more of them pass any exit; only the rules
without such another are kept.

Cuts, for networks without exits, are Neurosurgeon's plans (Kang et al. 2017); Edgent (Li et al. 2018) adds one
exit for all samples, and SPINN (Laskaridis et al. 2020) an exit for each, by threshold.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.exits.threshold_grid import Axis, grid
from branchynet.exits.threshold_search import MAX_RULES, distinct_thresholds
from branchynet.placement.plan import Plan, plain_codec, route
from branchynet.placement.serving_profile import ServingProfile

__all__ = ["Candidates", "undominated"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
NOTHING_CODED: Mapping[tuple[int, str], OutcomeTable] = MappingProxyType({})


@dataclass(frozen=True)
class Candidates:
    """P plans for an edge that holds stages [0, *held*) of a network whose exits follow *exit_stages*.

    *ways*: W plans of which only cut, codec, `edge_only` and the rule's kind count. *way*: int64 [P], which of them
    each plan is, ascending. *thresholds*: float64 [P, E - 1]. *shares*: float64 [P, E], of the samples that leave at
    each exit. *accuracy*: float64 [P], 0..1.
    """

    ways: tuple[Plan, ...]
    way: Integers
    thresholds: Floats
    shares: Floats
    accuracy: Floats
    exit_stages: tuple[int, ...]
    held: int

    @classmethod
    def of(
        cls,
        table: OutcomeTable,
        rule: ExitRule | Criterion,
        profile: ServingProfile,
        coded: Mapping[tuple[int, str], OutcomeTable] = NOTHING_CODED,
        cuts: Iterable[int] | None = None,
        rules: int = 4_096,
    ) -> Candidates:
        """Everything on the edge; the input as it is to the cloud (cut 0); and each cut, plain and with each codec.

        *table*: the outcomes without a codec on the calibration split. *coded*: by cut and codec, those of the same
        samples when that codec is at that cut, which changes what the exits behind it say; for a lossless one, the
        same *table*. *cuts*: those to consider; by default all behind the edge's first exit that it holds. Of
        *profile* only the exits' places and what the edge holds count.

        Thresholds are sought among about *rules* combinations of evenly spread ones, all there are if they are no
        more, and those of *rule* itself; of what else it knows nothing is changed. Raises `InvalidInput` for a cut
        without an exit before it, a table of another network or of other samples, or a number of rules above a million.
        """
        exit_stages, held = profile.exit_stages, profile.held
        if isinstance(rule, Criterion):
            rule = ExitRule(rule, (rule.never,) * (table.exits - 1))
        if len(exit_stages) != table.exits:
            raise InvalidInput(f"the outcomes are of {table.exits} exits; the profile has {len(exit_stages)}")
        if not 1 <= rules <= MAX_RULES:
            raise InvalidInput(f"rules is {rules}; it must be 1 to {MAX_RULES}")
        if exit_stages[0] >= held:
            raise InvalidInput(f"stages [0, {held}) have no exit; the first one follows stage {exit_stages[0]}")
        last = min(held, exit_stages[-1])
        split = range(exit_stages[0] + 1, last + 1) if cuts is None else sorted({*cuts} - {0})
        edge_only = Plan(held, rule, edge_only=True)
        tables = {edge_only: table, **{Plan(cut, rule): table for cut in (0, *split)}}
        for (cut, codec), outcomes in coded.items():
            _check_codec(cut, codec, outcomes, table)
            tables[Plan(cut, rule, codec=codec)] = outcomes
        known: dict[tuple[int, int], tuple[Floats, Floats, Floats]] = {}
        parts = []
        for way, outcomes in tables.items():
            if way is not edge_only and way.cut not in (0, *range(exit_stages[0] + 1, last + 1)):
                raise InvalidInput(
                    f"cut is {way.cut}; this edge may offload at 0, and from {exit_stages[0] + 1} to {last}, "
                    "where it has run an exit and the cloud has stages left"
                )
            # Edge only, the deepest exit answers whoever is left, so its threshold would only cost time.
            free = _deepest(way, exit_stages, held) if way is edge_only else table.exits - 1
            if (id(outcomes), free) not in known:
                known[id(outcomes), free] = _rules(outcomes, rule, free, rules)
            parts.append(known[id(outcomes), free])
        thresholds, shares, accuracy = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        way_of = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
        return cls(tuple(tables), way_of, thresholds, shares, accuracy, exit_stages, held)

    @classmethod
    def given(
        cls,
        plans: Sequence[Plan],
        table: OutcomeTable,
        profile: ServingProfile,
        coded: Mapping[tuple[int, str], OutcomeTable] = NOTHING_CODED,
    ) -> Candidates:
        """These very *plans*, good or not, each a way of its own; the rest as for `of`. Raises what `route` raises."""
        shares, accuracy = [], []
        for plan in plans:
            outcomes = coded.get((plan.cut, plan.codec), table)
            exits = route(plan, outcomes, profile.exit_stages, profile.held).exits
            shares.append(np.bincount(exits, minlength=table.exits) / len(exits))
            accuracy.append(outcomes.correct[exits, np.arange(len(exits))].mean())
        thresholds = np.array([plan.rule.thresholds for plan in plans], dtype=np.float64)
        return cls(
            tuple(plans),
            np.arange(len(plans)),
            thresholds,
            np.array(shares),
            np.array(accuracy),
            profile.exit_stages,
            profile.held,
        )

    def __len__(self) -> int:
        return len(self.way)

    def plan(self, index: int) -> Plan:
        """The plan at *index*."""
        way: Plan = self.ways[self.way[index]]
        return replace(way, rule=way.rule.with_thresholds(tuple(map(float, self.thresholds[index]))))

    def only(self, rows: Integers) -> Candidates:
        """The plans at *rows*, ascending, and nothing of the others."""
        used, way = np.unique(self.way[rows], return_inverse=True)
        return replace(
            self,
            ways=tuple(self.ways[number] for number in used),
            way=way,
            thresholds=self.thresholds[rows],
            shares=self.shares[rows],
            accuracy=self.accuracy[rows],
        )

    def accurate(self, min_accuracy: float) -> Candidates:
        """What of these can be the best of those with at least *min_accuracy*, on whatever devices and link.

        Of one way and among the accurate, that is whoever lets no more samples pass any exit than another one does.
        Raises `InvalidInput`, with the highest accuracy there is, if no plan is accurate enough.
        """
        passing = 1 - np.cumsum(self.shares, axis=1).round(9)
        rows: list[int] = []
        for number in range(len(self.ways)):
            here = np.flatnonzero((self.way == number) & (self.accuracy >= min_accuracy))
            here = here[np.argsort(-self.accuracy[here], kind="stable")]  # of equals the first one is kept
            rows += here[undominated(passing[here])].tolist()
        if not rows:
            raise InvalidInput(f"no plan has an accuracy of {min_accuracy:.6g}; one has {self.accuracy.max():.6g}")
        return self.only(np.array(sorted(rows)))

    @property
    def local_exits(self) -> Integers:
        """The exit that answers if the cloud does not, for each way: int64 [W]."""
        return np.array([_deepest(way, self.exit_stages, self.held) for way in self.ways])


def undominated(points: NDArray[np.number]) -> Integers:
    """Which rows of *points* [P, M] no other row is at least as small as in every column: int64 [K].

    Of equal rows the first one is in. They come sorted by the first column, then the second, and so on.
    """
    order = np.lexsort(points.T[::-1])
    front = []
    while len(order):  # what comes first in this order, nothing behind it can beat
        first = order[0]
        front.append(first)
        order = order[(points[order] < points[first]).any(axis=1)]
    return np.array(front, dtype=np.int64)


def _deepest(way: Plan, exit_stages: tuple[int, ...], held: int) -> int:
    """The edge's deepest exit on its own; without one, -1. What `route` says of the plan, before any sample."""
    here = way.cut if way.cut and not way.edge_only else held
    return sum(stage < here for stage in exit_stages) - 1


def _check_codec(cut: int, codec: str, outcomes: OutcomeTable, plain: OutcomeTable) -> None:
    if codec == plain_codec(cut):
        raise InvalidInput(f"coded has {codec!r} at cut {cut}; that is no codec, and its outcomes are the table's")
    if outcomes.exits != plain.exits or not np.array_equal(outcomes.labels, plain.labels):
        raise InvalidInput(f"the outcomes with {codec!r} at cut {cut} are not of the same samples and exits")


def _rules(table: OutcomeTable, rule: ExitRule, free: int, rules: int) -> tuple[Floats, Floats, Floats]:
    """Thresholds [K, E - 1], shares [K, E] and accuracy [K] of the rules that are not beaten on *table*.

    Exits from number *free* on let everybody leave.
    """
    per_exit = round(rules ** (1 / max(free, 1)))
    scores = table.scores(rule)
    axes = []
    for number, own in enumerate(rule.thresholds):
        thresholds = np.array([rule.criterion.always])
        if number < free:
            all_of_them = distinct_thresholds(scores[number], rule.criterion)
            spread = np.linspace(0, len(all_of_them) - 1, min(per_exit, len(all_of_them))).round().astype(np.int64)
            thresholds = np.append(all_of_them[spread], own)
        axes.append(Axis.of(scores[number], rule.criterion, thresholds))
    counts, right = grid(axes, table.correct)
    samples = len(table.labels)
    kept = undominated(np.column_stack([-right, samples - np.cumsum(counts, axis=1)[:, :-1]]))
    combinations = list(itertools.product(*(axis.thresholds for axis in axes)))
    thresholds = np.array([combinations[row] for row in kept]).reshape(len(kept), len(axes))
    return thresholds, counts[kept] / samples, right[kept] / samples
