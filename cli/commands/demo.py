"""`branchynet demo`: cloud, links and edges as processes, real images through them, one table."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from branchynet.errors import InvalidInput, installed
from cli.commands.demo_soak import soak_test
from cli.measuring import labelled_images
from cli.options import (
    ArtifactOption,
    DataOption,
    JsonOption,
    checked_address,
    console,
    fail_if_lost,
    printing_after,
    progress_bar,
    write_json,
)
from cli.tables.requests import print_reasons, print_setups

if TYPE_CHECKING:
    from branchynet.data.datasets import Dataset
    from orchestrator.nodes.attached import Attached
    from orchestrator.nodes.local import Processes
    from simulations.model.scenario import Scenario

__all__ = ["demo"]


# What can be set for nodes of our own only.
_OWN_NODES = ("artifact", "data", "edges", "uplink_mbps", "downlink_mbps", "rtt_ms", "codec")


SoakOption = Annotated[
    float | None,
    typer.Option(
        help="A soak test instead: send at --rate for about this many seconds, while an edge and the cloud crash "
        "and come back (with --edge: while you stop them), and show that no request is lost.",
        min=1,
    ),
]


def demo(
    context: typer.Context,
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    images: Annotated[int, typer.Option(help="At most so many test images are sent.", min=10)] = 1000,
    edges: Annotated[int, typer.Option(help="Edge nodes.", min=1, max=16)] = 2,
    uplink_mbps: Annotated[float, typer.Option(help="Rate of each edge's uplink, Mbit/s.", min=0.01)] = 10.0,
    downlink_mbps: Annotated[float, typer.Option(help="Rate of each edge's downlink, Mbit/s.", min=0.01)] = 50.0,
    rtt_ms: Annotated[float, typer.Option(help="Round trip between edge and cloud.", min=0.0)] = 40.0,
    codec: Annotated[
        str, typer.Option(help="How feature maps are sent; fp32: as they are, which --soak always does.")
    ] = "uint8+zstd",
    concurrency: Annotated[int, typer.Option(help="Requests under way at a time at each edge.", min=1)] = 2,
    edge: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BRANCHYNET_DEMO_EDGE",
            help="host:port of an edge that runs already; repeat it. Starts no nodes.",
            callback=checked_address,
        ),
    ] = None,
    link_control: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BRANCHYNET_DEMO_LINK_CONTROL",
            help="With --edge: host:port of a link's --control-listen, which counts the bytes; repeat it.",
            callback=checked_address,
        ),
    ] = None,
    soak: SoakOption = None,
    rate: Annotated[float, typer.Option(help="With --soak: images a second.", min=0.1)] = 40.0,
    out: Annotated[
        Path, typer.Option(envvar="BRANCHYNET_DEMO_OUT", help="Folder for figures, plot, logs.", file_okay=False)
    ] = Path("out"),
    json_file: JsonOption = None,
) -> None:
    """Send real images through edge nodes, an emulated uplink and a cloud node, and compare three setups.

    Everything runs as processes on this machine and is stopped at the end, also after Ctrl-C; with --edge the nodes
    are yours. Figures go to OUT/demo.json, a plot to OUT/demo.png, the nodes' logs to OUT/logs; with --soak the
    figures go to OUT/soak.json. The command ends with code 1 if a request was lost, or with --soak an answer wrong.
    """
    from orchestrator.nodes.attached import Attached
    from orchestrator.nodes.local import Processes
    from simulations.model.scenario import LinkModel, PlanModel, Scenario

    _refuse_what_has_no_effect(context, attached=bool(edge))
    backing: Processes | Attached
    if edge:
        scenario, backing = Scenario(edges=len(edge)), Attached(edge, link_control or ())
    else:
        link = LinkModel(uplink_mbps=uplink_mbps, downlink_mbps=downlink_mbps, rtt_ms=rtt_ms)
        # In a soak test every answer is compared with the whole network's, which a lossy codec now and then changes.
        plan = PlanModel(codec=codec if soak is None else None)
        scenario, backing = Scenario(artifact=artifact, edges=edges, link=link, plan=plan), Processes(out / "logs")
    chosen = _spread(artifact, data, images, attached=bool(edge))
    if soak is not None:
        soak_test(scenario, backing, chosen, rate, soak, out, json_file)
    else:
        _compare(scenario, backing, chosen, concurrency, out, json_file)


def _spread(artifact: str, data: Path | None, count: int, *, attached: bool) -> Dataset:
    """Up to *count* test images of *artifact*, evenly spread; shipped ones for nodes that run already."""
    from branchynet.data.datasets import load_sample

    images = load_sample() if attached else labelled_images(artifact, data)
    return images.take(range(0, len(images), max(1, len(images) // count))[:count])


def _refuse_what_has_no_effect(context: typer.Context, *, attached: bool) -> None:
    for name in _OWN_NODES if attached else ("link_control",):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            rest = "is for nodes that this command starts, not with --edge" if attached else "goes with --edge"
            raise InvalidInput(f"--{name.replace('_', '-')} {rest}")


def _compare(
    scenario: Scenario,
    backing: Processes | Attached,
    chosen: Dataset,
    concurrency: int,
    out: Path,
    json_file: Path | None,
) -> None:
    """Send *chosen* through the three setups of nodes to start, or of nodes that run; print and write the figures."""
    from cli.plots.demo import draw_demo
    from orchestrator.nodes.attached import Attached
    from orchestrator.runs.demo import SETUPS, figures, run_demo

    if isinstance(backing, Attached):
        model, link = asyncio.run(_described(scenario, backing))
        console.print(f"measuring {', '.join(backing.targets)} ({link}) …")
    else:
        model = scenario.artifact
        link = f"{scenario.link.uplink_mbps:g} Mbit/s up, {scenario.link.rtt_ms:g} ms round trip"
        link += f", maps as {scenario.plan.codec}"
        console.print(f"starting 1 cloud, {scenario.edges} edges and {scenario.edges} links ({link}) …")
    with progress_bar() as bar:
        tasks = {setup: bar.add_task(setup, total=len(chosen), note="") for setup in SETUPS}

        def on_event(setup: str, answers: int) -> None:
            bar.advance(tasks[setup], answers)

        data = (chosen.images, chosen.labels)
        rows = asyncio.run(run_demo(scenario, backing, *data, concurrency=concurrency, on_event=on_event))
    scene = f"{scenario.edges} edges, {link}"
    done = figures(rows)
    written, title = f"figures: {out / 'demo.json'}", f"{len(chosen):,} {_called(chosen)}, {scene}"
    with printing_after(lambda: print_setups(title, done["rows"], "link_bytes_per_request")):
        for path in (out / "demo.json", json_file):
            write_json(path, done)
        if installed("matplotlib"):  # the containers' client has no plots
            draw_demo(rows, out / "demo.png", f"{model}: {len(chosen):,} images, {scene}")
            written += f"   plot: {out / 'demo.png'}"
    console.print(written if isinstance(backing, Attached) else f"{written}   logs: {backing.logs}")
    for row in done["rows"]:
        print_reasons(row, "lost")
    fail_if_lost(sum(row.report.lost for row in rows))


def _called(images: Dataset) -> str:
    return "Fashion-MNIST test images" if images.name == "fashion-mnist" else f"images of {images.name}"


async def _described(scenario: Scenario, attached: Attached) -> tuple[str, str]:
    """What the edges serve and how their links are; `InvalidInput` without links, which count the bytes."""
    from orchestrator.nodes.build import build

    if not attached.link_controls:
        raise InvalidInput("edges that run already need their links' controls, which count the bytes that cross")
    async with build(scenario, attached) as fleet:
        return await fleet.describe()
