"""What the plan grid shows: the grid, what was measured of it, figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from cli.options import console

if TYPE_CHECKING:
    from benchmarks.plan_grid.choices import Choice, Point
    from benchmarks.plan_grid.live import Live, MeasuredPlan
    from orchestrator.runs.plan_inputs import PlanInputs

__all__ = ["live_figures", "means_of", "point_figures", "print_grid", "print_live", "summary_of"]


def _way(choice: Choice, inputs: PlanInputs) -> str:
    from cli.plots.plan_map import way_words

    return way_words(choice.plan, inputs.profile.edge.stages)


def _place(point: Point) -> tuple[str, str, str]:
    slower = f"{point.slowdown}x slower" if point.slowdown > 1 else "equal"
    return slower, f"{point.link.rtt_ms:g}", f"{point.link.uplink_mbps:g}"


def print_grid(title: str, points: list[Point], inputs: PlanInputs) -> None:
    """The table of all *points*, six uplinks to a round trip."""
    table = Table(title=title)
    for heading in ("edge", "rtt ms", "Mbit/s", "chosen plan", "mean ms", "edge only", "cloud only", "gain"):
        table.add_column(heading, justify="left" if heading == "chosen plan" else "right")
    for number, point in enumerate(points):
        last = number % 6 == 5
        table.add_row(
            *_place(point),
            _way(point.chosen, inputs),
            f"{point.chosen.mean_ms:,.2f}",
            f"{point.edge_only.mean_ms:,.2f}" if point.edge_only else "–",
            f"{point.cloud_only.mean_ms:,.2f}",
            f"{point.gain:.2f}",
            end_section=last,
        )
    console.print(table)


def means_of(points: list[Point]) -> dict[str, float]:
    """What sums the grid up: the least margin, and the gains over cloud only."""
    from statistics import fmean, geometric_mean

    gains = [point.gain for point in points]
    return {
        "least_margin": min(point.margin for point in points),
        "mean_gain": fmean(gains),
        "geometric_mean_gain": geometric_mean(gains),
        "largest_gain": max(gains),
    }


def summary_of(points: list[Point], floor: float) -> str:
    """The same in words."""
    means = means_of(points)
    alone = sum(point.edge_only is not None for point in points)
    return (
        f"all with an accuracy of at least {floor:.2%}, which edge only has at {alone} of {len(points)} points (–: "
        "by no rule)\n"
        f"the chosen plan is at least {means['least_margin']:.3f} times as fast as the better of edge only and cloud "
        "only\n"
        f"gain: how many times as fast as cloud only; {means['mean_gain']:.2f} on average (geometric mean "
        f"{means['geometric_mean_gain']:.2f}, largest {means['largest_gain']:.1f})"
    )


def print_live(lives: list[Live], requests: int, inputs: PlanInputs) -> None:
    """The table of the points that were measured; under a chosen plan, cloud only."""
    table = Table(title=f"{requests} requests each by real nodes: mean latency as predicted and as measured, ms")
    for heading in (
        "edge",
        "rtt ms",
        "Mbit/s",
        "plan",
        "predicted",
        "measured",
        "off by",
        "p50",
        "p95",
        "exits",
        "gain",
    ):
        table.add_column(heading, justify="left" if heading == "plan" else "right")
    for one in lives:
        gain = "" if one.gain is None else f"{one.gain:.2f}"
        table.add_row(*_place(one.point), *_live_cells(one.chosen, inputs), gain, end_section=one.cloud_only is None)
        if one.cloud_only is not None:
            table.add_row("", "", "", *_live_cells(one.cloud_only, inputs), "", end_section=True)
    console.print(table)


def _live_cells(measured: MeasuredPlan, inputs: PlanInputs) -> list[str]:
    import numpy as np

    middle, high = np.percentile(measured.records.latency_ms, (50, 95))
    return [
        _way(measured.choice, inputs),
        f"{measured.predicted_ms:,.1f}",
        f"{measured.mean_ms:,.1f}",
        f"{100 * measured.deviation:+.1f} %",
        f"{middle:,.1f}",
        f"{high:,.1f}",
        f"{100 * measured.same_exits:.0f} %",
    ]


def _choice_figures(choice: Choice, inputs: PlanInputs) -> dict[str, Any]:
    plan = choice.plan
    return {
        "way": _way(choice, inputs),
        "cut": plan.cut,
        "codec": plan.codec,
        "edge_only": plan.edge_only,
        "thresholds": list(plan.rule.thresholds),
        "mean_ms": choice.mean_ms,
        "accuracy": choice.accuracy,
        "exit_shares": choice.shares.tolist(),
    }


def _where(point: Point) -> dict[str, float]:
    return {"slowdown": point.slowdown, "rtt_ms": point.link.rtt_ms, "uplink_mbps": point.link.uplink_mbps}


def point_figures(point: Point, inputs: PlanInputs) -> dict[str, Any]:
    """A point's JSON; `docs/reference/json.md` explains the keys."""
    return {
        **_where(point),
        "chosen": _choice_figures(point.chosen, inputs),
        "edge_only": _choice_figures(point.edge_only, inputs) if point.edge_only else None,
        "cloud_only": _choice_figures(point.cloud_only, inputs),
        "gain": point.gain,
        "margin": point.margin,
    }


def live_figures(one: Live, inputs: PlanInputs) -> dict[str, Any]:
    """The JSON of a point that was measured."""

    def of(measured: MeasuredPlan) -> dict[str, Any]:
        return {
            "way": _way(measured.choice, inputs),
            "predicted_ms": measured.predicted_ms,
            "mean_ms": measured.mean_ms,
            "deviation": measured.deviation,
            "same_exits": measured.same_exits,
            "latency_ms": measured.records.latency_ms.round(3).tolist(),
        }

    return {
        **_where(one.point),
        "chosen": of(one.chosen),
        "cloud_only": of(one.cloud_only) if one.cloud_only else None,
        "gain": one.gain,
    }
