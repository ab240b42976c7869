"""Many scenarios at once: which plans, at which links, under which load. Points in, rows out; nothing here runs Ray.

The samples of the outcome table are parted: rules are screened and plans chosen on the even ones, requests are
simulated with the odd ones. So a figure of a chosen plan never comes from the samples it was chosen on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import ExitRule
from branchynet.exits.threshold_search import pareto_front, screen
from branchynet.placement.plan import Plan, route
from simulations.model.request_records import CLOUD, FALLBACK, Records
from simulations.model.scenario import PlanModel, Scenario
from simulations.model.simulator import Measured, simulate
from simulations.sweep.axes import Axis
from simulations.sweep.results import BASELINES, Row, Setting, row_of

__all__ = ["Halves", "Point", "baseline_plans", "compare", "points_of", "run_points", "screened_rules"]

MAX_POINTS = 100_000
FRONT_RULES = 8
# Screening every combination takes about a second for this many rules on 5,000 samples.
SCREENED_RULES = 10_000


@dataclass(frozen=True)
class Halves:
    """*selection* is for choosing; requests are simulated from *reported* only."""

    selection: OutcomeTable
    reported: Measured

    @classmethod
    def of(cls, measured: Measured) -> Halves:
        """Even positions for choosing, odd ones for simulating. Raises `InvalidInput` for fewer than two samples."""
        samples = len(measured.table.labels)
        if samples < 2:
            raise InvalidInput(f"{samples} samples cannot be parted into two halves")
        positions = np.arange(samples)
        odd = replace(measured, table=measured.table.take(positions[1::2]))
        return cls(measured.table.take(positions[::2]), odd)


@dataclass(frozen=True, slots=True)
class Point:
    """One simulation: *scenario* with its plan written out. *name* is one of `BASELINES`, or empty."""

    setting: Setting
    name: str
    plan: Plan
    scenario: Scenario


def baseline_plans(own: Plan) -> dict[str, Plan]:
    """The plans that need no choosing, by name, for an artifact with the plan *own*."""
    return dict(zip(BASELINES, (Plan(own.cut, own.rule, edge_only=True), Plan(0, own.rule), own), strict=True))


def points_of(axes: dict[str, Axis], base: Scenario, halves: Halves) -> list[Point]:
    """Every combination of *axes*, and at each of their links and loads the baselines; what is no axis is *base*'s.

    Raises `InvalidInput` for a cut or a scenario that cannot be, and for more than 100,000 points.
    """
    if base.groups:
        raise InvalidInput(f"{base.name} has {len(base.groups)} groups of edges; the edges of a sweep are alike")
    own = halves.reported.own_plan
    named = list(baseline_plans(own).items())
    known = {plan for _, plan in named}
    plans = named + [("", plan) for plan in _plans(axes, base, halves) if plan not in known]
    settings = _settings(axes, base)
    if len(settings) * len(plans) > MAX_POINTS:
        raise InvalidInput(
            f"{len(settings)} links and loads with {len(plans)} plans each are more than {MAX_POINTS} points"
        )
    keep_link = "uplink" not in axes
    return [
        Point(setting, name, plan, _scenario(base, setting, plan, keep_link=keep_link))
        for setting in settings
        for name, plan in plans
    ]


def compare(scenario: Scenario, measured: Measured) -> dict[str, Records]:
    """What becomes of *scenario* with its own plan, which comes first, and with each of the baselines instead.

    Raises `InvalidInput` for a plan the network does not have.
    """
    own = measured.own_plan
    baselines = baseline_plans(own)
    plan = scenario.plan.plan(own.cut, own.rule)
    name = next((name for name, baseline in baselines.items() if baseline == plan), "the scenario's plan")
    results = {name: simulate(scenario, measured)}
    for other, baseline in baselines.items():
        if other != name:
            results[other] = simulate(scenario.replaced(plan=PlanModel.of(baseline)), measured)
    return results


def run_points(points: Iterable[Point], halves: Halves) -> list[Row]:
    """Simulate each of *points*: a row for each, in their order."""
    rows = []
    for point in points:
        records = simulate(point.scenario, halves.reported)
        # Failed offloads count: else a plan that sends what never arrives would be chosen for its cloud's accuracy.
        accuracy = _selection_accuracy(point.plan, halves, _failed_offloads(records))
        deadline_ms = point.scenario.limits.deadline_ms
        rows.append(row_of(point.setting, point.name, point.plan, records, accuracy, deadline_ms))
    return rows


def screened_rules(table: OutcomeTable, own: ExitRule, most: int = FRONT_RULES) -> list[ExitRule]:
    """*own*, and rules of its criterion along the Pareto front of accuracy and cost on *table*; at most *most*.

    The most accurate one is among them.
    """
    early = table.exits - 1
    per_exit = min(64, int(SCREENED_RULES ** (1 / max(early, 1))) - 1)
    front = pareto_front(screen(table, own, per_exit))
    chosen = sorted({round(position) for position in np.linspace(0, len(front) - 1, most - 1)})
    return _different([own, *(front[position].rule for position in reversed(chosen))], [table])


def _plans(axes: dict[str, Axis], base: Scenario, halves: Halves) -> list[Plan]:
    own = halves.reported.own_plan
    stages = halves.reported.profile.edge.stages
    given = base.plan.plan(own.cut, own.rule)
    given.check_plain()
    cuts, rules = [given.cut], [given.rule]
    if "cut" in axes:
        values = axes["cut"].values
        # A cut before the first exit would leave an edge that can answer nothing.
        answering = [0, *range(halves.reported.profile.exit_stages[0] + 1, stages + 1)]
        cuts = answering if values is None else [int(value) for value in values]
    if wrong := [cut for cut in cuts if cut > stages]:
        raise InvalidInput(f"cut is {wrong[0]}; this network has cuts 0 to {stages}")
    if "threshold" in axes:
        values = axes["threshold"].values
        early = halves.selection.exits - 1
        rules = (
            screened_rules(halves.selection, own.rule)
            if values is None
            else _different(
                [own.rule.with_thresholds((value,) * early) for value in values],
                [halves.selection, halves.reported.table],
            )
        )
    return [Plan(cut, rule, given.edge_only) for cut in cuts for rule in rules]


def _different(rules: Sequence[ExitRule], tables: Sequence[OutcomeTable]) -> list[ExitRule]:
    """*rules* without those that send every sample of *tables* where an earlier one sends it."""
    seen: dict[bytes, ExitRule] = {}
    for rule in rules:
        seen.setdefault(b"".join(table.exit_of(rule).tobytes() for table in tables), rule)
    return list(seen.values())


def _settings(axes: dict[str, Axis], base: Scenario) -> list[Setting]:
    def values(name: str, given: float) -> tuple[float, ...]:
        axis = axes.get(name)
        return (given,) if axis is None or axis.values is None else axis.values

    uplinks = values("uplink", 0.0) if "uplink" in axes else (base.link.capacity(base.seed).mean_mbps,)
    return [
        Setting(slowdown, int(edges), rate, int(max_batch), rtt_ms, uplink_mbps)
        for slowdown, edges, rate, max_batch, rtt_ms, uplink_mbps in itertools.product(
            values("slowdown", base.edge.slowdown),
            values("edges", base.edges),
            values("rate", base.workload.rate_per_s),
            values("max_batch", base.cloud.max_batch),
            values("rtt", base.link.rtt_ms),
            uplinks,
        )
    ]


def _scenario(base: Scenario, setting: Setting, plan: Plan, *, keep_link: bool) -> Scenario:
    link = base.link.model_copy(update={"rtt_ms": setting.rtt_ms})
    if not keep_link:
        link = link.model_copy(update={"uplink_mbps": setting.uplink_mbps})
    if base.clouds > setting.edges:
        raise InvalidInput(f"edges is {setting.edges}, for {base.clouds} clouds; at most one for each edge")
    there = base.model_copy(
        update={
            "edges": setting.edges,
            "workload": base.workload.model_copy(update={"rate_per_s": setting.rate_per_s}),
            "link": link,
            "edge": base.edge.model_copy(update={"slowdown": setting.slowdown}),
            "cloud": base.cloud.model_copy(update={"max_batch": setting.max_batch}),
        }
    )
    return there.replaced(plan=PlanModel.of(plan))


def _failed_offloads(records: Records) -> float:
    """The share of offloads that ended with the edge's own answer."""
    failed, answered = (int((records.place == place).sum()) for place in (FALLBACK, CLOUD))
    return failed / max(failed + answered, 1)


def _selection_accuracy(plan: Plan, halves: Halves, failed: float) -> float:
    """What *plan* is expected to get right, by the selection half, if *failed* 0..1 of its offloads do."""
    table, profile = halves.selection, halves.reported.profile
    routes = route(plan, table, profile.exit_stages, max(profile.held, plan.cut))
    samples = np.arange(len(table.labels))
    right, alone = (table.correct[exits, samples].astype(float) for exits in (routes.exits, routes.local_exits))
    return float(np.where(routes.offloaded, (1 - failed) * right + failed * alone, right).mean())
