"""`branchynet calibrate --tolerated-loss`: the options, and what is printed of a guarantee."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from branchynet.exits.risk_control import Loss
from cli.options import console

if TYPE_CHECKING:
    from branchynet.exits.risk_control import RiskControlled

__all__ = [
    "ConfidenceOption",
    "LossOption",
    "ToleratedLossOption",
    "guarantee_figures",
    "print_difference",
    "print_guarantee",
]

# Percentage points that the images it was chosen on may leave open, before another way to choose is named.
MOST_LEFT_OPEN = 1.5

ToleratedLossOption = Annotated[
    float | None,
    typer.Option(help="Choose a rule whose mean loss (0..1) is below this, with --confidence; not --accuracy-drop."),
]
ConfidenceOption = Annotated[float, typer.Option(help="Probability (0..1) that the guarantee holds.")]
LossOption = Annotated[
    Loss, typer.Option("--loss", help="What is guaranteed, against the final exit; disagreement needs no labels.")
]


def print_guarantee(name: str, found: RiskControlled) -> None:
    """Say what is promised, on what evidence, and what the rule does on the images that tested it."""
    result = found.result
    table = Table(title=f"{name}: a rule with a guarantee, tested on {found.samples:,} held-out training images")
    for column in ("thresholds", "accuracy %", "exits %", "M MACs", f"{found.loss.value} %", "rules passed"):
        table.add_column(column, justify="right")
    table.add_row(
        ", ".join(f"{threshold:.4g}" for threshold in result.rule.thresholds),
        f"{100 * result.accuracy:.2f}",
        " / ".join(f"{100 * share:.1f}" for share in result.exit_shares),
        f"{result.cost / 1e6:.3f}",
        f"{100 * found.observed_loss:.2f}",
        f"{found.certified} of {found.tried}",
    )
    console.print(table)
    if not found.certified:
        console.print(
            "No rule that leaves early could be proved: everything goes to the final exit, which loses nothing."
        )
        return
    console.print(
        f"With confidence {found.confidence:g} over the draw of the calibration images, the mean {found.loss.value} on "
        f"new images like them is below {100 * found.tolerated_loss:g} % ({found.bound.value} bound; another "
        f"{found.path_samples:,} images drew the path of rules). It says nothing of images of another kind: "
        "`branchynet study drift`."
    )


def print_difference(points: Sequence[float]) -> None:
    """Say what a rule without a guarantee may lose on new images; *points* are those of `difference_points`."""
    low, difference, high = points
    console.print(
        f"to the final exit {difference:+.2f} points; on new images like these {low:+.2f} to {high:+.2f} (95 %)",
        soft_wrap=True,
    )
    if low < -MOST_LEFT_OPEN:
        console.print(
            "So few held-out images leave much open: hold out more, or let `branchynet calibrate --tolerated-loss` "
            "choose a rule that keeps a bound.",
            soft_wrap=True,
        )


def guarantee_figures(name: str, found: RiskControlled) -> dict[str, Any]:
    """The printed figures for programs."""
    result = found.result
    return {
        "artifact": name,
        "criterion": result.rule.criterion.value,
        "thresholds": list(result.rule.thresholds),
        "accuracy": result.accuracy,
        "exit_shares": list(result.exit_shares),
        "macs": result.cost,
        "guarantee": {**found.to_json(), "certified": found.certified, "tried": found.tried},
    }
