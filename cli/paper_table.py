"""`branchynet evaluate --table paper`: Table I of the paper beside our networks of the same layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from cli.evaluating import EngineChoice, Measuring
from cli.evaluation_tables import interval, measured_how, percents
from cli.output import console, progress_bar

if TYPE_CHECKING:
    from branchynet.manifest import Manifest
    from branchynet.training.paper import PaperResult

__all__ = ["paper_table"]

COLUMNS = ("network", "acc. %", "T", "exits %", "ms", "gain", "no heads", "MACs", "no heads")


def paper_table(measuring: Measuring) -> dict[str, Any]:
    """Print Table I beside what the three networks do here, each against its plain trunk; the figures.

    A row of ours stays empty where artifact or data are missing, and says so; `Unavailable` without any data.
    """
    from branchynet.errors import Unavailable
    from branchynet.training.machine import describe_machine
    from branchynet.training.paper import TABLE_I

    rows: list[dict[str, Any]] = []
    without_data: list[Unavailable] = []
    for paper in TABLE_I:
        row: dict[str, Any] = {
            "artifact": paper.artifact,
            "paper": _paper_figures(paper),
            "ours": None,
            "missing": None,
        }
        if not _is_here(paper.artifact):
            row["missing"] = f"there is no such artifact; this makes it: branchynet train --recipe {paper.artifact}"
        else:
            try:
                row["ours"] = _measure(paper, measuring)
            except Unavailable as error:
                without_data.append(error)
                row["missing"] = str(error)
        rows.append(row)
    if without_data and all(row["ours"] is None for row in rows):
        raise without_data[0]
    figures = {
        "table": "paper",
        "engine": (measuring.engine or EngineChoice.EAGER).value,
        "machine": describe_machine(),
        "timing_images": measuring.timing_images,
        "passes": measuring.passes,
        "rows": rows,
    }
    _print(figures)
    for row in rows:
        if row["missing"]:
            console.print(f"{row['artifact']}: {row['missing']}")
    return figures


def _is_here(name: str) -> bool:
    from branchynet.errors import UnknownModel
    from branchynet.models import zoo

    try:
        zoo.find(name)
    except UnknownModel:
        return False
    return True


def _measure(paper: PaperResult, measuring: Measuring) -> dict[str, Any]:
    """Our network under the paper's thresholds and under its own, calibrated rule, timed in the same run."""
    from branchynet.manifest import read_manifest
    from branchynet.models import zoo
    from branchynet.training.evaluation import early_exit_figures, trunk_figures

    manifest = read_manifest(zoo.find(paper.artifact))
    dataset = measuring.test_images(manifest)
    rules = {"paper_rule": paper.rule, "calibrated": manifest.rule}
    with progress_bar() as bar:
        evaluated = measuring.score(paper.artifact, dataset, bar)
        timings = measuring.time(evaluated, rules, [], dataset, bar)
    return {
        "images": len(dataset),
        "training": _training(paper, manifest),
        "trunk": trunk_figures(evaluated, timings),
        **{name: early_exit_figures(evaluated, rule, timings, name) for name, rule in rules.items()},
        "medians_ms": timings.medians(),
    }


def _training(paper: PaperResult, manifest: Manifest) -> dict[str, Any]:
    """Epochs of trunk and joint phase, ours by the manifest and the release's by its scripts."""
    return {
        "command": manifest.training.get("command"),
        "epochs": [manifest.recipe.get("trunk_epochs"), manifest.recipe.get("joint_epochs")],
        "epochs_of_the_release": list(paper.epochs),
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
