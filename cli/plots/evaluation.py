"""The paper's Figures 3 and 4 for an artifact: accuracy against runtime and MACs while T moves, and scores sorted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.evaluation.evaluation import Evaluated
from branchynet.evaluation.paper import TABLE_I, PaperResult
from branchynet.exits.outcomes import RuleResult
from branchynet.exits.rules import ExitRule
from branchynet.exits.threshold_search import pareto_front, screen
from branchynet.files import write_figure

__all__ = ["draw_evaluation", "knee"]

# Okabe and Ito's colours, which readers with any colour vision tell apart.
_EXITS = ("#0072b2", "#e69f00", "#2fb58d", "#cc79a7")
_SWEEP, _CHOSEN, _PAPER = "#0072b2", "#d55e00", "#777777"
_MARKS = {"static": "^", "cascade": "D"}
RULES = 4_000


def draw_evaluation(evaluated: Evaluated, figures: dict[str, Any], path: Path) -> None:
    """Write three panels as PNG or SVG, by the suffix of *path*; *figures* need `exit_ms`, the time of each exit."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    runtime, macs, scores = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
    figure.suptitle(f"{figures['artifact']} on {figures['images']:,} test images of {figures['dataset']}")
    rule = evaluated.artifact.manifest.rule
    per_exit = int(RULES ** (1 / max(evaluated.table.exits - 1, 1)))
    swept = screen(evaluated.table, rule.criterion, min(per_exit, 200))
    ours = next((row for row in TABLE_I if row.artifact == evaluated.artifact.manifest.name), None)
    exit_ms, exit_mmacs = np.array(figures["early_exit"]["exit_ms"]), evaluated.table.costs / 1e6
    _draw_sweep(runtime, swept, exit_ms, figures, "ms", ours)
    _draw_sweep(macs, swept, exit_mmacs, figures, "macs", ours)
    measured = (figures["trunk"], figures["early_exit"], *figures["baselines"].values())
    engines = " or ".join(sorted({one["engine"] for one in measured}))
    runtime.set(xlabel=f"ms per image, batch 1, one thread ({engines})", ylabel="accuracy, %", title="against runtime")
    macs.set(xlabel="M MACs per image, heads counted", ylabel="accuracy, %", title="against work")
    runtime.legend(fontsize=8, loc="lower right")
    _draw_scores(scores, evaluated, rule)
    with rc_context({"svg.hashsalt": "branchynet"}):  # the same figures make the same file
        write_figure(path, figure, dpi=130)


def knee(scores: NDArray[np.float64]) -> int:
    """Position of the knee in *scores*, ascending [N]: the point farthest below the line between the curve's ends.

    After Satopää et al. 2011 ("Kneedle"); the paper (section V-B) picks it by eye.
    """
    low, high = scores[0], scores[-1]
    height = (scores - low) / (high - low) if high > low else np.zeros_like(scores)
    return int(np.argmax(np.linspace(0, 1, len(scores)) - height))


def _draw_sweep(
    axes: Any,
    swept: list[RuleResult],
    exit_costs: NDArray[np.float64],
    figures: dict[str, Any],
    key: str,
    paper: PaperResult | None,
) -> None:
    """Accuracy over the mean of *exit_costs*; *key* says which figure of trunk and baselines goes with them."""
    scale = 1e-6 if key == "macs" else 1.0
    costs = [float(np.array(result.exit_shares) @ exit_costs) for result in swept]
    priced = [RuleResult(result.rule, result.accuracy, result.exit_shares, cost)
              for result, cost in zip(swept, costs, strict=True)]  # fmt: skip
    one_threshold = len(exit_costs) == 2
    line = sorted(priced, key=lambda result: result.cost) if one_threshold else pareto_front(priced)
    axes.plot([result.cost for result in line], [100 * result.accuracy for result in line], c=_SWEEP, lw=2,
              label="early exit, every T" if one_threshold else "early exit, best T on these images")  # fmt: skip
    if not one_threshold:
        axes.scatter(costs, [100 * result.accuracy for result in swept], s=4, c=_SWEEP, alpha=0.15, lw=0,
                     label="early exit, every T")  # fmt: skip
    trunk, early = figures["trunk"], figures["early_exit"]
    mark = {"s": 70, "zorder": 4}
    axes.scatter(scale * trunk[key], 100 * trunk["accuracy"], c="black", marker="s",
                 label="own final exit" if trunk["own_final_exit"] else "plain trunk", **mark)  # fmt: skip
    # From the same times as the line: the images that were timed leave in slightly other shares than all of them.
    axes.scatter(float(np.array(early["exit_shares"]) @ exit_costs), 100 * early["accuracy"], c=_CHOSEN, marker="*",
                 label="calibrated T", **(mark | {"s": 170}))  # fmt: skip
    for kind, measured in figures["baselines"].items():
        axes.scatter(scale * measured[key], 100 * measured["accuracy"], c="black", marker=_MARKS[kind],
                     label=f"{kind}: {measured['artifact']}", **mark)  # fmt: skip
    if paper is not None:
        _draw_paper(axes, paper, key)
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_paper(axes: Any, paper: PaperResult, key: str) -> None:
    if key == "ms":
        points = ((paper.trunk_ms, paper.trunk_accuracy, "s"), (paper.ms, paper.accuracy, "*"))
        axes.set_xscale("log")
    else:
        points = (
            (paper.trunk_macs / 1e6, paper.trunk_accuracy, "s"),
            (paper.macs(heads=True) / 1e6, paper.accuracy, "*"),
        )
    for (x, accuracy, marker), name in zip(points, ("trunk", "early exit"), strict=True):
        axes.scatter(x, 100 * accuracy, s=110, marker=marker, facecolors="none", edgecolors=_PAPER, zorder=3,
                     label=f"paper: {name}" + (" (CPU of 2016)" if key == "ms" else ""))  # fmt: skip


def _draw_scores(axes: Any, evaluated: Evaluated, rule: ExitRule) -> None:
    """At each branch: the scores of the samples that come there, most confident first, with knee and threshold."""
    table, criterion = evaluated.table, rule.criterion
    taken = table.exit_of(rule)
    scores = table.scores(criterion)
    sign = 1.0 if criterion.always > criterion.never else -1.0
    for number, threshold in enumerate(rule.thresholds):
        arriving = np.sort(sign * scores[number][taken >= number])
        if not len(arriving):
            continue
        share = 100 * np.arange(1, len(arriving) + 1) / len(arriving)
        colour = _EXITS[number % len(_EXITS)]
        left = 100 * float((taken == number).sum()) / len(arriving)
        axes.plot(
            share, sign * arriving, c=colour, lw=2, label=f"exit {number}: T = {threshold:.3g}, {left:.1f} % leave"
        )
        axes.plot([0, left, left], [threshold, threshold, sign * arriving[0]], c=colour, lw=1, ls="--")
        bend = knee(arriving)
        axes.scatter(share[bend], sign * arriving[bend], s=60, facecolors="none", edgecolors=colour, zorder=3)
    axes.scatter([], [], s=60, facecolors="none", edgecolors="black", label="knee")
    axes.set(xlabel="% of the images that come to the exit", ylabel=criterion.value.replace("-", " "),
             title="scores sorted", xlim=(0, 100))  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
