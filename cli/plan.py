"""`branchynet plan`: the best cut, thresholds and codec over a link, beside what there is without a plan."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import ArtifactOption, DataOption, JsonOption, console, progress_bar, write_json
from cli.plan_view import Answer
from cli.profile import CodecsOption, codec_names, measure_profile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from branchynet.decisions.placement import EnergyModel
    from branchynet.decisions.timing import ServingProfile
    from branchynet.engine import Runner
    from branchynet.manifest import Manifest
    from branchynet.training.datasets import Dataset
    from orchestrator.planning import Ground

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
DropOption = Annotated[
    float, typer.Option(help="Percentage points of accuracy that may be lost against the final exit.", min=0, max=100)
]
EdgeOption = Annotated[float, typer.Option(help="The edge is this many times as slow as this machine.")]
CloudOption = Annotated[float, typer.Option(help="The cloud is this many times as slow as this machine.")]
QueueOption = Annotated[float, typer.Option(help="How long an offload waits for a worker of the cloud, ms.")]
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


def plan(
    uplink_mbps: UplinkOption,
    rtt_ms: RttOption,
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    accuracy_drop: DropOption = 0.5,
    objective: Annotated[Objective, typer.Option(help="What is to be least; accuracy: most.")] = Objective.MEAN_MS,
    max_ms: Annotated[float | None, typer.Option(help="Limit of the mean latency, ms.")] = None,
    max_p95_ms: Annotated[float | None, typer.Option(help="Limit of its 95th percentile, ms.")] = None,
    max_bytes: Annotated[float | None, typer.Option(help="Limit of bytes sent per image.")] = None,
    max_joules: Annotated[float | None, typer.Option(help="Limit of the edge's energy per image, J.")] = None,
    joules_per_ms: Annotated[float | None, typer.Option(help="What an edge at work draws each ms, J.")] = None,
    joules_per_byte: Annotated[float | None, typer.Option(help="What sending a byte costs the edge, J.")] = None,
    edge_slowdown: EdgeOption = 1.0,
    cloud_slowdown: CloudOption = 1.0,
    cloud_queue_ms: QueueOption = 0.0,
    held: HeldOption = None,
    profile: ProfileOption = None,
    codecs: CodecsOption = None,
    images: ImagesOption = 1_000,
    all_images: Annotated[bool, typer.Option("--all-images", help="Judge on all held-out images.")] = False,
    plot: PlotOption = None,
    json_file: JsonOption = None,
) -> None:
    """Choose cut, thresholds and codec for a link, within limits, and print the best beside three that need no choice.

    Plans are judged by the outcomes of every cut and codec on images that were held out from training, and by the
    times of this machine. Nobody waits behind anybody else: `branchynet simulate` reckons with queues.
    """
    from branchynet import artifact as artifacts
    from branchynet.decisions.placement import Constraints
    from branchynet.decisions.timing import Link
    from branchynet.errors import InvalidInput
    from branchynet.models import zoo
    from orchestrator.planning import Wish

    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise InvalidInput(f"--plot is {str(plot)!r}; it must end in .png or .svg")
    link = Link(uplink_mbps, rtt_ms=rtt_ms)
    limits = Constraints(None, max_ms, max_p95_ms, max_bytes, max_joules)
    wish = Wish(objective.value, limits, _energy(joules_per_ms, joules_per_byte), cloud_queue_ms)
    manifest, network = artifacts.load_runner(zoo.find(artifact))
    dataset = _held_out(manifest, data, None if all_images else images)
    names = None if codecs is None else codec_names(codecs)
    times = _profile(artifact, profile, dataset, codecs).slower(edge_slowdown, cloud_slowdown)
    ground = _ground(manifest, network, dataset, _holding(times, manifest, held), names)
    final = float(ground.table.correct[-1].mean())
    floor = max(final - accuracy_drop / 100 - 1e-9, 0.0)  # both are decimals, which the difference may miss by rounding
    wish = replace(wish, constraints=replace(limits, min_accuracy=floor))
    devices = f"edge {edge_slowdown:g}x and cloud {cloud_slowdown:g}x as slow as here"
    answer = Answer.to(wish, ground, link, f"{manifest.name}, {devices}")
    answer.show()
    console.print(
        f"accuracy: on {len(dataset):,} held-out images, which the thresholds were chosen on too; the final exit alone "
        f"has {100 * final:.2f} % there. {dataset.source}",
        soft_wrap=True,
    )
    figures = answer.figures() | {"images": {"count": len(dataset), "source": dataset.source}, "final_accuracy": final}
    if plot is not None:
        figures["map"] = answer.draw(plot)
        console.print(f"picture: {plot}", soft_wrap=True)
    write_json(json_file, {"artifact": manifest.name, **figures})


def _energy(joules_per_ms: float | None, joules_per_byte: float | None) -> EnergyModel | None:
    from branchynet.decisions.placement import EnergyModel

    if joules_per_ms is None and joules_per_byte is None:
        return None
    return EnergyModel(joules_per_ms or 0.0, joules_per_byte or 0.0)


def _held_out(manifest: Manifest, data: Path | None, count: int | None) -> Dataset:
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


def _holding(profile: ServingProfile, manifest: Manifest, held: int | None) -> ServingProfile:
    """*profile* for an edge with *held* stages."""
    from branchynet.errors import InvalidInput

    if held is None:
        return profile
    if not manifest.cut <= held <= manifest.stages:
        raise InvalidInput(f"--held is {held}; it must be {manifest.cut}, the artifact's cut, to {manifest.stages}")
    return replace(profile, held=held)


def _ground(
    manifest: Manifest, network: Runner, dataset: Dataset, profile: ServingProfile, codecs: Sequence[str] | None
) -> Ground:
    from orchestrator.planning import Ground

    with progress_bar() as bar:
        cuts = {cost.cut for cost in profile.codecs}
        task = bar.add_task("judging", total=(1 + len(cuts)) * len(dataset), note="through every codec")
        return Ground.of(manifest, network, dataset, profile, codecs, lambda done: bar.update(task, completed=done))
