"""`branchynet study paper`: Table I of the paper beside our networks of the same layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cli.measuring import EngineChoice, Measuring
from cli.options import DataOption, JsonOption, console, progress_bar, write_json
from cli.tables.evaluation import interval, measured_how, percents

if TYPE_CHECKING:
    from branchynet.artifact.manifest import Manifest
    from branchynet.evaluation.paper import PaperResult

__all__ = ["paper"]

COLUMNS = ("network", "acc. %", "T", "exits %", "ms", "gain", "no heads", "MACs", "no heads")


def paper(
    data: DataOption = None,
    engine: Annotated[
        EngineChoice | None, typer.Option(help="What runs the layers; best: the quicker one for each network.")
    ] = None,
    timing_images: Annotated[int, typer.Option(help="Images timed, drawn at random.", min=1)] = 300,
    passes: Annotated[int, typer.Option(help="Timed passes over them; each image's median counts.", min=1)] = 5,
    json_file: JsonOption = None,
) -> None:
    """Table I of the paper (Teerapittayanon et al. 2016) beside what our networks of the same layers do here.

    Each network runs under the paper's thresholds and under its own, calibrated ones, against its plain trunk.
    """
    figures = _figures(Measuring(engine, timing_images, passes, data))
    write_json(json_file, figures)
    _print(figures)
    for row in figures["rows"]:
        if row["missing"]:
            console.print(f"{row['artifact']}: {row['missing']}")


def _figures(measuring: Measuring) -> dict[str, Any]:
    """Table I beside what the three networks do here, each against its plain trunk.

    A row of ours stays empty where artifact or data are missing, and says so; `Unavailable` without any data.
    """
    from branchynet.errors import Unavailable
    from branchynet.evaluation.machine import describe_machine
    from branchynet.evaluation.paper import TABLE_I

    rows: list[dict[str, Any]] = []
    without_data: list[Unavailable] = []
    for result in TABLE_I:
        row: dict[str, Any] = {
            "artifact": result.artifact,
            "paper": _paper_figures(result),
            "ours": None,
            "missing": None,
        }
        if not _is_here(result.artifact):
            row["missing"] = f"there is no such artifact; this makes it: branchynet train --recipe {result.artifact}"
        else:
            try:
                row["ours"] = _measure(result, measuring)
            except Unavailable as error:
                without_data.append(error)
                row["missing"] = str(error)
        rows.append(row)
    if without_data and all(row["ours"] is None for row in rows):
        raise without_data[0]
    return {
        "table": "paper",
        "engine": (measuring.engine or EngineChoice.EAGER).value,
        "machine": describe_machine(),
        "timing_images": measuring.timing_images,
        "passes": measuring.passes,
        "rows": rows,
    }


def _is_here(name: str) -> bool:
    from branchynet.artifact import zoo
    from branchynet.errors import UnknownModel

    try:
        zoo.find(name)
    except UnknownModel:
        return False
    return True


def _measure(result: PaperResult, measuring: Measuring) -> dict[str, Any]:
    """Our network under the paper's thresholds and under its own, calibrated rule, timed in the same run."""
    from branchynet.artifact.artifact import Artifact
    from branchynet.evaluation.evaluation import early_exit_figures, trunk_figures

    artifact = Artifact.open(result.artifact)
    manifest, dataset = artifact.manifest, measuring.test_images(artifact)
    rules = {"paper_rule": result.rule, "calibrated": manifest.rule}
    with progress_bar() as bar:
        evaluated = measuring.score(artifact, dataset, bar)
        timings = measuring.time(evaluated, rules, [], dataset, bar)
    return {
        "images": len(dataset),
        "training": _training(result, manifest),
        "trunk": trunk_figures(evaluated, timings),
        **{name: early_exit_figures(evaluated, rule, timings, name) for name, rule in rules.items()},
        "medians_ms": timings.medians(),
    }


def _training(result: PaperResult, manifest: Manifest) -> dict[str, Any]:
    """Epochs of trunk and joint phase, ours by the manifest and the release's by its scripts."""
    return {
        "command": manifest.training.get("command"),
        "epochs": [manifest.recipe.get("trunk_epochs"), manifest.recipe.get("joint_epochs")],
        "epochs_of_the_release": list(result.epochs),
    }


def _paper_figures(paper: PaperResult) -> dict[str, Any]:
    """The paper's numbers, and MACs counted by us on its layers at its exit shares."""
    with_heads, without = paper.macs(heads=True), paper.macs(heads=False)
    return {
        "trunk": {"accuracy": paper.trunk_accuracy, "ms": paper.trunk_ms, "macs": paper.trunk_macs},
        "early_exit": {
            "accuracy": paper.accuracy,
            "thresholds": list(paper.thresholds),
            "exit_shares": list(paper.exit_shares),
            "ms": paper.ms,
            "gain_ms_without_heads": paper.gain,
            "macs": with_heads,
            "macs_without_heads": without,
            "gain_macs": paper.trunk_macs / with_heads,
            "gain_macs_without_heads": paper.trunk_macs / without,
        },
    }


def _print(figures: dict[str, Any]) -> None:
    table = Table(title="Table I of the paper, and what the same layers do here")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "network" else "right", no_wrap=True)
    for row in figures["rows"]:
        paper, ours = row["paper"], row["ours"]
        table.add_section()
        table.add_row(row["artifact"], style="bold")
        table.add_row("paper: trunk", *_trunk_cells(paper["trunk"]))
        table.add_row("paper: early exit", *_early_cells(paper["early_exit"]))
        if ours is None:
            table.add_row("ours: missing")
            continue
        table.add_row("ours: trunk", *_trunk_cells(ours["trunk"]))
        table.add_row("ours, paper's T", *_early_cells(ours["paper_rule"]))
        table.add_row("ours, calibrated", *_early_cells(ours["calibrated"]))
    console.print(table)
    for row in figures["rows"]:
        if row["ours"] is not None:
            _print_notes(row["artifact"], row["ours"])
    console.print("gain: the plain trunk's ms over this one's, heads and rule counted and not; MACs: the same for MACs")
    console.print(
        "paper: CPU rows, thresholds chosen on the test set; its gain in ms stands under 'no heads' because the "
        "released code timed trunk segments only; its MACs are counted by us, on its layers at its exit shares"
    )
    console.print(f"ours: T calibrated on held-out training images; {measured_how(figures)}")


def _print_notes(name: str, ours: dict[str, Any]) -> None:
    epochs, released = ours["training"]["epochs"], ours["training"]["epochs_of_the_release"]
    trained = f"{epochs[0]} + {epochs[1]} epochs"
    if epochs != released:
        trained += f" where the release has {released[0]} + {released[1]}"
    against = ours["calibrated"]["against_trunk"]
    low, high = against["interval"]
    console.print(
        f"{name}: trained for {trained}; accuracy with calibrated T {interval(ours['calibrated']['interval'])} (95 %), "
        f"against its plain trunk {100 * against['difference']:+.2f} points ({100 * low:+.2f} – {100 * high:+.2f}, "
        f"McNemar p = {against['p_value']:.2g})"
    )


def _trunk_cells(trunk: dict[str, Any]) -> list[str]:
    return [f"{100 * trunk['accuracy']:.2f}", "", "", f"{trunk['ms']:.3g}", "1x", "1x", "1x", "1x"]


def _early_cells(early: dict[str, Any]) -> list[str]:
    gain = early.get("gain_ms")
    return [
        f"{100 * early['accuracy']:.2f}",
        ", ".join(f"{threshold:.3g}" for threshold in early["thresholds"]),
        percents(early["exit_shares"]).replace(" ", ""),
        f"{early['ms']:.3g}",
        "" if gain is None else f"{gain:.2f}x",
        f"{early['gain_ms_without_heads']:.{1 if gain is None else 2}f}x",
        f"{early['gain_macs']:.2f}x",
        f"{early['gain_macs_without_heads']:.2f}x",
    ]
