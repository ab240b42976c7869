"""`branchynet plan-grid`: the plans that `plan` chooses over a grid of links and edges, and how right they are live."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from branchynet.errors import InvalidInput
from cli.output import ArtifactOption, DataOption, JsonOption, console, progress_bar, write_json
from cli.plan import DropOption, HeldOption, ImagesOption, ProfileOption, check_held, ground_of, held_out
from cli.plan_grid_view import live_figures, means_of, point_figures, print_grid, print_live, summary_of
from cli.profile import CodecsOption, codec_names, measure_profile

if TYPE_CHECKING:
    from orchestrator.plan_grid import Point
    from orchestrator.plan_live import Live, Subject
    from orchestrator.planning import Ground

__all__ = ["plan_grid"]

LiveOption = Annotated[
    int,
    typer.Option(
        help="Measure so many of the points with real nodes on this machine, 2 or more; a minute or so for each two.",
        min=0,
    ),
]
RequestsOption = Annotated[int, typer.Option(help="With --live: requests for each plan.", min=10)]
LogsOption = Annotated[Path, typer.Option(help="With --live: folder of the nodes' logs.", file_okay=False)]


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
    from branchynet import artifact as artifacts
    from branchynet.models import zoo
    from orchestrator.measuring import read_profile
    from orchestrator.plan_grid import choose_over, profiles_of
    from orchestrator.plan_live import TOLERANCE, Subject

    manifest, network = artifacts.load_runner(zoo.find(artifact))
    check_held(held, manifest)
    if live == 1 or live > 48:
        raise InvalidInput(f"--live is {live}; two points or more are measured, up to all 48, or with 0 none")
    names = None if codecs is None else codec_names(codecs)
    dataset = held_out(manifest, data, images)
    times = read_profile(profile) if profile else measure_profile(artifact, dataset, codec_names(codecs)).profile
    ground = ground_of(manifest, network, dataset, replace(times, held=held or times.held), names)
    floor = ground.floor(accuracy_drop)
    points = list(choose_over(ground, profiles_of(ground.profile), floor))
    print_grid(f"{manifest.name}: the edge holds {ground.profile.held} of {manifest.stages} stages", points, ground)
    console.print(summary_of(points, floor), soft_wrap=True)
    console.print(f"accuracy on {len(dataset):,} held-out images. {dataset.source}", soft_wrap=True)
    figures = {
        "artifact": manifest.name,
        "images": {"count": len(dataset), "source": dataset.source},
        "held": ground.profile.held,
        "min_accuracy": floor,
        "points": [point_figures(point, ground) for point in points],
        **means_of(points),
        "profile": asdict(ground.profile),
    }
    lives = _measure(Subject(artifact, manifest, network, dataset), ground, points, live, requests, logs, figures)
    write_json(json_file, figures)
    if not all(abs(part.deviation) <= TOLERANCE for one in lives for part in (one.chosen, one.cloud_only) if part):
        raise typer.Exit(1)


def _measure(
    subject: Subject,
    ground: Ground,
    points: list[Point],
    count: int,
    requests: int,
    logs: Path,
    figures: dict[str, Any],
) -> list[Live]:
    """Measure *count* of *points*, print them, and add what they are to *figures*."""
    from orchestrator.plan_grid import spread_over
    from orchestrator.plan_live import measure_points

    if not count:
        return []
    some = spread_over(points, count)
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=requests, note=f"{count} links and edges in turn")
        lives, profiles = asyncio.run(measure_points(subject, ground, some, requests, logs, lambda: bar.advance(task)))
    print_live(lives, requests, ground)
    figures["live"] = [live_figures(one, ground) for one in lives]
    figures["live_profiles"] = {str(times): asdict(profile) for times, profile in profiles.items()}
    weak, other = (profiles[times].edge.until_ms[ground.profile.held] for times in (10, 1))
    console.print(
        "told: by the profile of the same minutes; exits: requests that left where the outcomes say; gain: how many "
        "times as fast as cloud only\n"
        f"the weak edge took {weak / other:.1f} times as long for its stages as the other one; logs: {logs}",
        soft_wrap=True,
    )
    return lives
