"""`branchynet simulate`: one scenario, or a sweep over links, cuts and thresholds."""

from __future__ import annotations

import time
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from branchynet.errors import InvalidInput
from cli.measuring import PROFILE, MeasuredProfileOption, labelled_images, measure
from cli.options import DataOption, JsonOption, console, progress_bar, write_json
from cli.tables.fleet import print_run
from cli.tables.requests import print_setups
from simulations.sweep.best_plans import Sweep
from simulations.sweep.html_report import write_report
from simulations.sweep.plots import draw_best_plans, draw_fronts
from simulations.sweep.results import Row, write_rows
from simulations.sweep.sweep import Halves

if TYPE_CHECKING:
    from branchynet.data.datasets import Dataset
    from simulations.model.request_records import Records
    from simulations.model.scenario import Scenario
    from simulations.model.simulator import Measured
    from simulations.sweep.axes import Axis
    from simulations.sweep.best_plans import BestPlan, Sweep

__all__ = ["simulate", "write_sweep"]

# Of a scenario that is not in a file.
REQUESTS = 2_000
# As many as fit on a line; the report shows all.
MAX_UPLINKS = 9
# A larger scenario is simulated once, on all cores, and its requests are written as they come instead of being kept.
BESIDE_BASELINES = 1_000_000
# The rows of a sweep that was stopped, beside the files of the last whole one.
PARTIAL = "results-partial.parquet"


SweepOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="AXIS=VALUES",
        help="Try every combination: uplink (Mbit/s), rtt (ms), cut, threshold, edges, rate, slowdown, max_batch. "
        "VALUES: a,b,c or lo:hi:log9 or lo:hi:lin9, or * for cut and threshold.",
    ),
]


def _checked_cluster(value: str | None) -> str | None:
    from orchestrator.nodes.ray_cluster import check_cluster

    try:
        if value is not None:
            check_cluster(value)
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from None
    return value


def simulate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCENARIO.toml] [AXIS=VALUES]...", help="A scenario, and more axes after --sweep."),
    ] = None,
    sweep: SweepOption = None,
    artifact: Annotated[
        str | None, typer.Option("--artifact", "-a", help="A shipped artifact or a folder; instead of the scenario's.")
    ] = None,
    data: DataOption = None,
    profile: MeasuredProfileOption = None,
    edges: Annotated[int | None, typer.Option(help="Edge nodes.", min=1)] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second at each edge.", min=0.001)] = None,
    requests: Annotated[int | None, typer.Option(help="Requests at each edge.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same requests.", min=0)] = None,
    accuracy_drop: Annotated[
        float, typer.Option(help="Percentage points of accuracy that the best plan may lose.", min=0.0, max=100.0)
    ] = 0.5,
    out: Annotated[Path, typer.Option(help="Folder for everything written.", file_okay=False)] = Path("out/simulate"),
    clouds: Annotated[int | None, typer.Option(help="Clouds, instead of the scenario's.", min=1)] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster (host:port) for large work; else this machine's cores.", callback=_checked_cluster
        ),
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray/--no-ray", help="Spread large work with Ray, or do it in this process.")
    ] = True,
    example: Annotated[bool, typer.Option("--example", help="Print a scenario with every key, and stop.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Simulate edges, links and clouds from what this machine measures of the real network.

    Without --sweep: one scenario beside edge only, cloud only and raw input, every request in OUT/requests.parquet;
    above a million requests the scenario itself, on all cores. With --sweep: all combinations, and a report with the
    best plans in OUT/report.html. --example prints a scenario with every key; without one there is 1 edge with 2,000
    requests.
    """
    if example:
        print(resources.files("simulations.model").joinpath("example.toml").read_text(encoding="utf-8"), end="")
        return
    from branchynet.errors import need
    from simulations.model.scenario import with_changes

    need("pyarrow", *(["plotly"] if sweep else []), *(["ray"] if sweep and ray else []))
    scenario, axes = _asked(arguments or [], sweep or [])
    scenario = with_changes(
        scenario, artifact=artifact, edges=edges, clouds=clouds, rate_per_s=rate, requests=requests, seed=seed
    )
    dataset = labelled_images(scenario.artifact, data)
    measured = measure(scenario, dataset, profile, out)
    if sweep:
        _sweep(scenario, axes, measured, dataset, out, json_file, accuracy_drop, ray, ray_address)
    elif scenario.requests > BESIDE_BASELINES:
        _alone(scenario, measured, out, json_file, ray=ray, address=ray_address)
    else:
        _beside_baselines(scenario, measured, dataset, out, json_file)


def _asked(arguments: list[str], sweep: list[str]) -> tuple[Scenario, dict[str, Axis]]:
    """The scenario and the axes; what has an equals sign is an axis."""
    from simulations.model.scenario import Scenario, Workload, read_scenario
    from simulations.sweep.axes import parse_axes

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


def _beside_baselines(
    scenario: Scenario, measured: Measured, dataset: Dataset, out: Path, json_file: Path | None
) -> None:
    from simulations.model.request_report import Report
    from simulations.sweep.sweep import compare

    results = compare(scenario, measured)
    deadline_ms = scenario.limits.deadline_ms
    rows = [{"setup": name, **Report.of(records, deadline_ms).figures()} for name, records in results.items()]
    figures = {"scenario": scenario.model_dump(mode="json"), "images": len(dataset), "rows": rows}
    asked: Records = next(iter(results.values()))
    asked.write_parquet(out / "requests.parquet")
    for path in (out / "simulate.json", json_file):
        write_json(path, figures)
    print_setups(f"{scenario.name}: {scenario.artifact} on {len(dataset):,} images", rows)
    console.print(f"every request: {out / 'requests.parquet'}   figures: {out / 'simulate.json'}", soft_wrap=True)


def _alone(
    scenario: Scenario, measured: Measured, out: Path, json_file: Path | None, *, ray: bool, address: str | None
) -> None:
    """Simulate *scenario* cloud by cloud on all cores; what Ctrl-C leaves is reported. Exits with 130 then."""
    from orchestrator.nodes.ray_cluster import ray_session
    from orchestrator.runs.fleet_report import VirtualRun, virtual_figures
    from orchestrator.runs.shards import clouds_of_shards, run_here, run_on_ray
    from simulations.model.request_records import RecordsFile

    shards = clouds_of_shards(scenario)
    run, path, stopped = VirtualRun(scenario, len(shards)), out / "requests.parquet", False
    with ExitStack() as stack:
        cpus = stack.enter_context(ray_session(address)) if ray else 0
        file = stack.enter_context(RecordsFile(path))
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("simulating", total=run.planned, note=f"{scenario.edges:,} edges")
        started_s = time.perf_counter()
        try:
            for part in run_on_ray(scenario, measured, shards, cpus) if ray else run_here(scenario, measured, shards):
                file.write(part.records)
                run.add(part)
                bar.advance(task, len(part.records))
        except KeyboardInterrupt:
            stopped = True
        wall_s = time.perf_counter() - started_s
    if stopped and not run.shards_done:
        console.print("stopped before the first request")
        raise typer.Exit(130)
    figures = virtual_figures(run, wall_s, interrupted=stopped)
    for written in (out / "simulate.json", json_file):
        write_json(written, figures)
    print_run(figures)
    console.print(f"every request: {path}   figures: {out / 'simulate.json'}", soft_wrap=True)
    if stopped:
        raise typer.Exit(130)


def _sweep(
    scenario: Scenario,
    axes: dict[str, Axis],
    measured: Measured,
    dataset: Dataset,
    out: Path,
    json_file: Path | None,
    accuracy_drop: float,
    ray: bool,
    ray_address: str | None,
) -> None:
    from orchestrator.runs.sweep import run_sweep
    from simulations.sweep.best_plans import Sweep
    from simulations.sweep.sweep import points_of

    halves = Halves.of(measured)
    points = points_of(axes, scenario, halves)
    done: list[Row] = []
    with progress_bar() as bar:
        task = bar.add_task("simulating", total=len(points), note="")

        def on_rows(part: list[Row]) -> None:
            done.extend(part)
            bar.advance(task, len(part))

        try:
            rows = run_sweep(points, halves, ray=ray, ray_address=ray_address, on_rows=on_rows)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(done, len(points), scenario, out, json_file)) from None
    samples = len(halves.selection.labels), len(halves.reported.table.labels)
    result = Sweep(rows, scenario, measured.profile, samples, accuracy_drop)
    paths = write_sweep(result, out, f"{len(dataset):,} images of {dataset.name}")
    figures = result.figures()
    for path in (out / "simulate.json", json_file):
        write_json(path, figures)
    (out / PARTIAL).unlink(missing_ok=True)
    console.print(f"{scenario.artifact}: {len(rows):,} simulations of {scenario.workload.requests:,} requests an edge")
    _print_best_plans(result)
    console.print("   ".join(f"{path}" for path in [*paths, out / "simulate.json"]), soft_wrap=True)


def _kept(done: list[Row], planned: int, scenario: Scenario, out: Path, json_file: Path | None) -> str:
    """Write what a sweep of *planned* points had *done* when it was stopped; what to say of it."""
    if done:
        write_rows(out / PARTIAL, done)
        figures = {"scenario": scenario.model_dump(mode="json"), "interrupted": True, "planned": planned}
        write_json(json_file, {**figures, "rows": [row.flat() for row in done]})
    where = f" and are in {out / PARTIAL}" if done else ""
    return (
        f"{len(done):,} of {planned:,} simulations were done{where}; the report needs all of them. The same command "
        f"with --profile {out / PROFILE} measures nothing again; fewer values, or --requests, take less time"
    )


def _print_best_plans(sweep: Sweep) -> None:
    """A grid of links for each load and each holding."""
    from simulations.sweep.best_plans import scenes
    from simulations.sweep.style import scene_words, spread

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


def _cell(best: BestPlan) -> str:
    from simulations.sweep.style import cell_lines

    name, thresholds, gain = cell_lines(best)
    return f"{name}\n{thresholds}\n{best.row.mean_ms:.1f} ms\n{gain}"


def write_sweep(sweep: Sweep, out: Path, dataset: str) -> list[Path]:
    """Write the rows, the report and the plots to the folder *out*; their paths. *dataset* is for the titles."""
    title = f"{sweep.base.artifact} on {dataset}"
    write_rows(out / "results.parquet", sweep.rows)
    write_report(sweep, out / "report.html", title)
    draw_best_plans(sweep, out / "best_plans.png", title)
    draw_fronts(sweep, out / "fronts.png", title)
    return [out / name for name in ("report.html", "results.parquet", "best_plans.png", "fronts.png")]
