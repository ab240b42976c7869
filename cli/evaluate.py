"""`branchynet evaluate`: the paper's Table I for an artifact, with everything counted."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from cli.output import ArtifactOption, DataOption, JsonOption, console, progress_bar, write_json

__all__ = ["evaluate"]


def evaluate(
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    sample: Annotated[bool, typer.Option("--sample", help="Use the 1,000 shipped Fashion-MNIST images.")] = False,
    timing_images: Annotated[int, typer.Option(help="Images timed, drawn at random.", min=1)] = 300,
    passes: Annotated[int, typer.Option(help="Timed passes over them; the median counts.", min=1)] = 5,
    json_file: JsonOption = None,
) -> None:
    """Accuracy, exit shares, ms per image at batch 1 and MACs, against the plain trunk trained with the same recipe.

    Both gains are shown: with branch heads and exit rule counted (what you pay), and without (what the released
    code of 2016 timed). Uses the test split of the artifact's data set.
    """
    from branchynet import artifact as artifacts
    from branchynet.models import cost as cost_of
    from branchynet.models import zoo
    from branchynet.training import datasets
    from branchynet.training.evaluation import evaluate as compare
    from branchynet.training.evaluation import measure_outcomes, measure_timings, trunk_accuracy

    folder = zoo.find(artifact)
    manifest, network = artifacts.load(folder)
    baseline = artifacts.load_baseline(folder, manifest)
    dataset = datasets.load_sample() if sample else datasets.load(manifest.dataset, "test", data, progress=True)
    cost = cost_of(manifest.architecture)
    chosen = np.random.default_rng(0).permutation(len(dataset))[:timing_images]
    with progress_bar() as bar:
        scoring = bar.add_task("scoring", total=len(dataset), note="")
        table = measure_outcomes(network, cost, dataset, lambda done: bar.update(scoring, completed=done))
        timing = bar.add_task("timing", total=passes * len(chosen), note="one thread, batch 1")
        timings = measure_timings(
            network,
            baseline,
            manifest.rule,
            dataset.images[chosen],
            passes,
            lambda done: bar.update(timing, completed=done),
        )
    figures = {
        "artifact": manifest.name,
        "dataset": dataset.name,
        "images": len(dataset),
        "engine": "torch-eager",
        "timing_images": len(chosen),
        "passes": passes,
        **compare(table, cost, manifest.rule, trunk_accuracy(baseline, dataset), timings),
    }
    _print(figures, dataset.source)
    write_json(json_file, figures)


def _print(figures: dict[str, Any], source: str) -> None:
    trunk, early = figures["trunk"], figures["early_exit"]
    table = Table(title=f"{figures['artifact']} on {figures['images']:,} images of {figures['dataset']}")
    for column in ("network", "accuracy %", "95 % interval", "exits %", "ms", "gain", "M MACs", "gain"):
        table.add_column(column, justify="left" if column == "network" else "right")
    low, high = early["interval"]
    table.add_row("plain trunk", f"{100 * trunk['accuracy']:.2f}", "", "", f"{trunk['ms']:.3f}", "1.00x",
                  f"{trunk['macs'] / 1e6:.3f}", "1.00x")  # fmt: skip
    table.add_row(
        "early exit, all counted",
        f"{100 * early['accuracy']:.2f}",
        f"{100 * low:.2f} – {100 * high:.2f}",
        " / ".join(f"{100 * share:.1f}" for share in early["exit_shares"]),
        f"{early['ms']:.3f}",
        f"{early['gain_ms']:.2f}x",
        f"{early['macs'] / 1e6:.3f}",
        f"{early['gain_macs']:.2f}x",
    )
    table.add_row("… heads and rule not counted", "", "", "", f"{early['ms_without_heads']:.3f}",
                  f"{early['gain_ms_without_heads']:.2f}x", f"{early['macs_without_heads'] / 1e6:.3f}",
                  f"{early['gain_macs_without_heads']:.2f}x")  # fmt: skip
    console.print(table)
    thresholds = ", ".join(f"{threshold:.4g}" for threshold in early["thresholds"])
    exits = ", ".join(f"{100 * accuracy:.2f} %" for accuracy in early["exit_accuracies"])
    spread = "; ".join(
        f"{name.removesuffix('_ms').replace('_', ' ')} {low:.3f} – {high:.3f}"
        for name, (low, _, high) in figures["spread"].items()
    )
    console.print(f"rule: {early['criterion']}, thresholds {thresholds}; every exit on its own: {exits}")
    console.print(
        f"ms: median of {figures['passes']} passes over {figures['timing_images']} images, batch 1, one thread, "
        f"{figures['engine']}; lowest – highest pass: {spread}"
    )
    console.print(f"data: {source}")
