"""What commands that choose a plan have in common: their options, held-out images, and times of stages and codecs."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from branchynet.errors import InvalidInput
from branchynet.network.runner import Engine
from cli.options import progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from branchynet.artifact.artifact import Artifact
    from branchynet.artifact.manifest import Manifest
    from branchynet.data.datasets import Dataset
    from branchynet.network.runner import Runner
    from branchynet.placement.serving_profile import ServingProfile
    from orchestrator.profiling.live_profile import Pair, Profiled
    from orchestrator.runs.plan_inputs import PlanInputs

__all__ = ["CodecsOption", "check_held", "codec_names", "ground_of", "held_out", "measure_profile"]


CodecsOption = Annotated[
    str | None, typer.Option(help="Codecs, with commas between them; `all` for those of `branchynet study codecs`.")
]


def codec_names(text: str | None) -> Sequence[str]:
    """The codecs that an option names, the usual ones without it; `InvalidInput` for a name that is none."""
    from branchynet.codecs import BOTTLENECK, named_codec
    from branchynet.evaluation.codec_study import FOR_IMAGES, FOR_MAPS, FOR_PLANS

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
    from branchynet.artifact.artifact import Artifact
    from orchestrator.profiling.live_profile import Effort, profile_nodes
    from orchestrator.profiling.local_profile import FEW_REQUESTS, ROUNDS, STEPS, profile_here

    some = some_of(images)
    effort = Effort(tuple(size for size in BATCHES if size <= len(some)), ROUNDS, FEW_REQUESTS, codecs)
    with progress_bar() as bar, tempfile.TemporaryDirectory() as logs:
        task = bar.add_task("profiling", total=len(STEPS), note="")

        def on_step(step: str) -> None:
            bar.update(task, completed=STEPS.index(step), note=step)

        if pair is None:
            return asyncio.run(profile_here(artifact, some, Path(logs), effort, engine=engine, on_step=on_step))
        opened = Artifact.open(artifact)
        network = opened.runner(engine=opened.reference_engine)
        return asyncio.run(profile_nodes(pair, opened, network, some, effort, on_step=on_step))


DropOption = Annotated[
    float, typer.Option(help="Percentage points of accuracy that may be lost against the final exit.", min=0, max=100)
]


HeldOption = Annotated[
    int | None, typer.Option(help="Stages that the edge may hold; the profile's unless given.", min=1)
]


ImagesOption = Annotated[int, typer.Option(help="Held-out images that plans are judged on.", min=1)]


ProfileOption = Annotated[
    Path | None,
    typer.Option(help="profile.json of `branchynet profile`; else it is measured.", exists=True, dir_okay=False),
]


def check_held(held: int | None, manifest: Manifest) -> None:
    """Raise `InvalidInput` for a number of stages that no edge with this artifact holds."""
    if held is not None and not manifest.cut <= held <= manifest.stages:
        raise InvalidInput(f"--held is {held}; it must be {manifest.cut}, the artifact's cut, to {manifest.stages}")


def held_out(artifact: Artifact, data: Path | None, count: int | None) -> Dataset:
    """The artifact's calibration images, or *count* of them drawn at random, always the same.

    Pictures in *data* without labels will do: those are used, with the final exit's answers.
    """
    import numpy as np

    from branchynet.evaluation.unlabelled import answered

    if (own := artifact.images.unlabelled(data)) is not None:
        return answered(artifact, own, count)
    whole = artifact.calibration_split(data)[1]
    if count is None or count >= len(whole):
        return whole
    return whole.take(np.sort(np.random.default_rng(0).permutation(len(whole))[:count]))


def ground_of(
    artifact: Artifact, network: Runner, dataset: Dataset, profile: ServingProfile, codecs: Sequence[str] | None
) -> PlanInputs:
    """The outcomes of *dataset* through every codec, with a bar while they are made."""
    from orchestrator.runs.plan_inputs import PlanInputs

    with progress_bar() as bar:
        cuts = {cost.cut for cost in profile.codecs}
        task = bar.add_task("judging", total=(1 + len(cuts)) * len(dataset), note="through every codec")
        return PlanInputs.of(artifact, network, dataset, profile, codecs, lambda done: bar.update(task, completed=done))


IMAGES = 64


BATCHES = (1, 8, 32)


def some_of(images: Dataset) -> Dataset:
    """Up to `IMAGES` of them, always the same ones, of all classes."""
    import numpy as np

    return images.take(np.random.default_rng(0).permutation(len(images))[:IMAGES])
