"""The plans that `branchynet plan` chooses over a grid of links and edges, and how right they are with real nodes.

python -m benchmarks.plan_grid [--artifact NAME] [--profile profile.json] [--live 12] [--requests 100] [--json FILE]
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.plan_grid.tables import live_figures, means_of, point_figures, print_grid, print_live, summary_of
from branchynet.errors import InvalidInput
from cli.options import ArtifactOption, DataOption, JsonOption, console, progress_bar, write_json
from cli.planning import (
    CodecsOption,
    DropOption,
    HeldOption,
    ImagesOption,
    ProfileOption,
    check_held,
    codec_names,
    ground_of,
    held_out,
    measure_profile,
)

if TYPE_CHECKING:
    from benchmarks.plan_grid.choices import Point
    from benchmarks.plan_grid.live import Live, Subject
    from orchestrator.runs.plan_inputs import PlanInputs

__all__ = ["app"]

LiveOption = Annotated[
    int,
    typer.Option(
        help="Measure so many of the points with real nodes on this machine, 2 or more; a minute or so for each two.",
        min=0,
    ),
]
RequestsOption = Annotated[int, typer.Option(help="With --live: requests for each plan.", min=10)]
LogsOption = Annotated[Path, typer.Option(help="With --live: folder of the nodes' logs.", file_okay=False)]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def plan_grid(
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    accuracy_drop: DropOption = 0.5,
    held: HeldOption = None,
    profile: ProfileOption = None,
    codecs: CodecsOption = None,
    images: ImagesOption = 1_000,
    live: LiveOption = 0,
    requests: RequestsOption = 100,
    logs: LogsOption = Path("out/plan-grid"),
    json_file: JsonOption = None,
) -> None:
    """Choose the fastest plan on 24 links for two edges, beside edge only and cloud only at the same accuracy.

    With --live, what was predicted is compared with real nodes over emulated links; ends with code 1 if a mean is more
    than 10 % off.
    """
    from benchmarks.plan_grid.choices import choose_over, profiles_of
    from benchmarks.plan_grid.live import TOLERANCE, Subject
    from branchynet.artifact.artifact import Artifact
    from branchynet.artifact.profile_file import read_profile

    opened = Artifact.open(artifact)
    manifest, network = opened.manifest, opened.runner(engine=opened.reference_engine)
    check_held(held, manifest)
    if live == 1 or live > 48:
        raise InvalidInput(f"--live is {live}; two points or more are measured, up to all 48, or with 0 none")
    names = None if codecs is None else codec_names(codecs)
    dataset = held_out(opened, data, images)
    times = read_profile(profile) if profile else measure_profile(artifact, dataset, codec_names(codecs)).profile
    inputs = ground_of(opened, network, dataset, replace(times, held=held or times.held), names)
    floor = inputs.floor(accuracy_drop)
    points = list(choose_over(inputs, profiles_of(inputs.profile), floor))
    print_grid(f"{manifest.name}: the edge holds {inputs.profile.held} of {manifest.stages} stages", points, inputs)
    console.print(summary_of(points, floor), soft_wrap=True)
    console.print(f"accuracy on {len(dataset):,} held-out images. {dataset.source}", soft_wrap=True)
    figures = {
        "artifact": manifest.name,
        "images": {"count": len(dataset), "source": dataset.source},
        "held": inputs.profile.held,
        "min_accuracy": floor,
        "points": [point_figures(point, inputs) for point in points],
        **means_of(points),
        "profile": asdict(inputs.profile),
    }
    lives = _measure(Subject(opened, network, dataset), inputs, points, live, requests, logs, figures)
    write_json(json_file, figures)
    if not all(abs(part.deviation) <= TOLERANCE for one in lives for part in (one.chosen, one.cloud_only) if part):
        raise typer.Exit(1)


def _measure(
    subject: Subject,
    inputs: PlanInputs,
    points: list[Point],
    count: int,
    requests: int,
    logs: Path,
    figures: dict[str, Any],
) -> list[Live]:
    """Measure *count* of *points*, print them, and add what they are to *figures*."""
    from benchmarks.plan_grid.choices import spread_over
    from benchmarks.plan_grid.live import measure_points

    if not count:
        return []
    some = spread_over(points, count)
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=requests, note=f"{count} links and edges in turn")
        lives, profiles = asyncio.run(measure_points(subject, inputs, some, requests, logs, lambda: bar.advance(task)))
    print_live(lives, requests, inputs)
    figures["live"] = [live_figures(one, inputs) for one in lives]
    figures["live_profiles"] = {str(times): asdict(profile) for times, profile in profiles.items()}
    slow, other = (profiles[times].edge.until_ms[inputs.profile.held] for times in (10, 1))
    console.print(
        "forecast: by the profile of the same minutes; exits: requests that left where the outcomes do; gain: how many "
        "times as fast as cloud only\n"
        f"the slow edge took {slow / other:.1f} times as long for its stages as the other one; logs: {logs}",
        soft_wrap=True,
    )
    return lives


if __name__ == "__main__":
    app()
