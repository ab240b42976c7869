"""`branchynet study criteria`: exit criteria compared on images that nothing was fitted to or chosen on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.table import Table

from cli.options import DataOption, JsonOption, console, printing_after, progress_bar, write_json

if TYPE_CHECKING:
    from branchynet.artifact.artifact import Artifact
    from branchynet.evaluation.criteria import CriterionResult, Figures
    from branchynet.exits.outcomes import OutcomeTable

__all__ = ["criteria"]


def criteria(
    name: Annotated[str, typer.Argument(help="Shipped artifact, run in runs/, or folder.")] = "lenet-fashion",
    data: DataOption = None,
    accuracy_drop: Annotated[
        float,
        typer.Option(help="Percentage points that a rule may lose to the final exit.", min=0, max=100),
    ] = 0.1,
    halvings: Annotated[int, typer.Option(help="Random halvings of the calibration split.", min=2)] = 10,
    plot: Annotated[Path | None, typer.Option(help="Draw reliability diagrams (PNG).", dir_okay=False)] = None,
    json_file: JsonOption = None,
) -> None:
    """Compare all exit criteria, with and without temperature, on images that nothing was fitted to or chosen on."""
    from branchynet.artifact.artifact import Artifact
    from branchynet.evaluation.calibrate import calibration_table

    artifact = Artifact.open(name)
    _compare(artifact, calibration_table(artifact, data), data, accuracy_drop, halvings, plot, json_file)


def _compare(
    artifact: Artifact,
    table: OutcomeTable,
    data: Path | None,
    drop_points: float,
    halvings: int,
    plot: Path | None,
    json_file: Path | None,
) -> None:
    """Print, and write to *json_file*, how all criteria do on *table*'s halves and, where it is found, the test set.

    *table*: outcomes of *artifact*.
    """
    from branchynet.evaluation.criteria import CANDIDATES, compare_criteria

    test = _test_table(artifact, data)
    with progress_bar() as bar:
        task = bar.add_task("fitting", total=len(CANDIDATES) * halvings, note="")
        compared = compare_criteria(table, drop_points, halvings, test, lambda done: bar.update(task, completed=done))
    figures = {
        "artifact": artifact.manifest.name,
        "images": len(table.labels),
        "test_images": 0 if test is None else len(test.labels),
        "halvings": halvings,
        "accuracy_drop_points": drop_points,
        "criteria": [one.to_json() for one in compared],
    }
    with printing_after(lambda: _print(compared, artifact, table, test, drop_points, halvings)):
        write_json(json_file, figures)
        if plot is not None:
            from cli.plots.calibration import draw_reliability

            order = np.random.default_rng(0).permutation(len(table.labels))
            half = len(order) // 2
            fitted_on, seen = (table.take(order[:half]), table.take(order[half:])) if test is None else (table, test)
            kind = "held-out" if test is None else "test"
            draw_reliability(fitted_on, seen, plot, f"{artifact.manifest.name}: {len(seen.labels):,} {kind} images")
    if plot is not None:
        console.print(f"drawn: {plot}")


def _print(
    compared: list[CriterionResult],
    artifact: Artifact,
    table: OutcomeTable,
    test: OutcomeTable | None,
    drop_points: float,
    halvings: int,
) -> None:
    from branchynet.exits.calibration_metrics import BINS

    console.print(_trust(compared, table.exits, artifact.manifest.name))
    console.print(_savings(compared, f"{artifact.manifest.name}: cheapest rule within {drop_points:g} points"))
    on_test = "" if test is None else f" Test: {len(test.labels):,} images, everything chosen on the whole split."
    console.print(
        f"Fitted and chosen on one half of {len(table.labels):,} held-out images, judged on the other: mean ± standard "
        f"deviation over\n{halvings} random halvings, which overlap: no confidence interval.{on_test}\n"
        f"T: logits divided by a fitted temperature. ECE: {BINS} bins of equally many images (adaptive); only "
        "max-probability and gate\nsay a probability. AUROC: of telling right answers from wrong ones. Drop: accuracy "
        f"lost to the final exit, which takes\n{table.costs[-1] / 1e6:.3f} M MACs."
    )


def _test_table(artifact: Artifact, data: Path | None) -> OutcomeTable | None:
    """Outcomes on the test set; None, and a line that says so, if it is nowhere."""
    from branchynet.errors import Unavailable
    from branchynet.evaluation.evaluation import measure_outcomes

    try:
        dataset = artifact.images.test(data)
    except Unavailable as error:
        console.print(f"without a test set: {error}")
        return None
    if dataset.split == "calibration":
        console.print(f"without a test set: {dataset.source}", soft_wrap=True)
        return None
    return measure_outcomes(artifact.runner(engine=artifact.reference_engine), artifact.manifest.cost, dataset)


def _trust(compared: list[CriterionResult], exits: int, name: str) -> Table:
    """How far each exit's scores can be trusted, exit by exit."""
    from branchynet.evaluation.criteria import candidate_name

    shown = _table(f"{name}: is an exit's score to be trusted?", compared, ("AURC×1000", "AUROC %", "ECE %"), "exit")
    for number in range(exits):
        for one in compared:
            cells = _cells(one, (("aurc", 1e3, 2), ("auroc", 1e2, 1), ("ece", 1e2, 1)), number)
            shown.add_row(str(number), candidate_name(one.criterion, one.tempered), *cells)
        shown.add_section()
    return shown


def _savings(compared: list[CriterionResult], title: str) -> Table:
    """What each criterion's rule costs, and what it loses."""
    from branchynet.evaluation.criteria import candidate_name

    shown = _table(title, compared, ("drop, pts", "accuracy %", "M MACs"))
    for one in compared:
        cells = _cells(one, (("drop", 1e2, 2), ("accuracy", 1e2, 2), ("cost", 1e-6, 3)))
        shown.add_row(candidate_name(one.criterion, one.tempered), *cells)
    return shown


def _table(title: str, compared: list[CriterionResult], headings: tuple[str, ...], *before: str) -> Table:
    shown = Table(title=title)
    for heading in (*before, "criterion"):
        shown.add_column(heading)
    tested = compared[0].test is not None
    for heading in (*headings, *(f"test: {heading}" for heading in headings if tested)):
        shown.add_column(heading, justify="right")
    return shown


def _cells(one: CriterionResult, wanted: tuple[tuple[str, float, int], ...], number: int | None = None) -> list[str]:
    """Cells of the figures *wanted* (name, factor, decimals), at exit *number* if they have one for each."""

    def written(figures: Figures, name: str, factor: float, digits: int) -> str:
        value = factor * float(figures[name] if number is None else figures[name][number])
        return "–" if math.isnan(value) else f"{value:.{digits}f}"

    cells = []
    for name, factor, digits in wanted:
        mean, spread = (written(figures, name, factor, digits) for figures in (one.mean, one.spread))
        cells.append(mean if mean == "–" else f"{mean} ± {spread}")
    if one.test is not None:
        cells += [written(one.test, *figure) for figure in wanted]
    return cells
