"""`branchynet demo`: cloud, links and edges as processes, real images through them, one table."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli.output import ArtifactOption, JsonOption, console, progress_bar, write_json

if TYPE_CHECKING:
    from orchestrator.demo import Row

__all__ = ["demo"]


def demo(
    artifact: ArtifactOption = "lenet-fashion",
    images: Annotated[int, typer.Option(help="How many of the shipped images are sent.", min=10, max=1000)] = 1000,
    edges: Annotated[int, typer.Option(help="Edge nodes.", min=1, max=16)] = 2,
    uplink_mbps: Annotated[float, typer.Option(help="Rate of each edge's uplink, Mbit/s.", min=0.01)] = 10.0,
    downlink_mbps: Annotated[float, typer.Option(help="Rate of each edge's downlink, Mbit/s.", min=0.01)] = 50.0,
    rtt_ms: Annotated[float, typer.Option(help="Round trip between edge and cloud.", min=0.0)] = 40.0,
    in_flight: Annotated[int, typer.Option(help="Requests in flight at each edge.", min=1)] = 2,
    out: Annotated[Path, typer.Option(help="Folder for figures, picture and logs.", file_okay=False)] = Path("out"),
    json_file: JsonOption = None,
) -> None:
    """Send real images through edge nodes, an emulated uplink and a cloud node, and compare three setups.

    Everything runs as processes on this machine and is stopped at the end, also after Ctrl-C. Figures go to
    OUT/demo.json, a picture to OUT/demo.png, the nodes' logs to OUT/logs.
    """
    from branchynet.training.datasets import load_sample
    from orchestrator.demo import SETUPS, figures, run_demo
    from orchestrator.local import Topology
    from orchestrator.pictures import draw_demo

    topology = Topology(
        artifact=artifact, edges=edges, uplink_mbps=uplink_mbps, downlink_mbps=downlink_mbps, rtt_ms=rtt_ms
    )
    sample = load_sample()
    chosen = sample.take(range(0, len(sample), len(sample) // images)[:images])
    link = f"{uplink_mbps:g} Mbit/s up, {rtt_ms:g} ms round trip"
    console.print(f"starting 1 cloud, {edges} edges and {edges} links ({link}) …")
    with progress_bar() as bar:
        tasks = {setup: bar.add_task(setup, total=len(chosen), note="") for setup in SETUPS}
        rows = asyncio.run(
            run_demo(
                topology,
                chosen.images,
                chosen.labels,
                out / "logs",
                in_flight_per_edge=in_flight,
                on_event=lambda setup, answers: bar.advance(tasks[setup], answers),
            )
        )
    _print(rows, f"{len(chosen):,} Fashion-MNIST test images, {edges} edges, {link}")
    for path in (out / "demo.json", json_file):
        write_json(path, figures(rows))
    draw_demo(rows, out / "demo.png", f"{artifact}: {len(chosen):,} images, {edges} edges, {link}")
    console.print(f"figures: {out / 'demo.json'}   picture: {out / 'demo.png'}   logs: {out / 'logs'}")


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
