"""`branchynet demo --soak`: an open loop while nodes come and go, and what became of each request."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from branchynet.errors import InvalidInput
from cli.options import console, write_json
from cli.tables.requests import print_figures, print_reasons

if TYPE_CHECKING:
    from branchynet.data.datasets import Dataset
    from orchestrator.nodes.attached import Attached
    from orchestrator.nodes.local import Processes
    from simulations.model.request_records import Records
    from simulations.model.scenario import Scenario

__all__ = ["soak_test"]

INTERRUPTED = 130


def soak_test(
    scenario: Scenario,
    backing: Processes | Attached,
    images: Dataset,
    rate_per_s: float,
    seconds: float,
    out: Path,
    json_file: Path | None,
) -> None:
    """Send *images* to the nodes of *scenario*; those that are started here crash on schedule.

    Prints what happens every two seconds, and the sum. Raises `typer.Exit` with 1 if a request was lost or an answer
    wrong, and `InvalidInput` for a single edge that is to crash.
    """
    from orchestrator.load.generator import DEADLINE_MS
    from orchestrator.load.soak import crashes
    from orchestrator.nodes.local import Processes
    from simulations.model.request_report import Report

    if isinstance(backing, Processes):
        if scenario.edges < 2:
            raise InvalidInput(f"edges is {scenario.edges}; while one crashes, another must answer")
        scenario = scenario.replaced(faults=crashes(seconds))
        console.print(f"starting 1 cloud, {scenario.edges} edges and {scenario.edges} links …")
    try:
        targets, records = asyncio.run(_run(scenario, backing, images, rate_per_s, seconds))
    except asyncio.CancelledError:  # a second Ctrl-C does not wait for the requests under way
        raise typer.Exit(INTERRUPTED) from None
    report = Report.of(records, DEADLINE_MS)
    figures = {"rate_per_s": rate_per_s, **report.figures(), "by_edge": _by_edge(targets, records)}
    for path in (out / "soak.json", json_file):
        write_json(path, figures)
    print_figures(f"{report.requests:,} requests in {report.seconds:.0f} s", figures)
    if not report.flawless:
        print_reasons(figures)
        console.print(f"requests lost: {report.lost}, answers wrong: {report.wrong}")
        raise typer.Exit(1)
    console.print("no request was lost, no answer was wrong")


def _by_edge(targets: Sequence[str], records: Records) -> dict[str, int]:
    """Answers by the edge that returned them."""
    from simulations.model.request_records import LOST

    numbers, counts = np.unique(records.edge[records.place != LOST], return_counts=True)
    return {targets[number]: int(count) for number, count in zip(numbers, counts, strict=True)}


async def _run(
    scenario: Scenario, backing: Processes | Attached, images: Dataset, rate_per_s: float, seconds: float
) -> tuple[Sequence[str], Records]:
    """Load the edges for *seconds*, and for as long as the scenario's faults last."""
    from orchestrator.load.soak import expect, run_soak
    from orchestrator.load.stopping import stop_on_signal
    from orchestrator.nodes.build import build, run_faults

    async with build(scenario, backing) as fleet:
        expected = await expect(fleet.targets, images.images)
        with stop_on_signal() as stop:
            console.print(f"sending {rate_per_s:g} images/s; Ctrl-C ends it and prints the sum")
            faults = run_faults(fleet, on_event=lambda event: console.print(f"  ──►   {event}"))
            course = asyncio.gather(faults, asyncio.sleep(seconds))
            course.add_done_callback(lambda _: stop.set())
            records = await run_soak(fleet.targets, images, expected, rate_per_s, stop, on_news=_print_news)
            if course.done():
                course.result()
            course.cancel()
            await asyncio.gather(course, return_exceptions=True)
        return fleet.targets, records


def _print_news(seconds: float, sent: int, records: Records) -> None:
    from simulations.model.request_report import Report

    report = Report(math.inf)
    report.add(records)
    troubles = Counter(retried=report.retried, wrong=report.wrong, lost=report.lost)
    parts = [f"{place} {count}" for place, count in report.by_place().items() if count]
    parts += [f"{count} {what}" for what, count in troubles.items() if count]
    console.print(f"{seconds:4.0f} s  {sent} sent: {', '.join(parts)}")
