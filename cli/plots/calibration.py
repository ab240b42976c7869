"""Calibration as PNG: the frontier of accuracy against cost, and how far an exit's score can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from branchynet.evaluation.criteria import CANDIDATES, candidate_name, confidence
from branchynet.evaluation.fit import fit_rule
from branchynet.exits.calibration_metrics import aurc, expected_calibration_error, reliability_bins, risk_coverage
from branchynet.exits.outcomes import OutcomeTable, RuleResult
from branchynet.exits.rules import Criterion
from branchynet.files import write_figure

__all__ = ["draw_frontier", "draw_reliability"]

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = dict(zip(Criterion, ("#0072b2", "#d55e00", "#009e73", "#999999", "#cc79a7"), strict=True))


def draw_frontier(front: Sequence[RuleResult], chosen: RuleResult, unit: str, path: Path, title: str) -> None:
    """Write accuracy over mean cost, in *unit*, of the rules in *front* with *chosen* marked."""
    figure = _figure(7.5, 4.8)
    axes = figure.subplots()
    axes.step([rule.cost for rule in front], [100 * rule.accuracy for rule in front], where="post", color="#0072b2")
    axes.plot(chosen.cost, 100 * chosen.accuracy, "o", color="#d55e00", label=f"chosen: {100 * chosen.accuracy:.2f} %")
    axes.set(xlabel=f"mean cost per image, {unit}", ylabel="accuracy, %", title=title)
    axes.legend(loc="lower right", frameon=False)
    _save(figure, [axes], path)


def draw_reliability(fitted_on: OutcomeTable, table: OutcomeTable, path: Path, title: str) -> None:
    """Write, for each exit, its reliability diagram and its risk-coverage curves on *table*.

    Temperatures and gates are fitted on *fitted_on*, which *table* must not share a sample with.
    """
    figure = _figure(4.2 * table.exits, 8.2)
    figure.suptitle(title)
    panels = figure.subplots(2, table.exits, squeeze=False)
    for criterion, tempered in CANDIDATES:
        scores = confidence(fit_rule(fitted_on, criterion, tempered=tempered), table)
        for number, score in enumerate(scores):
            if criterion is Criterion.GATE and number == table.exits - 1:
                continue
            look = {"color": _COLOURS[criterion], "ls": "--" if tempered else "-", "lw": 1.4}
            name, correct = candidate_name(criterion, tempered), table.correct[number]
            coverage, risk = risk_coverage(score, correct)
            area = f"{name} ({1e3 * aurc(score, correct):.1f})"
            panels[1, number].plot(100 * coverage, 100 * risk, label=area, **look)
            if criterion in (Criterion.MAX_PROBABILITY, Criterion.GATE):
                bins = reliability_bins(score, correct, adaptive=True)
                gap = f"{name} ({100 * expected_calibration_error(score, correct, adaptive=True):.1f} %)"
                panels[0, number].plot(bins.confidence, bins.accuracy, marker="o", ms=3.5, label=gap, **look)
    for number, (reliability, risks) in enumerate(panels.T):
        reliability.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, zorder=0)
        reliability.set(title=f"exit {number}", xlabel="predicted probability of being right", ylabel="share right")
        risks.set(xlabel="coverage, % (the surest first)", ylabel="errors among them, %", ylim=(0, None))
        reliability.legend(title="ECE, 15 bins of equal size", fontsize=7, title_fontsize=7, loc="upper left")
        risks.legend(title="AURC × 1,000", fontsize=7, title_fontsize=7, loc="upper left")
    _save(figure, np.ravel(panels).tolist(), path)


def _figure(width_in: float, height_in: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, panels: Sequence[Any], path: Path) -> None:
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    write_figure(path, figure, dpi=120)
