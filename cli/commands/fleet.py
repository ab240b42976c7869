"""`branchynet fleet`: a scenario on real nodes hosted by Ray, or simulated; one table, one row a request in Parquet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.measuring import labelled_images
from cli.options import DataOption, JsonOption, console, fail_if_lost, write_json
from cli.tables.fleet import FleetView, print_run
from cli.tables.requests import print_reasons

if TYPE_CHECKING:
    from simulations.model.scenario import Scenario

__all__ = ["fleet"]


def fleet(
    scenario: Annotated[Path, typer.Argument(help="The scenario, a TOML file.", exists=True, dir_okay=False)],
    edges: Annotated[int | None, typer.Option(help="Edges, instead of the scenario's.", min=1)] = None,
    clouds: Annotated[int | None, typer.Option(help="Clouds, instead of the scenario's.", min=1)] = None,
    requests: Annotated[int | None, typer.Option(help="Requests at each edge, instead of the scenario's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the scenario's.", min=0)] = None,
    hosts: Annotated[
        int | None, typer.Option(help="Processes that share the edges; default: one for each CPU.", min=1)
    ] = None,
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="One row for each request, Parquet.", dir_okay=False)] = Path(
        "out/fleet/requests.parquet"
    ),
    json_file: JsonOption = None,
) -> None:
    """Run a scenario on real nodes, and report what became of every request.

    Edge, link and cloud talk over loopback, hosted by Ray actors; a host that is lost is started again. Ctrl-C ends a
    run in order, and what was measured so far is written. `branchynet simulate` takes the same scenario, for any number
    of nodes; `branchynet simulate --example` prints one with every key. The command ends with code 1 if a request was
    lost.
    """
    from branchynet.errors import need
    from simulations.model.scenario import read_scenario, with_changes

    need("pyarrow", "ray")
    chosen = with_changes(read_scenario(scenario), edges=edges, clouds=clouds, requests=requests, seed=seed)
    with _interruptible():
        _run(chosen, data, out, json_file, hosts)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C where nothing has been measured yet."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("stopped")
        raise typer.Exit(130) from None


def _run(chosen: Scenario, data: Path | None, out: Path, json_file: Path | None, hosts: int | None) -> None:
    from orchestrator.nodes.ray_cluster import ray_session
    from orchestrator.nodes.specs import check_real
    from orchestrator.runs.fleet import run_fleet
    from orchestrator.runs.fleet_report import real_figures

    check_real(chosen)  # a scenario that cannot run is refused before anything starts
    dataset = labelled_images(chosen.artifact, data)
    console.print(f"starting {chosen.edges} edges and {chosen.clouds} clouds …")
    with ray_session() as cpus, FleetView() as view:
        done = asyncio.run(run_fleet(chosen, dataset, hosts or cpus, view.show_loads))
    if done.stopped_by is not None and not len(done.records):
        console.print("stopped before the first answer")
        raise typer.Exit(128 + done.stopped_by)
    done.records.write_parquet(out)
    figures = real_figures(chosen, done)
    _report(figures, out, json_file)
    if done.stopped_by is not None:
        raise typer.Exit(128 + done.stopped_by)
    fail_if_lost(figures["lost"])


def _report(figures: dict[str, Any], out: Path, json_file: Path | None) -> None:
    write_json(json_file, figures)
    print_run(figures)
    print_reasons(figures, "lost")
    console.print(f"one row for each request: {out}")
