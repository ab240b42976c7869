"""A finished sweep, and choosing among its rows: the winning plan of each setting, the fronts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from branchynet.decisions.timing import ServingProfile
from simulations.rows import Row, Setting
from simulations.scenarios import Scenario

__all__ = ["Sweep", "Winner", "accuracy_front", "by_setting", "scenes", "winners"]


@dataclass(frozen=True, slots=True)
class Winner:
    """The best row of a setting, and the best baseline there.

    A baseline counts if it is accurate enough; if none is, the most accurate one stands for them.
    """

    best: Row
    baseline: Row

    @property
    def gain(self) -> float:
        """How many times the winner's mean latency the baseline's is."""
        return self.baseline.mean_ms / self.best.mean_ms


@dataclass(frozen=True)
class Sweep:
    """What was asked and what came of it.

    *base* is the scenario but for the axes swept. *samples* are those that plans were chosen on, and those that
    requests had. *max_drop*: see `winners`.
    """

    rows: list[Row]
    base: Scenario
    profile: ServingProfile
    samples: tuple[int, int]
    max_drop: float

    @property
    def stages(self) -> int:
        """Number of the network's stages."""
        return self.profile.edge.stages

    def holdings(self) -> dict[str, dict[Setting, Winner]]:
        """The winners, in words for what an edge may hold: the stages it had when measured, and whatever plans use.

        One entry if that is the same.
        """
        held = self.profile.held
        fitting = [row for row in self.rows if row.plan.cut <= held]
        words = "stage 0 only" if held == 1 else f"stages 0 to {held - 1}"
        result = {f"the edge holds {words}": winners(fitting, self.max_drop)}
        if len(fitting) < len(self.rows):
            result["the edge may hold every stage"] = winners(self.rows, self.max_drop)
        return result

    def figures(self) -> dict[str, Any]:
        """The sweep's JSON; `docs/figures.md` explains the keys."""
        selection, reported = self.samples
        return {
            "scenario": self.base.model_dump(mode="json"),
            "samples": {"selection": selection, "reported": reported},
            "max_drop": self.max_drop,
            "winners": [
                {
                    "edge_holds": holding,
                    **winner.best.flat(),
                    "best_baseline": winner.baseline.name,
                    "best_baseline_mean_ms": winner.baseline.mean_ms,
                    "gain": winner.gain,
                }
                for holding, found in self.holdings().items()
                for winner in found.values()
            ],
            "rows": [row.flat() for row in self.rows],
        }


def by_setting(rows: Sequence[Row]) -> dict[Setting, list[Row]]:
    """The rows of each setting, in ascending order of the settings and the given order of the rows."""
    ordered = sorted(rows, key=lambda row: row.setting)
    return {setting: list(group) for setting, group in itertools.groupby(ordered, key=lambda row: row.setting)}


def scenes(rows: Sequence[Row]) -> list[list[Setting]]:
    """The settings of *rows*, those that differ in the link only together."""
    return [list(group) for _, group in itertools.groupby(by_setting(rows), key=lambda setting: setting.scene)]


def winners(rows: Sequence[Row], max_drop: float) -> dict[Setting, Winner]:
    """At each setting, the plan with the lowest mean latency of those that are accurate enough.

    That is a selection accuracy of at least the highest one at this setting less *max_drop* (0..1). Of plans that are
    equally fast the one with fewer bytes wins, then the more accurate, then a baseline.
    """
    return {setting: _winner(group, max_drop) for setting, group in by_setting(rows).items()}


def accuracy_front(rows: Sequence[Row], cost: str) -> list[Row]:
    """The rows that no other beats in both accuracy and *cost* (`mean_ms` or `uplink_bytes`), cheapest first."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (getattr(row, cost), -row.accuracy)):
        if not front or row.accuracy > front[-1].accuracy:
            front.append(row)
    return front


def _winner(rows: Sequence[Row], max_drop: float) -> Winner:
    floor = max(row.selection_accuracy for row in rows) - max_drop
    baselines = [row for row in rows if row.name]
    good = [row for row in baselines if row.selection_accuracy >= floor]
    return Winner(
        best=min((row for row in rows if row.selection_accuracy >= floor), key=_preference),
        baseline=min(good, key=_preference) if good else max(baselines, key=lambda row: row.selection_accuracy),
    )


def _preference(row: Row) -> tuple[float, float, float, bool]:
    return row.mean_ms, row.uplink_bytes, -row.selection_accuracy, not row.name
