"""`branchynet demo --steady`: a steady load while nodes come and go, and what became of each request."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from branchynet.errors import InvalidInput
from cli.output import console, write_json

if TYPE_CHECKING:
    from orchestrator.local import LocalTopology, Topology
    from orchestrator.steady import Load, Tally

__all__ = ["steady_load"]


def steady_load(
    where: Topology | Sequence[str],
    images: NDArray[np.uint8],
    rate_per_s: float,
    seconds: float,
    out: Path,
    json_file: Path | None,
) -> None:
    """Send *images* to nodes started from a topology, which crash on schedule, or to the edges at given targets.

    Prints what happens every two seconds, and the sum. Raises `typer.Exit` with 1 if a request was lost or an answer
    wrong, and `InvalidInput` for a topology with a single edge.
    """
    from orchestrator.local import Topology
    from orchestrator.steady import Load, figures

    if isinstance(where, Topology) and where.edges < 2:
        raise InvalidInput(f"edges is {where.edges}; while one crashes, another must answer")
    load = Load(rate_per_s, seconds)
    tally = asyncio.run(_run(where, images, load, out / "logs"))
    _print(tally)
    for path in (out / "steady.json", json_file):
        write_json(path, figures(tally, load))
    for reason, count in (tally.lost + tally.wrong).most_common():
        console.print(f"{count} × {reason}")
    if not tally.flawless:
        console.print(f"requests lost: {tally.lost.total()}, answers wrong: {tally.wrong.total()}")
        raise typer.Exit(1)
    console.print("no request was lost, no answer was wrong")


async def _run(where: Topology | Sequence[str], images: NDArray[np.uint8], load: Load, logs: Path) -> Tally:
    from orchestrator.local import LocalTopology, Topology

    if not isinstance(where, Topology):
        return await _send(where, images, load)
    console.print(f"starting 1 cloud, {where.edges} edges and {where.edges} links …")
    async with LocalTopology.running(where, logs) as running:
        return await _send(running.targets, images, load, running)


async def _send(
    targets: Sequence[str], images: NDArray[np.uint8], load: Load, crashing: LocalTopology | None = None
) -> Tally:
    """Load the edges at *targets*; with nodes of our own, for as long as these crash and come back."""
    from orchestrator.steady import crash_and_restart, expect, run_steady

    expected = await expect(targets, images)
    with _stop_on_signal() as stop:
        console.print(f"sending {load.rate_per_s:g} images/s; Ctrl-C ends it and prints the sum")
        if crashing is None:
            return await run_steady(targets, images, expected, load, stop, on_news=_tell)
        crashes = asyncio.create_task(
            crash_and_restart(crashing, load.seconds, lambda text: console.print(f"  ──►   {text}"))
        )
        crashes.add_done_callback(lambda _: stop.set())
        tally = await run_steady(targets, images, expected, replace(load, seconds=math.inf), stop, on_news=_tell)
        if crashes.done():
            crashes.result()
        crashes.cancel()
        await asyncio.gather(crashes, return_exceptions=True)
        return tally


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C and SIGTERM set while the block runs."""
    loop, stop, signals = asyncio.get_running_loop(), asyncio.Event(), (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _tell(seconds: float, tally: Tally) -> None:
    answers = [f"{place} {count}" for place, count in sorted(tally.by_place.items())]
    troubles = {"tried again": tally.tried_again, "wrong": tally.wrong.total(), "lost": tally.lost.total()}
    parts = answers + [f"{count} {what}" for what, count in troubles.items() if count]
    console.print(f"{seconds:4.0f} s  {tally.sent} sent: {', '.join(parts)}")


def _print(tally: Tally) -> None:
    table = Table(title=f"{tally.sent:,} requests in {tally.seconds:.0f} s")
    cells = {
        "answered": f"{tally.answered:,}",
        **{place: f"{tally.by_place[place]:,}" for place in ("edge", "cloud", "fallback")},
        "tried again": f"{tally.tried_again:,}",
        "wrong": f"{tally.wrong.total():,}",
        "lost": f"{tally.lost.total():,}",
        **{f"p{percent} ms": f"{tally.percentile_ms(percent):.1f}" for percent in (50, 99)},
        "longest ms": f"{tally.percentile_ms(100):.1f}",
    }
    for column in cells:
        table.add_column(column, justify="right")
    table.add_row(*cells.values())
    console.print(table)
