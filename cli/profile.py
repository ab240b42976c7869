"""`branchynet profile`: what stages, messages and codecs take on this machine, for `plan`, `simulate`, `calibrate`."""

from __future__ import annotations

import asyncio
import math
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from branchynet.engine import Engine
from branchynet.errors import InvalidInput
from cli.output import ArtifactOption, DataOption, JsonOption, console, progress_bar, write_json
from cli.profile_view import node_figures, print_cuts, print_stages, stage_rows, words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from branchynet.manifest import Manifest
    from branchynet.training.datasets import Dataset
    from orchestrator.probing import Pair, Profiled

__all__ = ["CodecsOption", "codec_names", "measure_profile", "profile"]

IMAGES = 64
BATCHES = (1, 8, 32)

CodecsOption = Annotated[
    str | None, typer.Option(help="Codecs, with commas between them; `all` for those of evaluate --codecs.")
]


EdgeTarget = Annotated[
    str | None, typer.Option("--edge", metavar="HOST:PORT", help="Profile this edge, which runs already, and --cloud.")
]
CloudTarget = Annotated[
    str | None, typer.Option("--cloud", metavar="HOST:PORT", help="The cloud that --edge asks, as seen from here.")
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
    from branchynet.manifest import read_manifest
    from branchynet.models import zoo
    from branchynet.training.machine import describe_machine
    from orchestrator.measuring import write_profile

    manifest, pair = read_manifest(zoo.find(artifact)), _pair(edge, cloud, link_mbps, link_rtt_ms)
    if pair is not None and engine is not None:
        raise InvalidInput(f"--engine is {engine.value}; nodes that run already have their own")
    images = _images(manifest, data)
    profiled = measure_profile(artifact, images, codec_names(codecs), engine, pair)
    stages = stage_rows(manifest, profiled)
    print_stages(manifest.name, profiled, stages)
    print_cuts(manifest, profiled.profile)
    console.print(f"codecs: on {len(images)} images of {images.source}", soft_wrap=True)
    console.print(words_of(profiled), soft_wrap=True)
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
    console.print(f"written: {out}", soft_wrap=True)


def _pair(edge: str | None, cloud: str | None, link_mbps: float, link_rtt_ms: float) -> Pair | None:
    """The nodes to profile, if they run already; `InvalidInput` for only one of them."""
    from branchynet.decisions.timing import Link
    from orchestrator.probing import Pair

    if edge is None and cloud is None:
        return None
    if not (edge and cloud):
        raise InvalidInput(f"--edge is {edge!r} and --cloud {cloud!r}; a profile is of both, so name both or neither")
    return Pair(edge, cloud, Link(link_mbps, rtt_ms=link_rtt_ms))


def codec_names(text: str | None) -> Sequence[str]:
    """The codecs that an option names, the usual ones without it; `InvalidInput` for a name that is none."""
    from branchynet.codecs import BOTTLENECK, named_codec
    from branchynet.training.codec_study import FOR_IMAGES, FOR_MAPS, FOR_PLANS

    if text is None:
        return FOR_PLANS
    names = [*FOR_IMAGES, *FOR_MAPS] if text == "all" else text.split(",")
    for name in names:
        if name != BOTTLENECK:  # the cuts that have none go without
            named_codec(name)
    return [name for name in dict.fromkeys(names) if name not in ("raw", "fp32")]  # what there is without any


def measure_profile(
    artifact: str,
    images: Dataset,
    codecs: Sequence[str],
    engine: Engine | None = None,
    pair: Pair | None = None,
) -> Profiled:
    """Profile *artifact* on some of *images*, with a bar, as *pair* serves it; or nodes that run while it lasts."""
    from branchynet import artifact as artifacts
    from branchynet.models import zoo
    from orchestrator.measuring import FEW_REQUESTS, ROUNDS, STEPS, profile_here
    from orchestrator.probing import Effort, profile_nodes

    some = _some(images)
    effort = Effort(tuple(size for size in BATCHES if size <= len(some)), ROUNDS, FEW_REQUESTS, codecs)
    with progress_bar() as bar, tempfile.TemporaryDirectory() as logs:
        task = bar.add_task("profiling", total=len(STEPS), note="")

        def on_step(step: str) -> None:
            bar.update(task, completed=STEPS.index(step), note=step)

        if pair is None:
            return asyncio.run(profile_here(artifact, some, Path(logs), effort, engine=engine, on_step=on_step))
        manifest, network = artifacts.load_runner(zoo.find(artifact))
        return asyncio.run(profile_nodes(pair, manifest, network, some, effort, on_step=on_step))


def _images(manifest: Manifest, data: Path | None) -> Dataset:
    """Shipped images if they are of the artifact's kind, else held-out ones in *data*, else stand-ins; it says which.

    Nothing is downloaded to be timed.
    """
    import numpy as np

    from branchynet.training.assembly import held_out_images
    from branchynet.training.datasets import Dataset, load_sample

    sample = _some(load_sample())
    if manifest.dataset == sample.name:
        return sample
    if data is not None:
        return _some(held_out_images(manifest, data))
    why = f"STAND-INS for {manifest.dataset}, which --data would have; sizes of codecs differ with the images: "
    if sample.images.shape[1:] == manifest.architecture.input_shape:
        return replace(sample, source=why + sample.source)
    pixels = np.random.default_rng(0).integers(256, size=(IMAGES, *manifest.architecture.input_shape), dtype=np.uint8)
    labels = np.zeros(IMAGES, dtype=np.int64)
    return Dataset(manifest.dataset, pixels, labels, manifest.labels, "test", f"{why}random pixels")


def _some(images: Dataset) -> Dataset:
    """Up to `IMAGES` of them, always the same ones, of all classes."""
    import numpy as np

    return images.take(np.random.default_rng(0).permutation(len(images))[:IMAGES])
