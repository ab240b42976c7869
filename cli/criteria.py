"""`branchynet calibrate --compare`: criteria on images that nothing was fitted to or chosen on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from cli.output import console, progress_bar, write_json

if TYPE_CHECKING:
    from branchynet.decisions.outcomes import OutcomeTable
    from branchynet.manifest import Manifest
    from branchynet.training.criteria import Compared, Figures

__all__ = ["compare_on"]


def compare_on(
    folder: Path,
    manifest: Manifest,
    table: OutcomeTable,
    data: Path | None,
    max_drop: float,
    halvings: int,
    plot: Path | None,
    json_file: Path | None,
) -> None:
    """Print, and write to *json_file*, how all criteria do on *table*'s halves and, where it is found, the test set.

    *folder*: of the artifact that *table* is of.
    """
    from branchynet.decisions.reliability import BINS
    from branchynet.training.criteria import CANDIDATES, compare_criteria

    test = _test_table(folder, manifest, data)
    with progress_bar() as bar:
        task = bar.add_task("fitting", total=len(CANDIDATES) * halvings, note="")
        compared = compare_criteria(table, max_drop, halvings, test, lambda done: bar.update(task, completed=done))
    console.print(_trust(compared, table.exits, manifest.name))
    console.print(_savings(compared, f"{manifest.name}: cheapest rule within {100 * max_drop:g} points"))
    on_test = "" if test is None else f" Test: {len(test.labels):,} images, everything chosen on the whole split."
    console.print(
        f"Fitted and chosen on one half of {len(table.labels):,} held-out images, judged on the other: mean ± standard "
        f"deviation over\n{halvings} random halvings, which overlap: no confidence interval.{on_test}\n"
        f"T: logits divided by a fitted temperature. ECE: {BINS} bins of equally many images (adaptive); only "
        "max-probability and gate\nsay a probability. AUROC: of telling right answers from wrong ones. Drop: accuracy "
        f"lost to the final exit, which takes\n{table.costs[-1] / 1e6:.3f} M MACs."
    )
    figures = {
        "artifact": manifest.name,
        "images": len(table.labels),
        "test_images": 0 if test is None else len(test.labels),
        "halvings": halvings,
        "max_drop": max_drop,
        "criteria": [one.to_json() for one in compared],
    }
    write_json(json_file, figures)
    if plot is not None:
        from branchynet.training.pictures import draw_reliability

        order = np.random.default_rng(0).permutation(len(table.labels))
        half = len(order) // 2
        fitted_on, seen = (table.take(order[:half]), table.take(order[half:])) if test is None else (table, test)
        kind = "held-out" if test is None else "test"
        draw_reliability(fitted_on, seen, plot, f"{manifest.name}: {len(seen.labels):,} {kind} images")
        console.print(f"drawn: {plot}")


def _test_table(folder: Path, manifest: Manifest, data: Path | None) -> OutcomeTable | None:
    """Outcomes on the test set; None, and a line that says so, if it is nowhere."""
    from branchynet import artifact as artifacts
    from branchynet.errors import Unavailable
    from branchynet.models import cost
    from branchynet.training import datasets
    from branchynet.training.evaluation import measure_outcomes

    try:
        dataset = datasets.load(manifest.dataset, "test", data, progress=True)
    except Unavailable as error:
        console.print(f"without a test set: {error}")
        return None
    _, network = artifacts.load(folder)
    return measure_outcomes(network, cost(manifest.architecture), dataset)


def _trust(compared: list[Compared], exits: int, name: str) -> Table:
    """How far each exit's scores can be trusted, exit by exit."""
    from branchynet.training.criteria import candidate_name

    shown = _table(f"{name}: is an exit's score to be trusted?", compared, ("AURC×1000", "AUROC %", "ECE %"), "exit")
    for number in range(exits):
        for one in compared:
            cells = _cells(one, (("aurc", 1e3, 2), ("auroc", 1e2, 1), ("ece", 1e2, 1)), number)
            shown.add_row(str(number), candidate_name(one.criterion, one.tempered), *cells)
        shown.add_section()
    return shown


def _savings(compared: list[Compared], title: str) -> Table:
    """What each criterion's rule costs, and what it loses."""
    from branchynet.training.criteria import candidate_name

    shown = _table(title, compared, ("drop, pts", "accuracy %", "M MACs"))
    for one in compared:
        cells = _cells(one, (("drop", 1e2, 2), ("accuracy", 1e2, 2), ("cost", 1e-6, 3)))
        shown.add_row(candidate_name(one.criterion, one.tempered), *cells)
    return shown


def _table(title: str, compared: list[Compared], headings: tuple[str, ...], *before: str) -> Table:
    shown = Table(title=title)
    for heading in (*before, "criterion"):
        shown.add_column(heading)
    tested = compared[0].test is not None
    for heading in (*headings, *(f"test: {heading}" for heading in headings if tested)):
        shown.add_column(heading, justify="right")
    return shown


def _cells(one: Compared, wanted: tuple[tuple[str, float, int], ...], number: int | None = None) -> list[str]:
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
