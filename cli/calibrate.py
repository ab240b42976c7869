"""`branchynet calibrate`: choose thresholds on held-out training images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from branchynet.decisions.exits import Criterion
from cli.output import ArtifactOption, DataOption, JsonOption, console, write_json

__all__ = ["calibrate"]


def calibrate(
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    criterion: Annotated[Criterion, typer.Option(help="How confidence is scored.")] = Criterion.ENTROPY,
    max_drop: Annotated[
        float, typer.Option(help="Accuracy (0..1) that may be lost against the final exit.", min=0.0, max=1.0)
    ] = 0.001,
    candidates: Annotated[int, typer.Option(help="Thresholds tried per exit.", min=2)] = 200,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the artifact with its new rule.", file_okay=False)
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Screen thresholds on the artifact's calibration split, which was held out from training; never on test data.

    Prints the frontier of accuracy against MACs and the cheapest rule within --max-drop. With --out the artifact is
    copied there with that rule.
    """
    from branchynet.decisions.calibration import pareto_front
    from branchynet.training.assembly import calibration_table, choose_rule, copy_with_rule

    manifest, table = calibration_table(artifact, data)
    results, chosen = choose_rule(table, criterion, max_drop, candidates)
    front = pareto_front(results)
    final_accuracy = float(table.correct[-1].mean())
    shown = Table(title=f"{manifest.name}: rules on {len(table.labels):,} held-out training images")
    for column in ("thresholds", "accuracy %", "exits %", "M MACs", ""):
        shown.add_column(column, justify="right")
    step = max(1, len(front) // 12)
    for result in sorted({*front[::step], chosen}, key=lambda result: result.cost):
        shown.add_row(
            ", ".join(f"{threshold:.4g}" for threshold in result.rule.thresholds),
            f"{100 * result.accuracy:.2f}",
            " / ".join(f"{100 * share:.1f}" for share in result.exit_shares),
            f"{result.cost / 1e6:.3f}",
            "chosen" if result == chosen else "",
        )
    console.print(shown)
    console.print(f"final exit alone: {100 * final_accuracy:.2f} %; allowed drop: {100 * max_drop:g} points")
    figures = {
        "artifact": manifest.name,
        "images": len(table.labels),
        "criterion": criterion.value,
        "thresholds": list(chosen.rule.thresholds),
        "accuracy": chosen.accuracy,
        "exit_shares": list(chosen.exit_shares),
        "macs": chosen.cost,
        "final_exit_accuracy": final_accuracy,
    }
    write_json(json_file, figures)
    if out is not None:
        copy_with_rule(artifact, out, chosen)
        console.print(f"written: {out}")
