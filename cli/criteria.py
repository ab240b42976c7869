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

# Heading of a column, name of the figure, what it is multiplied with, and decimals.
_TRUST = (("AURC×1000", "aurc", 1e3, 2), ("AUROC %", "auroc", 1e2, 1), ("ECE %", "ece", 1e2, 1))


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
    halves = f"{halvings} random halvings of {len(table.labels):,} held-out images"
    note = f"fitted on one half, judged on the other; mean ± standard deviation over {halves}"
    console.print(_trust(compared, table.exits, f"{manifest.name}: is an exit's score to be trusted?", on_test=False))
    console.print(_savings(compared, f"{manifest.name}: cheapest rule within {100 * max_drop:g} points", on_test=False))
    console.print(f"{note}.\nThe halvings overlap: the spread is no confidence interval.")
    if test is not None:
        on = f"on {len(test.labels):,} test images, all of it chosen on the calibration split"
        console.print(_trust(compared, table.exits, f"{manifest.name}: trust, {on}", on_test=True))
        console.print(_savings(compared, f"{manifest.name}: savings, {on}", on_test=True))
    console.print(
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


def _trust(compared: list[Compared], exits: int, title: str, *, on_test: bool) -> Table:
    from branchynet.training.criteria import candidate_name

    shown = Table(title=title)
    shown.add_column("criterion")
    for number in range(exits):
        for heading, *_ in _TRUST:
            shown.add_column(f"exit {number}\n{heading}", justify="right")
    for one in compared:
        cells = [
            _cell(one, name, scale, digits, on_test, number)
            for number in range(exits)
            for _, name, scale, digits in _TRUST
        ]
        shown.add_row(candidate_name(one.criterion, one.tempered), *cells)
    return shown


def _savings(compared: list[Compared], title: str, *, on_test: bool) -> Table:
    from branchynet.training.criteria import candidate_name

    shown = Table(title=title)
    shown.add_column("criterion")
    for heading in ("drop, points", "accuracy %", "M MACs", "exits %"):
        shown.add_column(heading, justify="right")
    for one in compared:
        shares = _of(one, on_test)["exit_shares"]
        shown.add_row(
            candidate_name(one.criterion, one.tempered),
            _cell(one, "drop", 1e2, 2, on_test),
            _cell(one, "accuracy", 1e2, 2, on_test),
            _cell(one, "cost", 1e-6, 3, on_test),
            " / ".join(f"{100 * share:.1f}" for share in shares),
        )
    return shown


def _of(one: Compared, on_test: bool) -> Figures:
    assert one.test is not None or not on_test
    return one.test if on_test and one.test is not None else one.mean


def _cell(one: Compared, name: str, scale: float, digits: int, on_test: bool, number: int | None = None) -> str:
    at = () if number is None else number
    value = float(_of(one, on_test)[name][at])
    if math.isnan(value):
        return "–"
    spread = "" if on_test else f" ± {scale * float(one.spread[name][at]):.{digits}f}"
    return f"{scale * value:.{digits}f}{spread}"
