"""`branchynet replay`: an edge that adapts over recorded links, beside every fixed plan; simulated, or real nodes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from branchynet.errors import InvalidInput
from cli.output import DataOption, JsonOption, console, progress_bar, write_json

if TYPE_CHECKING:
    from branchynet.manifest import Manifest
    from branchynet.training.datasets import Dataset
    from orchestrator.replaying import Course, Figures, Rivals, Terms, TraceResult

__all__ = ["replay"]

PlansArgument = Annotated[
    Path, typer.Argument(help="Plans that `branchynet plan --out` wrote.", exists=True, dir_okay=False)
]
TracesArgument = Annotated[
    list[Path], typer.Argument(metavar="TRACE...", help="Recorded uplinks, or folders of them.", exists=True)
]
DeadlineOption = Annotated[
    float | None, typer.Option(help="Answers later than this are late; that of the plans unless given.", min=1)
]
LiveOption = Annotated[
    bool, typer.Option("--live", help="Send the same requests through real nodes as well, in real time, plan by plan.")
]
PlotOption = Annotated[Path | None, typer.Option(help="Draw the first of the links (.png, .svg).", dir_okay=False)]


def replay(
    plans: PlansArgument,
    traces: TracesArgument,
    artifact: Annotated[
        str | None, typer.Option("--artifact", "-a", help="Folder or name; that of the plans unless given.")
    ] = None,
    data: DataOption = None,
    deadline_ms: DeadlineOption = None,
    rate: Annotated[float, typer.Option(help="Requests a second.", min=0.001)] = 5.0,
    seconds: Annotated[float, typer.Option(help="How much of each link is replayed, at most.", min=1)] = 300.0,
    start_s: Annotated[float, typer.Option("--from", help="Where in each link to start, s.", min=0)] = 0.0,
    rtt_ms: Annotated[float, typer.Option("--rtt-ms", "--rtt", help="Round trip beside the queue, ms.", min=0)] = 40.0,
    downlink_mbps: Annotated[float, typer.Option(help="Rate back, Mbit/s.", min=0.001)] = 50.0,
    images: Annotated[int, typer.Option(help="Test images that requests draw from.", min=1)] = 2_000,
    seed: Annotated[int, typer.Option(help="Same seed, same requests.", min=0)] = 0,
    live: LiveOption = False,
    out: Annotated[Path, typer.Option(help="Folder for what --live writes.", file_okay=False)] = Path("out/replay"),
    plot: PlotOption = None,
    json_file: JsonOption = None,
) -> None:
    """Replay recorded uplinks: how an edge that adapts fares beside each plan that somebody could have fixed.

    All get the same requests. In time is an answer by the deadline that is no fallback; the best fixed plan of a link
    is chosen in hindsight. Simulated in virtual time by the code that a real edge decides with; with --live the edge
    that adapts and up to four others run as processes too, behind an emulated link that follows the recording.
    """
    from branchynet import artifact as artifacts
    from branchynet.models import zoo
    from branchynet.plan_file import read_plan_file
    from orchestrator.replaying import Rivals, Terms

    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise InvalidInput(f"--plot is {str(plot)!r}; it must end in .png or .svg")
    file = read_plan_file(plans)
    deadline_ms = deadline_ms or file.adaptation.deadline_ms
    if deadline_ms is None:
        raise InvalidInput(f"{plans} has no deadline; give --deadline-ms here or to `branchynet plan`")
    file = replace(file, adaptation=replace(file.adaptation, deadline_ms=deadline_ms))
    terms = Terms(rate, seconds, deadline_ms, rtt_ms, downlink_mbps, seed)
    courses = _courses(traces, start_s)
    manifest, network = artifacts.load_runner(zoo.find(artifact or file.artifact))
    file.check_artifact(manifest.name, manifest.content_hash)
    dataset = _images(manifest, data, images)
    with progress_bar() as bar:
        task = bar.add_task("judging", total=None, note="the images through every codec")
        rivals = Rivals.of(file, manifest, network, dataset, terms, lambda done: bar.update(task, completed=done))
    results = _simulated(rivals, courses, terms)
    _show(results, terms, "simulated")
    figures = _figures(results, terms, len(dataset), dataset.source)
    if live:
        figures["live"] = _live(rivals, courses, terms, dataset, out, results)
    if plot is not None:
        _draw(rivals, courses[0], terms, results[0], plot)
    write_json(json_file, figures)


def _courses(paths: list[Path], start_s: float) -> list[Course]:
    """The links in *paths*; in a folder, every file that is one."""
    from orchestrator.replaying import Course
    from simulations.traces import read_trace

    courses = []
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            try:
                capacity = read_trace(file)
            except InvalidInput:
                if path.is_dir():
                    continue  # notes and licences lie beside recordings
                raise
            if start_s >= capacity.period_s:
                raise InvalidInput(f"--from is {start_s:g}; {file} is {capacity.period_s:g} s long")
            courses.append(Course(file, capacity, start_s))
    if not courses:
        raise InvalidInput(f"there is no recorded link in {', '.join(map(str, paths))}")
    return courses


def _images(manifest: Manifest, data: Path | None, count: int) -> Dataset:
    """Labelled images that the network was not trained on and its plans were not chosen on."""
    import numpy as np

    from branchynet.training import datasets

    sample = datasets.load_sample()
    shipped = data is None and manifest.dataset == sample.name
    found = sample if shipped else datasets.load(manifest.dataset, "test", data, progress=True)
    return found.take(np.sort(np.random.default_rng(0).permutation(len(found))[:count]))


def _simulated(rivals: Rivals, courses: list[Course], terms: Terms) -> list[TraceResult]:
    from orchestrator.replaying import replay_simulated

    results = []
    with progress_bar() as bar:
        task = bar.add_task("simulating", total=len(courses), note="")
        for course in courses:
            bar.update(task, note=course.name)
            results.append(replay_simulated(rivals, course, terms)[0])
            bar.advance(task)
    return results


def _live(
    rivals: Rivals, courses: list[Course], terms: Terms, dataset: Dataset, out: Path, simulated: list[TraceResult]
) -> list[dict[str, Any]]:
    from orchestrator.replaying import live_names, replay_live, replay_simulated
    from simulations.records import LOST

    names = {course: live_names(result) for course, result in zip(courses, simulated, strict=True)}
    runs = sum(1 + len(chosen) for chosen in names.values())
    with progress_bar() as bar:
        task = bar.add_task("real nodes", total=runs, note="in real time")
        found = asyncio.run(
            replay_live(rivals, courses, terms, dataset, out, names.__getitem__, lambda: bar.advance(task))
        )
    results = [result for result, _ in found]
    _show(results, terms, "real nodes")
    pairs = [(result, replay_simulated(rivals, result.course, terms, names[result.course])[0]) for result in results]
    _compare(pairs)
    lost = sum(int((records.place == LOST).sum()) for _, records in found)
    console.print(f"requests lost by the edge that adapts: {lost}; logs and plan files: {out}", soft_wrap=True)
    return [{"real": real.figures(), "simulated": reckoned.figures()} for real, reckoned in pairs]


def _figures(results: list[TraceResult], terms: Terms, images: int, source: str) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "terms": asdict(terms),
        "images": {"count": images, "source": source},
        "traces": [result.figures() for result in results],
        "summary": _summary(results),
    }


def _summary(results: list[TraceResult]) -> dict[str, Any]:
    """On how many links adapting is as good as the best fixed plan, and so on."""
    as_good = [result.as_good for result in results]
    return {
        "traces": len(results),
        "as_many_in_time": sum(in_time for in_time, _ in as_good),
        "as_quick": sum(quick for _, quick in as_good),
        "as_good": sum(in_time and quick for in_time, quick in as_good),
        "costs_less_than_best": sum(result.adaptive.cost_ms < result.best.cost_ms for result in results),
        "above_worst": sum(result.above_worst for result in results),
    }


def _show(results: list[TraceResult], terms: Terms, how: str) -> None:
    table = Table(title=f"{how}: {terms.rate_per_s:g} requests a second, deadline {terms.deadline_ms:g} ms")
    table.add_column("link", overflow="fold")
    table.add_column("Mbit/s", justify="right")
    table.add_column("plan", overflow="fold")
    for heading in ("in time %", "mean ms", "p95 ms", "accuracy %", "bytes", "changes"):
        table.add_column(heading, justify="right")
    for result in results:
        rows = [("", result.adaptive), ("best: ", result.best), ("worst: ", result.worst)]
        for number, (role, figures) in enumerate(rows):
            mean = "" if number else f"{result.course.capacity.mean_mbps:.2f}"
            good = " ✓" if not number and all(result.as_good) else ""
            table.add_row("" if number else result.course.name, mean, f"{role}{figures.name}{good}", *_cells(figures))
        table.add_section()
    console.print(table)
    found = _summary(results)
    console.print(
        f"✓: as good as the fixed plan that was best in hindsight, {found['as_good']} of {found['traces']} links "
        f"(as many in time: {found['as_many_in_time']}, as quick: {found['as_quick']}); never behind the worst: "
        f"{'yes' if found['above_worst'] == found['traces'] else 'no'}"
    )


def _cells(figures: Figures) -> list[str]:
    return [
        f"{100 * figures.in_time:.2f}",
        f"{figures.mean_ms:.1f}",
        f"{figures.p95_ms:.1f}",
        f"{100 * figures.accuracy:.1f}",
        f"{figures.bytes:.0f}",
        "–" if figures.changes is None else f"{figures.changes}",
    ]


def _compare(pairs: list[tuple[TraceResult, TraceResult]]) -> None:
    """Print how far real nodes and the simulation of the same seconds are apart."""
    table = Table(title="the same seconds, through real nodes and simulated")
    for heading in ("link", "plan"):
        table.add_column(heading, overflow="fold")
    for heading in ("in time % real", "simulated", "mean ms real", "simulated", "off by"):
        table.add_column(heading, justify="right")
    for real, reckoned in pairs:
        by_name = {figures.name: figures for figures in (reckoned.adaptive, *reckoned.fixed)}
        for number, figures in enumerate((real.adaptive, *real.fixed)):
            other = by_name[figures.name]
            table.add_row(
                "" if number else real.course.name,
                figures.name,
                f"{100 * figures.in_time:.1f}",
                f"{100 * other.in_time:.1f}",
                f"{figures.mean_ms:.1f}",
                f"{other.mean_ms:.1f}",
                f"{100 * (other.mean_ms / figures.mean_ms - 1):+.1f} %",
            )
        table.add_section()
    console.print(table)


def _draw(rivals: Rivals, course: Course, terms: Terms, result: TraceResult, path: Path) -> None:
    """Draw the edge that adapts, the best fixed plan, and two that need no choice, over *course*."""
    from orchestrator.replay_picture import draw_replay
    from orchestrator.replaying import ADAPTIVE, live_names, records_of, replay_simulated

    _, done = replay_simulated(rivals, course, terms, [result.best.name])
    edges = {ADAPTIVE: done.records}
    for name in live_names(result)[:3]:
        edges[name] = records_of(rivals, course, terms, name)
    stages = rivals.file.profile.edge.stages
    title = f"{rivals.file.artifact} over {course.name}, {terms.rate_per_s:g} requests a second"
    draw_replay(course.capacity, course.start_s, edges, done.plans, stages, terms.deadline_ms, path, title)
    console.print(f"picture: {path}", soft_wrap=True)
