"""`branchynet demo`: cloud, links and edges as processes, real images through them, one table."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from branchynet.errors import InvalidInput
from cli.output import ArtifactOption, JsonOption, console, progress_bar, write_json
from cli.steady import steady_load

if TYPE_CHECKING:
    from branchynet.training.datasets import Dataset
    from orchestrator.attached import AttachedTopology
    from orchestrator.demo import Row
    from orchestrator.local import Topology

__all__ = ["demo"]


# What only nodes of our own can be told.
_OWN_NODES = ("artifact", "edges", "uplink_mbps", "downlink_mbps", "rtt_ms", "codec")


def demo(
    context: typer.Context,
    artifact: ArtifactOption = "lenet-fashion",
    images: Annotated[int, typer.Option(help="How many of the shipped images are sent.", min=10, max=1000)] = 1000,
    edges: Annotated[int, typer.Option(help="Edge nodes.", min=1, max=16)] = 2,
    uplink_mbps: Annotated[float, typer.Option(help="Rate of each edge's uplink, Mbit/s.", min=0.01)] = 10.0,
    downlink_mbps: Annotated[float, typer.Option(help="Rate of each edge's downlink, Mbit/s.", min=0.01)] = 50.0,
    rtt_ms: Annotated[float, typer.Option(help="Round trip between edge and cloud.", min=0.0)] = 40.0,
    codec: Annotated[
        str, typer.Option(help="How feature maps are sent; fp32: as they are, which --steady always does.")
    ] = "uint8+zstd",
    in_flight: Annotated[int, typer.Option(help="Requests in flight at each edge.", min=1)] = 2,
    edge: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BRANCHYNET_DEMO_EDGE", help="host:port of an edge that runs already; repeat it. Starts no nodes."
        ),
    ] = None,
    link_control: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BRANCHYNET_DEMO_LINK_CONTROL",
            help="With --edge: host:port of a link's --control-listen, which counts the bytes; repeat it.",
        ),
    ] = None,
    steady: Annotated[
        float | None,
        typer.Option(
            help="Compare nothing: send at --rate for about this many seconds, while an edge and the cloud crash and "
            "come back (with --edge: while you stop them), and show that no request is lost.",
            min=1,
        ),
    ] = None,
    rate: Annotated[float, typer.Option(help="With --steady: images a second.", min=0.1)] = 40.0,
    out: Annotated[
        Path, typer.Option(envvar="BRANCHYNET_DEMO_OUT", help="Folder for figures, picture, logs.", file_okay=False)
    ] = Path("out"),
    json_file: JsonOption = None,
) -> None:
    """Send real images through edge nodes, an emulated uplink and a cloud node, and compare three setups.

    Everything runs as processes on this machine and is stopped at the end, also after Ctrl-C; with --edge the nodes
    are yours. Figures go to OUT/demo.json, a picture to OUT/demo.png, the nodes' logs to OUT/logs; with --steady the
    figures go to OUT/steady.json and the command ends with code 1 if a request was lost or an answer wrong.
    """
    from branchynet.training.datasets import load_sample
    from orchestrator.attached import AttachedTopology
    from orchestrator.local import Topology

    _refuse_what_has_no_effect(context, attached=bool(edge))
    sample = load_sample()
    chosen = sample.take(range(0, len(sample), len(sample) // images)[:images])
    own = Topology(artifact=artifact, edges=edges, uplink_mbps=uplink_mbps, downlink_mbps=downlink_mbps, rtt_ms=rtt_ms)
    if steady is not None:
        # Every answer is compared with the whole network's, which a lossy codec would now and then change.
        steady_load(edge or own, chosen.images, rate, steady, out, json_file)
    elif edge:
        _compare(AttachedTopology(edge, link_control or ()), chosen, in_flight, out, json_file)
    else:
        _compare(replace(own, codec=codec), chosen, in_flight, out, json_file)


def _refuse_what_has_no_effect(context: typer.Context, *, attached: bool) -> None:
    for name in _OWN_NODES if attached else ("link_control",):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            rest = "is for nodes that this command starts, not with --edge" if attached else "goes with --edge"
            raise InvalidInput(f"--{name.replace('_', '-')} {rest}")


def _compare(
    where: Topology | AttachedTopology, chosen: Dataset, in_flight: int, out: Path, json_file: Path | None
) -> None:
    """Send *chosen* through the three setups of nodes to start, or of nodes that run; print and write the figures."""
    from orchestrator.demo import SETUPS, figures, measure, run_demo
    from orchestrator.local import Topology
    from orchestrator.pictures import draw_demo

    if isinstance(where, Topology):
        model, count = where.artifact, where.edges
        link = f"{where.uplink_mbps:g} Mbit/s up, {where.rtt_ms:g} ms round trip, maps as {where.codec}"
        console.print(f"starting 1 cloud, {count} edges and {count} links ({link}) …")
    else:
        model, link = asyncio.run(where.describe())
        count = len(where.targets)
        console.print(f"measuring {', '.join(where.targets)} ({link}) …")
    with progress_bar() as bar:
        tasks = {setup: bar.add_task(setup, total=len(chosen), note="") for setup in SETUPS}
        data = (chosen.images, chosen.labels)

        def tell(setup: str, answers: int) -> None:
            bar.advance(tasks[setup], answers)

        rows = asyncio.run(
            run_demo(where, *data, out / "logs", in_flight_per_edge=in_flight, on_event=tell)
            if isinstance(where, Topology)
            else measure(where, *data, in_flight_per_edge=in_flight, on_event=tell)
        )
    scene = f"{count} edges, {link}"
    _print(rows, f"{len(chosen):,} Fashion-MNIST test images, {scene}")
    for path in (out / "demo.json", json_file):
        write_json(path, figures(rows))
    draw_demo(rows, out / "demo.png", f"{model}: {len(chosen):,} images, {scene}")
    logs = f"   logs: {out / 'logs'}" if isinstance(where, Topology) else ""
    console.print(f"figures: {out / 'demo.json'}   picture: {out / 'demo.png'}{logs}")


def _print(rows: list[Row], title: str) -> None:
    table = Table(title=title)
    table.add_column("setup", no_wrap=True)
    table.add_column("accuracy", justify="right")
    table.add_column("answered at")
    for column in ("p50 ms", "p95 ms", "p99 ms", "bytes up/image", "images/s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.setup if row.setup != "cloud only" else "cloud only (raw uint8)",
            f"{100 * row.accuracy:.1f} %",
            "\n".join(f"{place} {100 * share:.1f} %" for place, share in row.share_by_exit.items()),
            *(f"{row.percentile_ms(percent):.1f}" for percent in (50, 95, 99)),
            f"{row.uplink_bytes_per_image:.0f}",
            f"{row.throughput_per_s:.0f}",
        )
    console.print(table)
