"""`branchynet plan`: the best cut, thresholds and codec over a link, beside what there is without a plan."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from branchynet.errors import InvalidInput
from cli.options import ArtifactOption, DataOption, JsonOption, console, printing_after, write_json
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
from cli.tables.plan import Answer

if TYPE_CHECKING:
    from branchynet.artifact.manifest import Manifest
    from branchynet.data.datasets import Dataset
    from branchynet.placement.optimise import Constraints, EnergyModel
    from branchynet.placement.serving_profile import ServingProfile
    from orchestrator.runs.plan_inputs import PlanInputs

__all__ = ["plan"]


class Objective(StrEnum):
    """What the best plan has the least of; of accuracy, the most."""

    MEAN_MS = "mean_ms"
    TAIL_MS = "tail_ms"
    UPLINK_BYTES = "uplink_bytes"
    JOULES = "joules"
    ACCURACY = "accuracy"


UplinkOption = Annotated[float, typer.Option("--uplink-mbps", "--uplink", help="Rate to the cloud, Mbit/s.")]
RttOption = Annotated[float, typer.Option("--rtt-ms", "--rtt", help="Round trip to the cloud, ms.")]
MsOption = Annotated[float | None, typer.Option(help="Limit of the mean latency, ms.")]
TailOption = Annotated[float | None, typer.Option("--max-p95-ms", help="Limit of its 95th percentile, ms.")]
BytesOption = Annotated[float | None, typer.Option(help="Limit of the bytes sent, per image.")]
JoulesOption = Annotated[float | None, typer.Option(help="Limit of the edge's energy, J per image.")]
PerMsOption = Annotated[float | None, typer.Option(help="What the edge draws while it is at work, J per ms.", min=0)]
PerByteOption = Annotated[float | None, typer.Option(help="What sending costs the edge, J per byte.", min=0)]
EdgeOption = Annotated[float, typer.Option(help="The edge is this many times as slow as this machine.", min=0.001)]
CloudOption = Annotated[float, typer.Option(help="The cloud is this many times as slow as this machine.", min=0.001)]
QueueOption = Annotated[float, typer.Option(help="How long an offload waits for a worker of the cloud, ms.", min=0)]
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
    from branchynet.artifact.artifact import Artifact
    from branchynet.placement.optimise import Constraints
    from branchynet.placement.serving_profile import Link
    from orchestrator.runs.plan_inputs import PlanObjective

    link = Link(uplink_mbps, rtt_ms=rtt_ms)
    limits = Constraints(None, max_ms, max_p95_ms, max_bytes, max_joules)
    _check_files(plot, out, limits)
    wanted = PlanObjective(objective.value, limits, _energy(joules_per_ms, joules_per_byte), cloud_queue_ms)
    opened = Artifact.open(artifact)
    manifest, network = opened.manifest, opened.runner(engine=opened.reference_engine)
    check_held(held, manifest)
    names = None if codecs is None else codec_names(codecs)
    dataset = held_out(opened, data, None if all_images else images)
    times = _profile(artifact, profile, dataset, codecs).slower(edge_slowdown, cloud_slowdown)
    times = times if held is None else replace(times, held=held)
    inputs = ground_of(opened, network, dataset, times, names)
    wanted = replace(wanted, constraints=replace(limits, min_accuracy=_floor(inputs, accuracy_drop)))
    devices = f"edge {edge_slowdown:g}x and cloud {cloud_slowdown:g}x as slow as here"
    answer = Answer.to(wanted, inputs, link, f"{manifest.name}, {devices}")
    with printing_after(lambda: answer.show(dataset.source)):
        _write_figures(answer, manifest.name, dataset, plot, json_file)
        plans = 0 if out is None else _write_plans(out, manifest, answer, deadline_ms)
    if plot is not None:
        console.print(f"plot: {plot}", soft_wrap=True)
    if out is not None:
        console.print(f"for branchynet edge --adapt: {out}, {plans} plans", soft_wrap=True)


def _write_figures(answer: Answer, name: str, dataset: Dataset, plot: Path | None, json_file: Path | None) -> None:
    figures = {"artifact": name, "images": {"count": len(dataset), "source": dataset.source}, **answer.figures()}
    write_json(json_file, figures)
    if plot is not None:
        write_json(json_file, {**figures, "map": answer.draw(plot)})


def _check_files(plot: Path | None, out: Path | None, limits: Constraints) -> None:
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise InvalidInput(f"--plot is {str(plot)!r}; it must end in .png or .svg")
    if out is not None and limits.asked():
        raise InvalidInput(f"--out with a limit of {limits.asked()[0][0]}: no plan keeps to it on every link")


def _write_plans(path: Path, manifest: Manifest, answer: Answer, deadline_ms: float | None) -> int:
    """Write what an edge needs to choose anew, so many plans; what it could not start with is refused here."""
    from branchynet.artifact.plan_file import PlanFile, write_plan_file
    from branchynet.placement.replanner import Adaptation, Replanner

    floor = answer.objective.constraints.min_accuracy or 0.0
    adaptation = Adaptation(floor, answer.objective.measure, deadline_ms=deadline_ms)
    candidates, profile = answer.measures.candidates.accurate(floor), answer.inputs.profile
    Replanner(candidates, profile, answer.link, adaptation, 0.0)
    write_plan_file(path, PlanFile(manifest.name, manifest.content_hash, candidates, profile, answer.link, adaptation))
    return len(candidates)


def _floor(inputs: PlanInputs, drop: float) -> float:
    """The accuracy that may not be missed, *drop* percentage points below the final exit's."""
    return inputs.floor(drop)


def _energy(joules_per_ms: float | None, joules_per_byte: float | None) -> EnergyModel | None:
    from branchynet.placement.optimise import EnergyModel

    if joules_per_ms is None and joules_per_byte is None:
        return None
    return EnergyModel(joules_per_ms or 0.0, joules_per_byte or 0.0)


def _profile(artifact: str, path: Path | None, images: Dataset, codecs: str | None) -> ServingProfile:
    from branchynet.artifact.profile_file import read_profile

    return read_profile(path) if path else measure_profile(artifact, images, codec_names(codecs)).profile
