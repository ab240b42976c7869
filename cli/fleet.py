"""`branchynet fleet`: a scenario on real nodes hosted by Ray, or simulated; one table, one row a request in Parquet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from branchynet.errors import SettingsError
from cli.fleet_view import FleetView, print_run
from cli.measured import PROFILE, ProfileOption, labelled_images, measure
from cli.output import DataOption, JsonOption, console, progress_bar, write_json

if TYPE_CHECKING:
    from simulations.scenarios import Scenario

__all__ = ["app"]

app = typer.Typer(
    name="fleet",
    help="Edges and clouds by the dozen on this machine, or by the hundred thousand in the simulator.",
    no_args_is_help=True,
)


@app.callback()
def _root() -> None:
    """Keep `run` a command of its own."""


@app.command("run")
def run(
    scenario: Annotated[Path, typer.Argument(help="The scenario, a TOML file.", exists=True, dir_okay=False)],
    virtual: Annotated[bool, typer.Option("--virtual", help="Simulate it: any number of nodes, no sockets.")] = False,
    edges: Annotated[int | None, typer.Option(help="Edges, instead of the scenario's.", min=1)] = None,
    clouds: Annotated[int | None, typer.Option(help="Clouds, instead of the scenario's.", min=1)] = None,
    requests: Annotated[int | None, typer.Option(help="Requests at each edge, instead of the scenario's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the scenario's.", min=0)] = None,
    hosts: Annotated[
        int | None, typer.Option(help="Processes that share the edges; default: one for each CPU.", min=1)
    ] = None,
    ray: Annotated[bool, typer.Option(help="With --virtual: simulate on all CPUs, or in this process.")] = True,
    ray_address: Annotated[
        str | None, typer.Option(help="With --virtual: a Ray cluster (host:port) instead of this machine.")
    ] = None,
    profile: ProfileOption = None,
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="One row for each request, Parquet.", dir_okay=False)] = Path(
        "out/fleet/requests.parquet"
    ),
    json_file: JsonOption = None,
) -> None:
    """Run SCENARIO and say what became of every request.

    Real nodes are edge, link and cloud over loopback, hosted by Ray actors; a host that is lost is started again. With
    --virtual the simulator answers, from outcomes and times measured on this machine first (kept beside --out). Ctrl-C
    ends a run in order, and what was measured so far is written.
    """
    from simulations.extra import need
    from simulations.scenarios import read_scenario, with_changes

    need("pyarrow", *(["ray"] if ray else []))
    chosen = with_changes(read_scenario(scenario), edges=edges, clouds=clouds, requests=requests, seed=seed)
    if virtual:
        if hosts is not None:
            raise SettingsError(f"--hosts {hosts} is for real nodes; --virtual has none")
        with _interruptible():
            _run_virtual(chosen, data, out, json_file, ray=ray, address=ray_address, profile=profile)
        return
    for flag, given in (("--no-ray", not ray), ("--ray-address", ray_address), ("--profile", profile)):
        if given:
            raise SettingsError(f"{flag} is for --virtual; real nodes are hosted by a Ray on this machine")
    with _interruptible():
        _run_real(chosen, data, out, json_file, hosts)


@app.command("example")
def example() -> None:
    """Print a scenario with every key and its meaning."""
    from importlib import resources

    print(resources.files("simulations").joinpath("example.toml").read_text(encoding="utf-8"), end="")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C where nothing has been measured yet."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("stopped")
        raise typer.Exit(130) from None


def _run_real(chosen: Scenario, data: Path | None, out: Path, json_file: Path | None, hosts: int | None) -> None:
    from orchestrator.fleet_report import real_figures
    from orchestrator.fleet_run import run_fleet
    from orchestrator.ray_session import ray_session
    from orchestrator.sites import plan_of

    plan_of(chosen)  # a scenario that cannot run is refused before anything starts
    dataset = labelled_images(chosen.artifact, data)
    console.print(f"starting {chosen.edges} edges and {chosen.clouds} clouds …")
    with ray_session() as cpus, FleetView() as view:
        done = asyncio.run(run_fleet(chosen, dataset, hosts or cpus, view.show))
    if done.stopped_by is not None and not len(done.records):
        console.print("stopped before the first answer")
        raise typer.Exit(128 + done.stopped_by)
    done.records.write_parquet(out)
    _report(real_figures(chosen, done), out, json_file)
    if done.stopped_by is not None:
        raise typer.Exit(128 + done.stopped_by)


def _run_virtual(
    chosen: Scenario,
    data: Path | None,
    out: Path,
    json_file: Path | None,
    *,
    ray: bool,
    address: str | None,
    profile: Path | None,
) -> None:
    from contextlib import ExitStack

    from orchestrator.fleet_report import VirtualRun, virtual_figures
    from orchestrator.ray_session import ray_session
    from orchestrator.shards import clouds_of_shards, run_here, run_on_ray
    from simulations.records import RecordsFile

    dataset = labelled_images(chosen.artifact, data)
    measured = measure(chosen.artifact, dataset, profile, out.parent)
    if profile is None:
        console.print(f"measured on this machine: {out.parent / PROFILE} (for --profile)")
    shards = clouds_of_shards(chosen)
    run = VirtualRun(chosen, len(shards))
    stopped = False
    with ExitStack() as stack:
        cpus = stack.enter_context(ray_session(address)) if ray else 0
        file = stack.enter_context(RecordsFile(out))
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("simulating", total=run.planned, note=f"{chosen.edges:,} edges")
        started_s = time.perf_counter()
        parts = run_on_ray(chosen, measured, shards, cpus) if ray else run_here(chosen, measured, shards)
        try:
            for part in parts:
                file.write(part.records)
                run.add(part)
                bar.advance(task, len(part.records))
        except KeyboardInterrupt:
            stopped = True
        wall_s = time.perf_counter() - started_s
    if stopped and not run.shards_done:
        raise KeyboardInterrupt
    _report(virtual_figures(run, wall_s, interrupted=stopped), out, json_file)
    if stopped:
        raise typer.Exit(130)


def _report(figures: dict[str, Any], out: Path, json_file: Path | None) -> None:
    print_run(figures)
    write_json(json_file, figures)
    console.print(f"one row for each request: {out}")
