"""`branchynet simulate`: one scenario, or a sweep over links, cuts and thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from branchynet.errors import InvalidInput
from cli.measured import ProfileOption, labelled_images, measure
from cli.output import DataOption, JsonOption, console, progress_bar, write_json
from cli.validate import validate as compare_with_nodes

if TYPE_CHECKING:
    from branchynet.training.datasets import Dataset
    from simulations.grid import Axis
    from simulations.records import Records
    from simulations.scenarios import Scenario
    from simulations.simulator import Measured
    from simulations.winners import Sweep, Winner

__all__ = ["simulate"]

# Of a scenario that is not in a file.
REQUESTS = 2_000
VALIDATION_REQUESTS = 120
# As many as fit on a line; the report shows all.
MAX_UPLINKS = 9

ValidateOption = Annotated[
    bool,
    typer.Option(
        "--validate",
        help="Send the same requests through real nodes and through the simulator, in three scenarios. Ends with code "
        "1 if a mean latency is more than 10 % off, or an exit or a byte differs. Takes about two minutes.",
    ),
]


def simulate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCENARIO.toml] [AXIS=VALUES]...", help="A scenario, and more axes after --sweep."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=VALUES",
            help="Try every combination: uplink (Mbit/s), rtt (ms), cut, threshold, edges, rate, slowdown, max_batch. "
            "VALUES: a,b,c or lo:hi:log9 or lo:hi:lin9, or * for cut and threshold.",
        ),
    ] = None,
    artifact: Annotated[
        str | None, typer.Option("--artifact", "-a", help="A shipped artifact or a folder; instead of the scenario's.")
    ] = None,
    data: DataOption = None,
    profile: ProfileOption = None,
    edges: Annotated[int | None, typer.Option(help="Edge nodes.", min=1)] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second at each edge.", min=0.001)] = None,
    requests: Annotated[int | None, typer.Option(help="Requests at each edge.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same requests.", min=0)] = None,
    max_drop: Annotated[
        float, typer.Option(help="How much accuracy (0..1) the winning plan may lose.", min=0.0, max=1.0)
    ] = 0.005,
    out: Annotated[Path, typer.Option(help="Folder for everything written.", file_okay=False)] = Path("out/simulate"),
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster for a sweep; else this machine's cores.")] = None,
    ray: Annotated[
        bool, typer.Option("--ray/--no-ray", help="Spread a sweep with Ray, or do it in this process.")
    ] = True,
    validate: ValidateOption = False,
    json_file: JsonOption = None,
) -> None:
    """Simulate edges, links and clouds from what this machine measures of the real network.

    Without --sweep: one scenario beside the three baselines, every request in OUT/requests.parquet. With it: all
    combinations, a report with the winning plans in OUT/report.html. A scenario file is explained in
    simulations/scenarios.py; without one there is 1 edge with 2,000 requests.
    """
    from simulations.extra import need
    from simulations.scenarios import with_changes

    need("pyarrow", *(["plotly"] if sweep else []), *(["ray"] if sweep and ray else []))
    if validate and (arguments or sweep):
        raise InvalidInput(
            f"--validate brings its own scenarios; {(arguments or sweep or [''])[0]!r} does not go with it"
        )
    scenario, axes = _asked(arguments or [], sweep or [])
    scenario = with_changes(scenario, artifact=artifact, edges=edges, rate_per_s=rate, requests=requests, seed=seed)
    dataset = labelled_images(scenario.artifact, data)
    measured = measure(scenario.artifact, dataset, profile, out)
    if validate:
        compare_with_nodes(scenario.artifact, measured, dataset, requests or VALIDATION_REQUESTS, out, json_file)
    elif sweep:
        _sweep(scenario, axes, measured, dataset, out, json_file, max_drop, ray, ray_address)
    else:
        _single(scenario, measured, dataset, out, json_file)


def _asked(arguments: list[str], sweep: list[str]) -> tuple[Scenario, dict[str, Axis]]:
    """The scenario and the axes; what has an equals sign is an axis."""
    from simulations.grid import parse_axes
    from simulations.scenarios import Scenario, Workload, read_scenario

    files = [argument for argument in arguments if "=" not in argument]
    more = [argument for argument in arguments if "=" in argument]
    if more and not sweep:
        raise InvalidInput(f"{more[0]!r} looks like an axis; axes follow --sweep")
    if len(files) > 1:
        raise InvalidInput(f"one scenario can be simulated, not {len(files)}: {', '.join(files)}")
    axes = parse_axes([*sweep, *more])
    if files:
        return read_scenario(Path(files[0])), axes
    return Scenario(workload=Workload(requests=REQUESTS)), axes


def _single(scenario: Scenario, measured: Measured, dataset: Dataset, out: Path, json_file: Path | None) -> None:
    from simulations.sweep import compare

    results = compare(scenario, measured)
    deadline_ms = scenario.limits.deadline_ms
    rows = [{"setup": name, **records.summary(deadline_ms)} for name, records in results.items()]
    figures = {"scenario": scenario.model_dump(mode="json"), "images": len(dataset), "rows": rows}
    _print_summaries(rows, f"{scenario.name}: {scenario.artifact} on {len(dataset):,} images")
    asked: Records = next(iter(results.values()))
    asked.write_parquet(out / "requests.parquet")
    for path in (out / "simulate.json", json_file):
        write_json(path, figures)
    console.print(f"every request: {out / 'requests.parquet'}   figures: {out / 'simulate.json'}", soft_wrap=True)


def _sweep(
    scenario: Scenario,
    axes: dict[str, Axis],
    measured: Measured,
    dataset: Dataset,
    out: Path,
    json_file: Path | None,
    max_drop: float,
    ray: bool,
    ray_address: str | None,
) -> None:
    from orchestrator.sweeping import run_sweep, write_sweep
    from simulations.sweep import Halves, points_of
    from simulations.winners import Sweep

    halves = Halves.of(measured)
    points = points_of(axes, scenario, halves)
    with progress_bar() as bar:
        task = bar.add_task("simulating", total=len(points), note="")
        rows = run_sweep(
            points, halves, ray=ray, ray_address=ray_address, on_rows=lambda count: bar.advance(task, count)
        )
    samples = len(halves.selection.labels), len(halves.reported.table.labels)
    result = Sweep(rows, scenario, measured.profile, samples, max_drop)
    console.print(f"{scenario.artifact}: {len(rows):,} simulations of {scenario.workload.requests:,} requests an edge")
    _print_winners(result)
    paths = write_sweep(result, out, f"{len(dataset):,} images of {dataset.name}")
    figures = result.figures()
    for path in (out / "simulate.json", json_file):
        write_json(path, figures)
    console.print("   ".join(f"{path}" for path in [*paths, out / "simulate.json"]), soft_wrap=True)


def _print_summaries(rows: list[dict[str, Any]], title: str) -> None:
    table = Table(title=title)
    table.add_column("plan", no_wrap=True)
    table.add_column("accuracy", justify="right")
    table.add_column("answered at")
    for column in ("mean ms", "p50 ms", "p95 ms", "p99 ms", "in time", "bytes up/request"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["setup"],
            f"{100 * row['accuracy']:.1f} %",
            "\n".join(f"{place} {100 * share:.1f} %" for place, share in row["share_by_exit"].items()),
            *(f"{row['latency_ms'][key]:.1f}" for key in ("mean", "p50", "p95", "p99")),
            f"{100 * row['in_time']:.1f} %",
            f"{row['uplink_bytes_per_request']:.0f}",
        )
    console.print(table)


def _print_winners(sweep: Sweep) -> None:
    """A grid of links for each load and each holding."""
    from simulations.look import scene_words, spread
    from simulations.winners import scenes

    for settings in scenes(sweep.rows):
        uplinks = spread(sorted({setting.uplink_mbps for setting in settings}), MAX_UPLINKS)
        for holding, found in sweep.holdings().items():
            table = Table(title=f"{scene_words(settings[0])}; {holding}", show_lines=True)
            table.add_column("rtt ms ╲ Mbit/s", justify="right", no_wrap=True)
            for uplink_mbps in uplinks:
                table.add_column(f"{uplink_mbps:.3g}", no_wrap=True)
            for rtt_ms in sorted({setting.rtt_ms for setting in settings}):
                line = {setting.uplink_mbps: found[setting] for setting in settings if setting.rtt_ms == rtt_ms}
                table.add_row(f"{rtt_ms:.3g}", *(_cell(line[uplink_mbps]) for uplink_mbps in uplinks))
            console.print(table)
    console.print(
        "each cell: the fastest plan that is accurate enough, its mean latency, and how many times faster that is than "
        "the best of edge only, cloud only and today's plan"
    )


def _cell(winner: Winner) -> str:
    from simulations.look import cell_lines

    name, thresholds, gain = cell_lines(winner)
    return f"{name}\n{thresholds}\n{winner.best.mean_ms:.1f} ms\n{gain}"
