"""`branchynet profile`: what stages, messages and codecs take on this machine, for `plan`, `simulate`, `calibrate`."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from branchynet.errors import InvalidInput
from branchynet.network.runner import Engine
from cli.options import ArtifactOption, DataOption, JsonOption, checked_address, console, write_json
from cli.planning import IMAGES, CodecsOption, codec_names, measure_profile, some_of
from cli.tables.profile import node_figures, print_cuts, print_stages, stage_rows, words_of

if TYPE_CHECKING:
    from branchynet.artifact.artifact import Artifact
    from branchynet.data.datasets import Dataset
    from orchestrator.profiling.live_profile import Pair

__all__ = ["profile"]

EdgeTarget = Annotated[
    str | None,
    typer.Option(
        "--edge",
        metavar="HOST:PORT",
        help="Profile this edge, which runs already, and --cloud.",
        callback=checked_address,
    ),
]
CloudTarget = Annotated[
    str | None,
    typer.Option(
        "--cloud",
        metavar="HOST:PORT",
        help="The cloud that --edge asks, as seen from here.",
        callback=checked_address,
    ),
]
LinkRate = Annotated[float, typer.Option(help="With --edge: its link's known rate to the cloud, Mbit/s.")]
LinkRtt = Annotated[float, typer.Option(help="With --edge: its link's known round trip, ms; no part of the profile.")]


def profile(
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    engine: Annotated[
        Engine | None, typer.Option(help="What runs the layers in the nodes started here. Default: eager if it can.")
    ] = None,
    codecs: CodecsOption = None,
    edge: EdgeTarget = None,
    cloud: CloudTarget = None,
    link_mbps: LinkRate = math.inf,
    link_rtt_ms: LinkRtt = 0.0,
    out: Annotated[Path, typer.Option(help="Where the profile is written.", dir_okay=False)] = Path("out/profile.json"),
    json_file: JsonOption = None,
) -> None:
    """Have an edge and a cloud time their stages and codecs, and send real requests through both; takes seconds.

    They are started on this machine, or run already somewhere (--edge, --cloud) with --control. OUT is what --profile
    of plan, simulate and calibrate read. So is the file of --json, which holds all else that is printed too.
    """
    from branchynet.artifact.artifact import Artifact
    from branchynet.artifact.profile_file import write_profile
    from branchynet.evaluation.machine import describe_machine

    opened, pair = Artifact.open(artifact), _pair(edge, cloud, link_mbps, link_rtt_ms)
    if pair is not None and engine is not None:
        raise InvalidInput(f"--engine is {engine.value}; nodes that run already have their own")
    manifest, images = opened.manifest, _images(opened, data)
    profiled = measure_profile(artifact, images, codec_names(codecs), engine, pair)
    stages = stage_rows(manifest, profiled)
    write_profile(out, profiled.profile)
    figures = {
        "artifact": manifest.name,
        "machine": describe_machine(),
        "images": {"count": len(images), "source": images.source},
        "stages": stages,
        "nodes": node_figures(profiled),
        "edge_factor": profiled.edge_factor,
        "cloud_factor": profiled.cloud_factor,
    }
    write_json(json_file, {**asdict(profiled.profile), **figures})
    print_stages(manifest.name, profiled, stages)
    print_cuts(manifest, profiled.profile)
    console.print(f"codecs: on {len(images)} images of {images.source}", soft_wrap=True)
    console.print(words_of(profiled), soft_wrap=True)
    console.print(f"written: {out}", soft_wrap=True)


def _pair(edge: str | None, cloud: str | None, link_mbps: float, link_rtt_ms: float) -> Pair | None:
    """The nodes to profile, if they run already; `InvalidInput` for only one of them."""
    from branchynet.placement.serving_profile import Link
    from orchestrator.profiling.live_profile import Pair

    if edge is None and cloud is None:
        return None
    if not (edge and cloud):
        raise InvalidInput(f"--edge is {edge!r} and --cloud {cloud!r}; a profile is of both, so name both or neither")
    return Pair(edge, cloud, Link(link_mbps, rtt_ms=link_rtt_ms))


def _images(artifact: Artifact, data: Path | None) -> Dataset:
    """Pictures in *data*, labelled or not; else shipped images if they are of the artifact's kind, else held-out ones.

    Without any, stand-ins for a known data set; it says which. Nothing is downloaded to be timed.
    """
    import numpy as np

    from branchynet.data.datasets import Dataset, load_sample

    manifest, sample = artifact.manifest, some_of(load_sample())
    if not artifact.images.known or artifact.images.has_own(data):
        return artifact.images.own(data).some("test", IMAGES)
    if manifest.dataset == sample.name:
        return sample
    if data is not None:
        return some_of(artifact.calibration_split(data)[1])
    why = f"STAND-INS for {manifest.dataset}, which --data would have; sizes of codecs differ with the images: "
    if sample.images.shape[1:] == manifest.architecture.input_shape:
        return replace(sample, source=why + sample.source)
    pixels = np.random.default_rng(0).integers(256, size=(IMAGES, *manifest.architecture.input_shape), dtype=np.uint8)
    labels = np.zeros(IMAGES, dtype=np.int64)
    return Dataset(manifest.dataset, pixels, labels, manifest.labels, "test", f"{why}random pixels")
