"""`branchynet bench`: one node under load, edge or cloud, by either protocol."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from branchynet.errors import InvalidInput
from branchynet.serving.prediction import Policy
from branchynet.terminal import shown
from cli.options import DataOption, JsonOption, checked_address, console, fail_if_lost, write_json
from cli.tables.live import LiveView
from cli.tables.requests import histogram_lines, print_figures, print_reasons
from simulations.model.scenario import Arrivals

if TYPE_CHECKING:
    from branchynet.client.find_node import Node, WireProtocol
    from orchestrator.runs.bench import BenchLoad, BenchRun

__all__ = ["bench"]

SECONDS = 10.0
RANDOM_IMAGES = 256
INTERRUPTED = 130
# A sender that falls behind by more measures itself.
LATE_MS = 20.0

RateOption = Annotated[float | None, typer.Option(help="Open loop: requests a second, answered or not.", min=0.001)]
ConcurrencyOption = Annotated[
    int | None, typer.Option(help="Closed loop: requests under way at a time; 1 unless --rate is given.", min=1)
]
SecondsOption = Annotated[
    float | None, typer.Option(help=f"Stop after this time; {SECONDS:g} without --requests.", min=0.1)
]
ProtocolOption = Annotated[
    str | None, typer.Option(help="branchynet or open-inference; the node is asked unless given.")
]


class _Images(NamedTuple):
    """What is sent: uint8 [N, C, H, W], labels int64 [N] (-1: not known), and where they came from."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    source: str

    @property
    def labelled(self) -> bool:
        return bool((self.labels >= 0).all())


def bench(
    target: Annotated[str, typer.Argument(help="host:port of an edge or a cloud.", callback=checked_address)],
    rate: RateOption = None,
    concurrency: ConcurrencyOption = None,
    requests: Annotated[int | None, typer.Option(help="Stop after this many requests.", min=1)] = None,
    seconds: SecondsOption = None,
    batch: Annotated[int, typer.Option(help="Images in a request.", min=1)] = 1,
    arrivals: Annotated[Arrivals, typer.Option(help="With --rate: at random, or evenly.")] = Arrivals.POISSON,
    protocol: ProtocolOption = None,
    policy: Annotated[Policy, typer.Option(help="Where an edge may have the work done.")] = Policy.SPLIT,
    deadline_ms: Annotated[float, typer.Option(help="How long each request waits for its answer.", min=1)] = 10_000,
    retry: Annotated[bool, typer.Option(help="Send a failed request again until its deadline.")] = False,
    warm_up: Annotated[int, typer.Option(help="Requests before, which are not measured.", min=0)] = 20,
    random: Annotated[bool, typer.Option("--random", help="Send random pixels, whatever the node serves.")] = False,
    data: DataOption = None,
    seed: Annotated[int, typer.Option(help="Same seed, same requests at the same times.", min=0)] = 0,
    json_file: JsonOption = None,
) -> None:
    """Load one node and show what it answers a second, how fast to the 99.9th percentile, and what fails.

    In an open loop latency counts from when a request was due, so a queue is not hidden. Images are the shipped
    sample's where they fit the node, those of --data, or random. Ctrl-C ends the load and shows what was measured
    (code 130). The command ends with code 1 if a request was lost: refused, failed or not answered in time.
    """
    from branchynet.client.find_node import find_node
    from orchestrator.runs.bench import BenchLoad, check_load

    if rate is not None and concurrency is not None:
        raise InvalidInput(f"--rate {rate:g} is an open loop and --concurrency {concurrency} a closed one; give one")
    load = BenchLoad(
        rate_per_s=rate,
        arrivals=arrivals,
        concurrency=concurrency or 1,
        requests=requests,
        seconds=SECONDS if requests is None and seconds is None else seconds,
        batch=batch,
        policy=policy,
        deadline_ms=deadline_ms,
        retry=retry,
        warm_up=warm_up,
        seed=seed,
    )
    node = asyncio.run(find_node(target, _protocol(protocol)))
    check_load(node, load)
    images = _images(node, data, seed, random=random)
    loop = f"{concurrency or 1} at a time" if rate is None else f"{rate:g} requests a second ({arrivals.value})"
    console.print(
        f"{node.role} {shown(node.target)} serves {shown(node.model)} ({node.content_hash[:12]}), asked by "
        f"{node.protocol}: {loop}, {batch} {'image' if batch == 1 else 'images'} each: {shown(images.source)}",
        soft_wrap=True,
    )
    _report(_run(node, load, images), images, json_file)


def _protocol(name: str | None) -> WireProtocol | None:
    from branchynet.client.find_node import WireProtocol

    try:
        return None if name is None else WireProtocol(name)
    except ValueError:
        raise InvalidInput(f"--protocol is {name!r}; it must be {' or '.join(WireProtocol)}") from None


def _images(node: Node, data: Path | None, seed: int, *, random: bool) -> _Images:
    """Images of the shape that *node* takes; labelled where its classes are the data set's."""
    from branchynet.data import datasets
    from branchynet.data.artifact_images import ArtifactImages

    found = datasets.load_sample()
    if data is not None and not random:
        name = datasets.name_of(node.labels) or "pictures"
        images = ArtifactImages(node.model, name, node.labels, node.input_shape, node.preprocessing, {})
        if (own := images.unlabelled(data)) is not None:
            pictures = own.some("test", len(own.digests))
            return _Images(pictures.images, np.full(len(pictures), -1), pictures.source)
        found = images.test(data)
    elif random or found.images.shape[1:] != node.input_shape:
        pixels = np.random.default_rng(seed).integers(256, size=(RANDOM_IMAGES, *node.input_shape), dtype=np.uint8)
        return _Images(pixels, np.full(RANDOM_IMAGES, -1), "random pixels")
    known = found.classes == node.labels
    return _Images(found.images, found.labels if known else np.full(len(found), -1), found.source)


def _run(node: Node, load: BenchLoad, images: _Images) -> BenchRun:
    from orchestrator.runs.bench import run_bench

    with LiveView() as view:
        return asyncio.run(
            run_bench(
                node, load, images.images, images.labels, lambda run: view.show(lambda: _table(run), lambda: _line(run))
            )
        )


def _report(run: BenchRun, images: _Images, json_file: Path | None) -> None:
    figures = {**run.figures(labelled=images.labelled), "images": images.source}
    what = "requests" if run.load.batch == 1 else f"images, {run.load.batch} in a request"
    title = f"{run.report.requests:,} {what}, {run.report.seconds:.1f} s"
    write_json(json_file, figures)
    more = [(f"failed with {status}", f"{count:,}") for status, count in figures["errors"].items()]
    print_figures(title, figures, more)
    if lines := histogram_lines(figures["histogram"]):
        console.print("\n".join(lines), soft_wrap=True)
    print_reasons(figures)
    if run.sent_late_ms > LATE_MS:
        console.print(
            f"requests left up to {run.sent_late_ms:,.0f} ms after they were due: this machine cannot send faster, and "
            "latencies have that in them",
            soft_wrap=True,
        )
    if run.interrupted:
        console.print(f"stopped early: {run.ended:,} of the {run.sent:,} requests sent had ended")
        raise typer.Exit(INTERRUPTED)
    fail_if_lost(run.report.lost)


def _cells(run: BenchRun) -> dict[str, str]:
    report = run.report
    latencies = {f"p{percent:g} ms": report.percentile_ms(percent) for percent in (50, 99)} if report.answered else {}
    return {
        "sent": f"{run.sent:,}",
        "under way": f"{run.sent - run.ended:,}",
        "answered": f"{report.answered:,}",
        "per s": f"{report.throughput_per_s:,.1f}",
        **{name: f"{value:.1f}" for name, value in latencies.items()},
        "lost": f"{report.lost:,}",
    }


def _table(run: BenchRun) -> Table:
    cells = {"s": f"{run.elapsed_s:.0f}", **_cells(run)}
    table = Table(*cells)
    for column in table.columns:
        column.justify = "right"
    table.add_row(*cells.values())
    return table


def _line(run: BenchRun) -> str:
    return ", ".join(f"{name} {value}" for name, value in _cells(run).items())
