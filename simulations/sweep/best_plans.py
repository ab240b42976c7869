"""A finished sweep, and choosing among its rows: the winning plan of each setting, the fronts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from branchynet.placement.serving_profile import ServingProfile
from simulations.model.scenario import Scenario
from simulations.sweep.results import Row, Setting

__all__ = ["BestPlan", "Sweep", "accuracy_front", "best_plans", "by_setting", "scenes"]


@dataclass(frozen=True, slots=True)
class BestPlan:
    """The best row of a setting, and the best baseline there.

    A baseline counts if it is accurate enough; if none is, the most accurate one stands for them.
    """

    row: Row
    baseline: Row

    @property
    def gain(self) -> float:
        """How many times the plan's mean latency the baseline's is."""
        return self.baseline.mean_ms / self.row.mean_ms


@dataclass(frozen=True)
class Sweep:
    """What was asked and what came of it.

    *base* is the scenario but for the axes swept. *samples* are those that plans were chosen on, and those that
    requests had. *accuracy_drop_points*: see `best_plans`.
    """

    rows: list[Row]
    base: Scenario
    profile: ServingProfile
    samples: tuple[int, int]
    accuracy_drop_points: float

    @property
    def stages(self) -> int:
        """Number of the network's stages."""
        return self.profile.edge.stages

    def holdings(self) -> dict[str, dict[Setting, BestPlan]]:
        """The best plans, in words for what an edge may hold: the stages it had when measured, and whatever plans use.

        One entry if that is the same. Without the first, the cut behind the last stage would win every map of a small
        network and hide the question that was asked.
        """
        held = self.profile.held
        fitting = [row for row in self.rows if row.plan.cut <= held]
        words = "stage 0 only" if held == 1 else f"stages 0 to {held - 1}"
        result = {f"the edge holds {words}": best_plans(fitting, self.accuracy_drop_points)}
        if len(fitting) < len(self.rows):
            result["the edge may hold every stage"] = best_plans(self.rows, self.accuracy_drop_points)
        return result

    def figures(self) -> dict[str, Any]:
        """The sweep's JSON; `docs/reference/json.md` explains the keys."""
        selection, reported = self.samples
        return {
            "scenario": self.base.model_dump(mode="json"),
            "samples": {"selection": selection, "reported": reported},
            "accuracy_drop_points": self.accuracy_drop_points,
            "best_plans": [
                {
                    "edge_holds": holding,
                    **best.row.flat(),
                    "best_baseline": best.baseline.name,
                    "best_baseline_mean_ms": best.baseline.mean_ms,
                    "gain": best.gain,
                }
                for holding, found in self.holdings().items()
                for best in found.values()
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


def best_plans(rows: Sequence[Row], accuracy_drop_points: float) -> dict[Setting, BestPlan]:
    """At each setting, the plan with the lowest mean latency of those that are accurate enough.

    That is a selection accuracy of at least the highest one at this setting less *accuracy_drop_points* percentage
    points. Of plans that are equally fast the one with fewer bytes wins, then the more accurate, then a baseline.
    """
    return {setting: _best_of(group, accuracy_drop_points) for setting, group in by_setting(rows).items()}


def accuracy_front(rows: Sequence[Row], cost: str) -> list[Row]:
    """The rows that no other beats in both accuracy and *cost* (`mean_ms` or `uplink_bytes`), cheapest first."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (getattr(row, cost), -row.accuracy)):
        if not front or row.accuracy > front[-1].accuracy:
            front.append(row)
    return front


def _best_of(rows: Sequence[Row], accuracy_drop_points: float) -> BestPlan:
    floor = max(row.selection_accuracy for row in rows) - accuracy_drop_points / 100
    baselines = [row for row in rows if row.name]
    good = [row for row in baselines if row.selection_accuracy >= floor]
    return BestPlan(
        row=min((row for row in rows if row.selection_accuracy >= floor), key=_preference),
        baseline=min(good, key=_preference) if good else max(baselines, key=lambda row: row.selection_accuracy),
    )


def _preference(row: Row) -> tuple[float, float, float, bool]:
    return row.mean_ms, row.uplink_bytes, -row.selection_accuracy, not row.name
