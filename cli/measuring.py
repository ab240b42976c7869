"""What several commands measure before they answer: outcomes, stage times, and networks timed beside each other."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from branchynet.network.runner import Engine
from cli.options import progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress

    from branchynet.artifact.artifact import Artifact
    from branchynet.data.datasets import Dataset
    from branchynet.evaluation.baselines import Baseline
    from branchynet.evaluation.evaluation import Evaluated
    from branchynet.evaluation.timings import Timings
    from branchynet.exits.rules import ExitRule
    from simulations.model.scenario import Scenario
    from simulations.model.simulator import Measured

__all__ = ["PROFILE", "EngineChoice", "MeasuredProfileOption", "Measuring", "labelled_images", "measure"]

# Where the times of a run are kept, for --profile of a later one.
PROFILE = "profile.json"
MeasuredProfileOption = Annotated[
    Path | None,
    typer.Option(help="The profile.json of an earlier run; else times are measured.", exists=True, dir_okay=False),
]


def labelled_images(artifact: str, data: Path | None) -> Dataset:
    """The shipped images if they are of the artifact's kind and no folder is given, else its test set."""
    from branchynet.artifact.artifact import Artifact
    from branchynet.data.datasets import load_sample

    opened, sample = Artifact.open(artifact), load_sample()
    return sample if data is None and opened.manifest.dataset == sample.name else opened.images.test(data)


def measure(scenario: Scenario, dataset: Dataset, profile: Path | None, folder: Path) -> Measured:
    """Outcomes on *dataset* as *scenario* needs them, and the times in *profile* or of real nodes, also in *folder*."""
    from branchynet.artifact.profile_file import read_profile, write_profile
    from orchestrator.profiling.local_profile import STEPS
    from orchestrator.profiling.local_profile import measure as measure_here

    given = read_profile(profile) if profile else None
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=1 if given else len(STEPS), note="")

        def on_step(step: str) -> None:
            bar.update(task, completed=STEPS.index(step), note=step)

        measured = asyncio.run(measure_here(scenario, dataset, folder / "logs", profile=given, on_step=on_step))
    write_profile(folder / PROFILE, measured.profile)
    return measured


class EngineChoice(StrEnum):
    """What runs the layers while they are timed."""

    EAGER = "eager"
    ONNX = "onnx"
    BEST = "best"


@dataclass(frozen=True)
class Measuring:
    """How much is timed, by which engine, and where the data lie."""

    engine: EngineChoice | None
    timing_images: int
    passes: int
    data: Path | None

    def choice(self, artifact: Artifact) -> EngineChoice:
        """The engine that was asked for, else the one that the artifact's recorded results were measured on."""
        return self.engine or EngineChoice(artifact.reference_engine.value)

    def engines(self, artifact: Artifact) -> list[Engine]:
        """The engines that are timed."""
        choice = self.choice(artifact)
        if choice is EngineChoice.BEST:
            return list(artifact.engines)
        return [Engine(choice.value)]

    def test_images(self, artifact: Artifact, *, sample: bool = False) -> Dataset:
        """The artifact's test images, or the shipped *sample* of them; `InvalidInput` if there is none."""
        from branchynet.data.datasets import load_sample
        from branchynet.errors import InvalidInput

        if not sample:
            return artifact.images.test(self.data)
        manifest, shipped = artifact.manifest, load_sample()
        if shipped.name != manifest.dataset:
            raise InvalidInput(f"the shipped sample is {shipped.name}, {manifest.name} is for {manifest.dataset}")
        return shipped

    def score(self, artifact: Artifact, dataset: Dataset, bar: Progress) -> Evaluated:
        """Every exit and the plain trunk on *dataset*, with all threads."""
        from branchynet.evaluation.evaluation import score

        task = bar.add_task(f"scoring {artifact.manifest.name}", total=2 * len(dataset), note="")
        return score(artifact, dataset, lambda done: bar.update(task, completed=done))

    def time(
        self,
        evaluated: Evaluated,
        rules: Mapping[str, ExitRule],
        baselines: list[Baseline],
        dataset: Dataset,
        bar: Progress,
        *,
        by_exit: bool = False,
    ) -> Timings:
        """Time everything in turn on some images of *dataset*, drawn at random, with one thread."""
        import numpy as np

        from branchynet.evaluation.compare import measure_timings

        chosen = np.random.default_rng(0).permutation(len(dataset))[: self.timing_images]
        engines = self.engines(evaluated.artifact)
        task = bar.add_task("timing", total=self.passes * len(engines) * len(chosen), note="one thread, batch 1")
        return measure_timings(
            evaluated,
            rules,
            baselines,
            dataset.images[chosen],
            self.passes,
            engines,
            by_exit=by_exit,
            on_image=lambda done: bar.update(task, completed=done),
        )

    def command(self, name: str, engine: EngineChoice, given: Mapping[str, str]) -> str:
        """The command line that measures *name* like this again."""
        words = ["branchynet", "evaluate", name, f"--engine={engine}"]
        words += [f"--timing-images={self.timing_images}", f"--passes={self.passes}"]
        return shlex.join([*words, *(f"--{kind}={small}" for kind, small in given.items())])
