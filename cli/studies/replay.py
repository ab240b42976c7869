"""`branchynet study replay`: an edge that adapts over recorded links, beside every fixed plan; simulated, or live."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from branchynet.errors import InvalidInput
from cli.options import DataOption, JsonOption, console, fail_if_lost, progress_bar, write_json

if TYPE_CHECKING:
    from branchynet.artifact.artifact import Artifact
    from branchynet.artifact.plan_file import PlanFile
    from branchynet.data.datasets import Dataset
    from orchestrator.runs.adaptive_replay import Course, Figures, FixedPlans, TraceResult
    from simulations.model.scenario import Scenario

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
ColumnOption = Annotated[
    str | None, typer.Option("--trace-column", help="Column of the rates: its name, or its number where none has one.")
]
UnitOption = Annotated[
    str | None, typer.Option("--trace-unit", help="Unit of the rates where the file does not say: Mbit/s, kbit/s, …")
]
TimeUnitOption = Annotated[
    str | None, typer.Option("--trace-time-unit", help="Unit of the times where the file does not say: s, ms, …")
]
PlotOption = Annotated[Path | None, typer.Option(help="Draw the first of the links (.png, .svg).", dir_okay=False)]


def replay(
    plans: PlansArgument,
    traces: TracesArgument,
    artifact: Annotated[
        str | None, typer.Option("--artifact", "-a", help="Folder or name; that of the plans unless given.")
    ] = None,
    trace_column: ColumnOption = None,
    trace_unit: UnitOption = None,
    trace_time_unit: TimeUnitOption = None,
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
    from branchynet.artifact.artifact import Artifact
    from orchestrator.runs.adaptive_replay import FixedPlans
    from simulations.model.scenario import Limits, LinkModel, Scenario, Workload

    _check_plot(plot)
    file, deadline_ms = _plans(plans, deadline_ms)
    scenario = Scenario(
        artifact=artifact or file.artifact,
        seed=seed,
        workload=Workload(rate_per_s=rate),
        link=LinkModel(downlink_mbps=downlink_mbps, rtt_ms=rtt_ms),
        limits=Limits(offload_timeout_ms=deadline_ms),
    )
    said = {"start_s": start_s, "column": trace_column, "unit": trace_unit, "time_unit": trace_time_unit}
    courses, skipped = _courses(traces, said, scenario, seconds)
    opened = Artifact.open(scenario.artifact)
    manifest, network = opened.manifest, opened.runner(engine=opened.reference_engine)
    file.check_artifact(manifest.name, manifest.content_hash)
    dataset = _images(opened, data, images)
    with progress_bar() as bar:
        task = bar.add_task("judging", total=None, note="the images through every codec")
        fixed = FixedPlans.of(file, opened, network, dataset, scenario, lambda done: bar.update(task, completed=done))
    results = _simulated(fixed, courses)
    figures = {"scenario": scenario.model_dump(mode="json"), "seconds": seconds, **_figures(results, dataset, skipped)}
    _report(results, figures, json_file)
    lived, lost = _live(fixed, courses, dataset, out, results) if live else ({}, 0)
    write_json(json_file, figures | lived)
    if plot is not None:
        _draw(fixed, courses[0], results[0], plot)
    fail_if_lost(lost)


def _report(results: list[TraceResult], figures: dict[str, Any], json_file: Path | None) -> None:
    write_json(json_file, figures)
    _show(results, "simulated")


def _plans(path: Path, deadline_ms: float | None) -> tuple[PlanFile, float]:
    """The plans in the file at *path* with *deadline_ms*, or their own; `InvalidInput` if there is neither."""
    from branchynet.artifact.plan_file import read_plan_file

    file = read_plan_file(path)
    deadline_ms = deadline_ms or file.adaptation.deadline_ms
    if deadline_ms is None:
        raise InvalidInput(f"{path} has no deadline; give --deadline-ms here or to `branchynet plan`")
    return replace(file, adaptation=replace(file.adaptation, deadline_ms=deadline_ms)), deadline_ms


def _courses(
    paths: list[Path], said: dict[str, Any], base: Scenario, seconds: float
) -> tuple[list[Course], dict[Path, str]]:
    """*base* over each of the links in *paths*, and what in their folders is none, with the reason.

    *said*: the fields of a `Trace`, but for its file. Raises `InvalidInput` for a file that is no recorded link or
    whose units must be said, and if there is none at all.
    """
    from orchestrator.runs.adaptive_replay import Course
    from simulations.link.traces import Reading, read_recording
    from simulations.model.scenario import Trace

    reading = Reading(said["column"], said["unit"], said["time_unit"])
    courses: list[Course] = []
    skipped: dict[Path, str] = {}
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            try:
                recording = read_recording(file, reading)
            except (InvalidInput, OSError) as error:
                if not path.is_dir():
                    raise
                # Notes and licences lie beside recordings.
                skipped[file] = "a folder; name it to have it read" if file.is_dir() else str(error)
                continue
            if recording.doubt:
                raise InvalidInput(f"{file}: {recording.doubt}")
            courses.append(Course.of(Trace(trace=file, **said), recording, base, seconds))
    for line in _tell(courses, skipped):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if not courses:
        raise InvalidInput(f"there is no recorded link in {', '.join(map(str, paths))}")
    return courses, skipped


def _tell(courses: list[Course], skipped: dict[Path, str]) -> Iterator[str]:
    """What was taken of how many recordings, and which files were left out."""
    for taken, count in Counter(course.taken for course in courses).items():
        yield f"{count} of {len(courses)} links: {taken}"
    for file, reason in skipped.items():
        yield f"skipped {file}: {reason.removeprefix(str(file)).lstrip(': ')}"


def _images(artifact: Artifact, data: Path | None, count: int) -> Dataset:
    """Labelled images that the network was not trained on and its plans were not chosen on."""
    import numpy as np

    from branchynet.data.datasets import load_sample

    sample = load_sample()
    shipped = data is None and artifact.manifest.dataset == sample.name
    found = sample if shipped else artifact.images.test(data)
    return found.take(np.sort(np.random.default_rng(0).permutation(len(found))[:count]))


def _check_plot(plot: Path | None) -> None:
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise InvalidInput(f"--plot is {str(plot)!r}; it must end in .png or .svg")


def _figures(results: list[TraceResult], dataset: Dataset, skipped: dict[Path, str]) -> dict[str, Any]:
    return {
        "images": {"count": len(dataset), "source": dataset.source},
        "skipped": [{"file": str(file), "reason": reason} for file, reason in skipped.items()],
        "traces": [result.figures() for result in results],
        "summary": _summary(results),
    }


def _simulated(fixed: FixedPlans, courses: list[Course]) -> list[TraceResult]:
    from orchestrator.runs.adaptive_replay import replay_simulated

    results = []
    with progress_bar() as bar:
        task = bar.add_task("simulating", total=len(courses), note="")
        for course in courses:
            bar.update(task, note=course.name)
            results.append(replay_simulated(fixed, course)[0])
            bar.advance(task)
    return results


def _live(
    fixed: FixedPlans, courses: list[Course], dataset: Dataset, out: Path, simulated: list[TraceResult]
) -> tuple[dict[str, Any], int]:
    """Have the courses replayed by real nodes; the figures, and how many requests the edge that adapts lost."""
    from orchestrator.runs.adaptive_replay import live_names, replay_live, replay_simulated
    from simulations.model.request_records import LOST

    names = {course: live_names(result) for course, result in zip(courses, simulated, strict=True)}
    runs = sum(1 + len(chosen) for chosen in names.values())
    with progress_bar() as bar:
        task = bar.add_task("real nodes", total=runs, note="in real time")
        found = asyncio.run(replay_live(fixed, courses, dataset, out, names.__getitem__, lambda: bar.advance(task)))
    results = [result for result, _ in found]
    _show(results, "real nodes")
    pairs = [(result, replay_simulated(fixed, result.course, names[result.course])[0]) for result in results]
    _compare(pairs)
    lost = sum(int((records.place == LOST).sum()) for _, records in found)
    console.print(f"requests lost by the edge that adapts: {lost}; logs and plan files: {out}", soft_wrap=True)
    return {"live": [{"real": real.figures(), "simulated": other.figures()} for real, other in pairs]}, lost


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


def _show(results: list[TraceResult], how: str) -> None:
    course = results[0].course
    rate_per_s = course.scenario.workload.rate_per_s
    table = Table(title=f"{how}: {rate_per_s:g} requests a second, deadline {course.deadline_ms:g} ms")
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


def _draw(fixed: FixedPlans, course: Course, result: TraceResult, path: Path) -> None:
    """Draw the edge that adapts, the best fixed plan, and two that need no choice, over *course*."""
    from cli.plots.replay import draw_replay
    from orchestrator.runs.adaptive_replay import ADAPTIVE, live_names, records_of, replay_simulated

    _, done = replay_simulated(fixed, course, [result.best.name])
    edges = {ADAPTIVE: done.records}
    for name in live_names(result)[:3]:
        edges[name] = records_of(fixed, course, name)
    stages = fixed.file.profile.edge.stages
    title = f"{fixed.file.artifact} over {course.name}, {course.scenario.workload.rate_per_s:g} requests a second"
    draw_replay(course.capacity, course.start_s, edges, done.plans, stages, course.deadline_ms, path, title)
    console.print(f"plot: {path}", soft_wrap=True)
