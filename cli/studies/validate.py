"""`branchynet study validate`: the same requests through real nodes and through the simulator."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli.measuring import MeasuredProfileOption, labelled_images, measure
from cli.options import ArtifactOption, DataOption, JsonOption, console, progress_bar, write_json

if TYPE_CHECKING:
    from branchynet.data.datasets import Dataset
    from orchestrator.runs.simulator_check import Comparison
    from simulations.model.simulator import Measured

__all__ = ["validate"]


def validate(
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    profile: MeasuredProfileOption = None,
    requests: Annotated[int, typer.Option(help="Requests at each edge.", min=1)] = 120,
    out: Annotated[Path, typer.Option(help="Folder for everything written.", file_okay=False)] = Path("out/validate"),
    json_file: JsonOption = None,
) -> None:
    """Send the same requests through real nodes and through the simulator, in three scenarios; takes two minutes.

    Ends with code 1 if a mean latency is more than 10 % off, or an exit or a byte differs.
    """
    from simulations.model.scenario import Scenario

    dataset = labelled_images(artifact, data)
    _validate(artifact, measure(Scenario(artifact=artifact), dataset, profile, out), dataset, requests, out, json_file)


def _validate(
    artifact: str, measured: Measured, dataset: Dataset, requests: int, out: Path, json_file: Path | None
) -> None:
    from orchestrator.runs.simulator_check import compare, scenarios_to_compare

    scenarios = scenarios_to_compare(artifact, measured, requests)
    comparisons = []
    with progress_bar() as bar:
        tasks = [
            bar.add_task(scenario.name, total=scenario.edges * scenario.workload.requests, note="")
            for scenario in scenarios
        ]
        for scenario, task in zip(scenarios, tasks, strict=True):
            answered = lambda task=task: bar.advance(task)  # noqa: E731
            comparisons.append(asyncio.run(compare(scenario, measured, dataset, out / "logs", answered)))
    agree = all(comparison.agrees for comparison in comparisons)
    figures = {"agree": agree, "comparisons": [comparison.figures() for comparison in comparisons]}
    for path in (out / "validate.json", json_file):
        write_json(path, figures)
    _print(comparisons)
    console.print(f"figures: {out / 'validate.json'}   the nodes' logs: {out / 'logs'}", soft_wrap=True)
    if not agree:
        console.print("the simulator and the real nodes do not agree; a machine that is busy with other work is slower")
        raise typer.Exit(1)


def _print(comparisons: list[Comparison]) -> None:
    table = Table(title="the same requests, through real nodes and simulated")
    table.add_column("scenario")
    for column in ("requests", "mean ms live", "simulated", "off by", "p95 ms live", "simulated", "exits", "bytes up"):
        table.add_column(column, justify="right")
    for comparison in comparisons:
        live, simulated = comparison.mean_ms
        figures = comparison.figures()
        p95 = [figures[side]["latency_ms"]["p95"] for side in ("live", "simulated")]
        table.add_row(
            comparison.scenario.name,
            f"{len(comparison.live):,}",
            f"{live:.1f}",
            f"{simulated:.1f}",
            f"{100 * comparison.deviation:+.1f} %",
            *("–" if value is None else f"{value:.1f}" for value in p95),
            "equal" if comparison.same_exits else "differ",
            "equal" if comparison.same_bytes else "differ",
        )
    console.print(table)
