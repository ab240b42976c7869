"""`branchynet study drift`: what worse images do to the exits, how soon one notices, and what re-tuning saves."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cli.options import DataOption, JsonOption, console, printing_after, progress_bar, write_json

if TYPE_CHECKING:
    from branchynet.artifact.artifact import Artifact
    from branchynet.data.datasets import Dataset
    from branchynet.exits.drift import Reference
    from branchynet.exits.outcomes import OutcomeTable

__all__ = ["drift"]


def drift(
    artifact: Annotated[str, typer.Argument(metavar="NAME", help="A shipped artifact, or folder of a trained one.")] = (
        "lenet-fashion"
    ),
    data: DataOption = None,
    sample: Annotated[bool, typer.Option("--sample", help="Use the 1,000 shipped Fashion-MNIST images.")] = False,
    images: Annotated[
        int | None, typer.Option(help="Test images used, drawn at random; all if not given.", min=1)
    ] = None,
    orders: Annotated[int, typer.Option(help="Random orders in which corrupted images are watched.", min=1)] = 20,
    clean_orders: Annotated[int, typer.Option(help="The same for clean images: false alarms.", min=1)] = 100,
    false_alarm: Annotated[
        float, typer.Option(help="Chance (0..1) of ever raising an alarm while nothing changes.")
    ] = 0.01,
    plot: Annotated[Path | None, typer.Option(help="Draw into this file (.png, .svg, .pdf).", dir_okay=False)] = None,
    json_file: JsonOption = None,
) -> None:
    """Corrupt the test images in four ways and five severities and watch the exits, without labels.

    The rule is the artifact's. The monitor compares the scores at each exit with those of the calibration split. The
    re-tuner moves all thresholds to keep the mean MACs of calibration; it starts from the calibrated rule, and its
    column counts every image, those on the way included.
    """
    import numpy as np

    from branchynet.artifact.artifact import Artifact
    from branchynet.errors import InvalidInput
    from branchynet.evaluation.evaluation import measure_outcomes

    opened = Artifact.open(artifact)
    manifest, network = opened.manifest, opened.runner(engine=opened.reference_engine)
    if manifest.rule.remembers:
        raise InvalidInput(f"{manifest.name} leaves by {manifest.rule.criterion}, which has no score to watch")
    dataset = _images(opened, data, sample=sample)
    if images is not None:
        dataset = dataset.take(np.random.default_rng(0).permutation(len(dataset))[:images])
    reference, budget = _reference(opened, data)
    figures: dict[str, Any] = {
        "artifact": manifest.name,
        "dataset": dataset.name,
        "images": len(dataset),
        "thresholds": list(manifest.rule.thresholds),
        "false_alarm": false_alarm,
        "orders": orders,
        "clean_orders": clean_orders,
        "budget_macs": budget,
    }
    figures["rows"] = _rows(
        dataset, lambda worse: measure_outcomes(network, manifest.cost, worse), reference, budget, figures
    )
    with printing_after(lambda: _print(figures)):
        write_json(json_file, figures)
        if plot is not None:
            from cli.plots.drift import draw

            draw(figures, plot)
    if plot is not None:
        console.print(f"written: {plot}")


def _images(artifact: Artifact, data: Path | None, *, sample: bool) -> Dataset:
    """Test images; pictures without labels will do, then accuracy is agreement with the final exit on clean ones."""
    from branchynet.data.datasets import load_sample
    from branchynet.evaluation.unlabelled import answered

    if sample:
        return load_sample()
    own = artifact.images.unlabelled(data)
    if own is None:
        return artifact.images.test(data)
    dataset = answered(artifact, own)
    console.print(dataset.source, soft_wrap=True)
    return dataset


def _rows(
    dataset: Dataset,
    measure: Callable[[Dataset], OutcomeTable],
    reference: Reference,
    budget: float,
    asked: dict[str, Any],
) -> list[dict[str, Any]]:
    """The figures of the clean images, then of each corruption at each severity."""
    from branchynet.data.corruptions import SEVERITIES, Corruption, corrupt
    from branchynet.evaluation.drift_study import study

    rows = []
    with progress_bar() as bar:
        task = bar.add_task("images", total=1 + len(Corruption) * len(SEVERITIES), note="clean")
        found = study(measure(dataset), reference, budget, asked["clean_orders"], asked["false_alarm"])
        rows.append({"corruption": "clean", "severity": 0, **found.to_json()})
        for kind, severity in itertools.product(Corruption, SEVERITIES):
            bar.update(task, advance=1, note=f"{kind.value} {severity}")
            worse = replace(dataset, images=corrupt(dataset.images, kind, severity))
            found = study(measure(worse), reference, budget, asked["orders"], asked["false_alarm"])
            rows.append({"corruption": kind.value, "severity": severity, **found.to_json()})
    return rows


def _reference(artifact: Artifact, data: Path | None) -> tuple[Reference, float]:
    """The scores of the calibration split, and its mean MACs: as recorded, else measured now on the held-out images."""
    from branchynet.evaluation.calibrate import calibration_table
    from branchynet.exits.drift import Reference

    recorded, rule = artifact.drift_reference, artifact.manifest.rule
    if recorded is not None:
        return recorded, float(artifact.manifest.results["calibration"]["macs"])
    table = calibration_table(artifact, data)
    return Reference.of(table, rule), table.apply(rule).cost


def _print(figures: dict[str, Any]) -> None:
    table = Table(title=f"{figures['artifact']} on {figures['images']:,} images of {figures['dataset']}, made worse")
    for column in ("images", "accuracy %", "exits %", "M MACs", "alarm after", "exit", "orders", "re-tuned: exits %",
                   "M MACs", "accuracy %"):  # fmt: skip
        table.add_column(
            column, justify="left" if column == "images" else "right", no_wrap="exits" in column or column == "images"
        )
    for row in figures["rows"]:
        clean = row["corruption"] == "clean"
        orders = figures["clean_orders"] if clean else figures["orders"]
        table.add_row(
            "clean" if clean else f"{row['corruption']} {row['severity']}",
            f"{100 * row['accuracy']:.2f}",
            _shares(row["exit_shares"]),
            f"{row['macs'] / 1e6:.3f}",
            "never" if row["alarm_after"] is None else f"{row['alarm_after']:,.0f}",
            "" if row["alarm_exit"] is None else str(row["alarm_exit"]),
            f"{round(row['alarms'] * orders)} of {orders}",
            _shares(row["retuned_shares"]),
            f"{row['retuned_macs'] / 1e6:.3f}",
            f"{100 * row['retuned_accuracy']:.2f}",
            end_section=clean or row["severity"] == 5,
        )
    console.print(table)
    console.print(
        f"alarm after: images, median over the random orders that raised one, and the exit; a false one comes with a "
        f"chance of at most {100 * figures['false_alarm']:g} %. Re-tuned to calibration's "
        f"{figures['budget_macs'] / 1e6:.3f} M MACs."
    )


def _shares(shares: list[float]) -> str:
    return " / ".join(f"{100 * share:.1f}" for share in shares)
