"""`branchynet plan`: the best cut, thresholds and codec over a link, beside what there is without a plan."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from branchynet.errors import InvalidInput
from cli.output import ArtifactOption, DataOption, JsonOption, console, progress_bar, write_json
from cli.plan_view import Answer
from cli.profile import CodecsOption, codec_names, measure_profile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from branchynet.decisions.placement import Constraints, EnergyModel
    from branchynet.decisions.timing import ServingProfile
    from branchynet.engine import Runner
    from branchynet.manifest import Manifest
    from branchynet.training.datasets import Dataset
    from orchestrator.planning import Ground

__all__ = ["check_held", "ground_of", "held_out", "plan"]


class Objective(StrEnum):
    """What the best plan has the least of; of accuracy, the most."""

    MEAN_MS = "mean_ms"
    TAIL_MS = "tail_ms"
    UPLINK_BYTES = "uplink_bytes"
    JOULES = "joules"
    ACCURACY = "accuracy"


UplinkOption = Annotated[float, typer.Option("--uplink-mbps", "--uplink", help="Rate to the cloud, Mbit/s.")]
RttOption = Annotated[float, typer.Option("--rtt-ms", "--rtt", help="Round trip to the cloud, ms.")]
DropOption = Annotated[
    float, typer.Option(help="Percentage points of accuracy that may be lost against the final exit.", min=0, max=100)
]
MsOption = Annotated[float | None, typer.Option(help="Limit of the mean latency, ms.")]
TailOption = Annotated[float | None, typer.Option("--max-p95-ms", help="Limit of its 95th percentile, ms.")]
BytesOption = Annotated[float | None, typer.Option(help="Limit of the bytes sent, per image.")]
JoulesOption = Annotated[float | None, typer.Option(help="Limit of the edge's energy, J per image.")]
PerMsOption = Annotated[float | None, typer.Option(help="What the edge draws while it is at work, J per ms.", min=0)]
PerByteOption = Annotated[float | None, typer.Option(help="What sending costs the edge, J per byte.", min=0)]
EdgeOption = Annotated[float, typer.Option(help="The edge is this many times as slow as this machine.", min=0.001)]
CloudOption = Annotated[float, typer.Option(help="The cloud is this many times as slow as this machine.", min=0.001)]
QueueOption = Annotated[float, typer.Option(help="How long an offload waits for a worker of the cloud, ms.", min=0)]
HeldOption = Annotated[
    int | None, typer.Option(help="Stages that the edge may hold; the profile's unless given.", min=1)
]
ImagesOption = Annotated[int, typer.Option(help="Held-out images that plans are judged on.", min=1)]
ProfileOption = Annotated[
    Path | None,
    typer.Option(help="profile.json of `branchynet profile`; else it is measured.", exists=True, dir_okay=False),
]
PlotOption = Annotated[
    Path | None, typer.Option(help="Draw which plan wins over which link (.png, .svg).", dir_okay=False)
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        help="Write the plans that `branchynet edge --adapt` chooses from as its link changes.", dir_okay=False
    ),
]
DeadlineOption = Annotated[
    float | None, typer.Option(help="For --out: answers later than this are to be avoided, ms.", min=0.001)
]


def plan(
    uplink_mbps: UplinkOption,
    rtt_ms: RttOption,
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    accuracy_drop: DropOption = 0.5,
    objective: Annotated[Objective, typer.Option(help="What is to be least; accuracy: most.")] = Objective.MEAN_MS,
    max_ms: MsOption = None,
    max_p95_ms: TailOption = None,
    max_bytes: BytesOption = None,
    max_joules: JoulesOption = None,
    joules_per_ms: PerMsOption = None,
    joules_per_byte: PerByteOption = None,
    edge_slowdown: EdgeOption = 1.0,
    cloud_slowdown: CloudOption = 1.0,
    cloud_queue_ms: QueueOption = 0.0,
    held: HeldOption = None,
    profile: ProfileOption = None,
    codecs: CodecsOption = None,
    images: ImagesOption = 1_000,
    all_images: Annotated[bool, typer.Option("--all-images", help="Judge on all held-out images.")] = False,
    plot: PlotOption = None,
    out: OutOption = None,
    deadline_ms: DeadlineOption = None,
    json_file: JsonOption = None,
) -> None:
    """Choose cut, thresholds and codec for a link, within limits, and print the best beside three that need no choice.

    Plans are judged by the outcomes of every cut and codec on images that were held out from training, and by the
    times of this machine. Nobody waits behind anybody else: `branchynet simulate` reckons with queues.
    """
    from branchynet import artifact as artifacts
    from branchynet.decisions.placement import Constraints
    from branchynet.decisions.timing import Link
    from branchynet.models import zoo
    from orchestrator.planning import Wish

    link = Link(uplink_mbps, rtt_ms=rtt_ms)
    limits = Constraints(None, max_ms, max_p95_ms, max_bytes, max_joules)
    _check_files(plot, out, limits)
    wish = Wish(objective.value, limits, _energy(joules_per_ms, joules_per_byte), cloud_queue_ms)
    manifest, network = artifacts.load_runner(zoo.find(artifact))
    check_held(held, manifest)
    names = None if codecs is None else codec_names(codecs)
    dataset = held_out(manifest, data, None if all_images else images)
    times = _profile(artifact, profile, dataset, codecs).slower(edge_slowdown, cloud_slowdown)
    times = times if held is None else replace(times, held=held)
    ground = ground_of(manifest, network, dataset, times, names)
    wish = replace(wish, constraints=replace(limits, min_accuracy=_floor(ground, accuracy_drop)))
    devices = f"edge {edge_slowdown:g}x and cloud {cloud_slowdown:g}x as slow as here"
    answer = Answer.to(wish, ground, link, f"{manifest.name}, {devices}")
    answer.show(dataset.source)
    figures = {"artifact": manifest.name, "images": {"count": len(dataset), "source": dataset.source}}
    figures |= answer.figures()
    if plot is not None:
        figures["map"] = answer.draw(plot)
        console.print(f"picture: {plot}", soft_wrap=True)
    if out is not None:
        _write_plans(out, manifest, answer, deadline_ms)
    write_json(json_file, figures)


def _check_files(plot: Path | None, out: Path | None, limits: Constraints) -> None:
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise InvalidInput(f"--plot is {str(plot)!r}; it must end in .png or .svg")
    if out is not None and limits.asked():
        raise InvalidInput(f"--out with a limit of {limits.asked()[0][0]}: no plan keeps to it on every link")


def check_held(held: int | None, manifest: Manifest) -> None:
    """Raise `InvalidInput` for a number of stages that no edge with this artifact holds."""
    if held is not None and not manifest.cut <= held <= manifest.stages:
        raise InvalidInput(f"--held is {held}; it must be {manifest.cut}, the artifact's cut, to {manifest.stages}")


def _write_plans(path: Path, manifest: Manifest, answer: Answer, deadline_ms: float | None) -> None:
    """Write what an edge needs to choose anew; what it could not start with is refused here."""
    from branchynet.decisions.adaptation import Adaptation, Replanner
    from branchynet.plan_file import PlanFile, write_plan_file

    floor = answer.wish.constraints.min_accuracy or 0.0
    adaptation = Adaptation(floor, answer.wish.objective, deadline_ms=deadline_ms)
    candidates, profile = answer.measures.candidates.accurate(floor), answer.ground.profile
    Replanner(candidates, profile, answer.link, adaptation, 0.0)
    write_plan_file(path, PlanFile(manifest.name, manifest.content_hash, candidates, profile, answer.link, adaptation))
    console.print(f"for branchynet edge --adapt: {path}, {len(candidates)} plans", soft_wrap=True)


def _floor(ground: Ground, drop: float) -> float:
    """The accuracy that may not be missed, *drop* percentage points below the final exit's."""
    return ground.floor(drop)


def _energy(joules_per_ms: float | None, joules_per_byte: float | None) -> EnergyModel | None:
    from branchynet.decisions.placement import EnergyModel

    if joules_per_ms is None and joules_per_byte is None:
        return None
    return EnergyModel(joules_per_ms or 0.0, joules_per_byte or 0.0)


def held_out(manifest: Manifest, data: Path | None, count: int | None) -> Dataset:
    """The artifact's calibration images, or *count* of them drawn at random, always the same."""
    import numpy as np

    from branchynet.training.assembly import held_out_images

    whole = held_out_images(manifest, data)
    if count is None or count >= len(whole):
        return whole
    return whole.take(np.sort(np.random.default_rng(0).permutation(len(whole))[:count]))


def _profile(artifact: str, path: Path | None, images: Dataset, codecs: str | None) -> ServingProfile:
    from orchestrator.measuring import read_profile

    return read_profile(path) if path else measure_profile(artifact, images, codec_names(codecs)).profile


def ground_of(
    manifest: Manifest, network: Runner, dataset: Dataset, profile: ServingProfile, codecs: Sequence[str] | None
) -> Ground:
    """The outcomes of *dataset* through every codec, with a bar while they are made."""
    from orchestrator.planning import Ground

    with progress_bar() as bar:
        cuts = {cost.cut for cost in profile.codecs}
        task = bar.add_task("judging", total=(1 + len(cuts)) * len(dataset), note="through every codec")
        return Ground.of(manifest, network, dataset, profile, codecs, lambda done: bar.update(task, completed=done))
