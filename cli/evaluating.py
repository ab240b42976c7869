"""The steps of `branchynet evaluate` for one artifact: score, time, print, draw, record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchynet.engine import Engine
from cli.evaluation_tables import print_evaluation
from cli.output import console, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress

    from branchynet.decisions.exits import ExitRule
    from branchynet.manifest import Manifest
    from branchynet.training.datasets import Dataset
    from branchynet.training.evaluation import Evaluated
    from branchynet.training.timings import Timings
    from branchynet.training.yardsticks import Yardstick

__all__ = ["EngineChoice", "Measuring", "evaluate_one"]


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

    def choice(self, manifest: Manifest) -> EngineChoice:
        """The engine that was asked for, else the one that the artifact was made for."""
        return self.engine or (EngineChoice.ONNX if manifest.exported else EngineChoice.EAGER)

    def engines(self, manifest: Manifest) -> list[Engine]:
        """The engines that are timed."""
        choice = self.choice(manifest)
        if choice is EngineChoice.BEST:
            return [Engine.ONNX] if manifest.exported else list(Engine)
        return [Engine(choice.value)]

    def test_images(self, manifest: Manifest, *, sample: bool = False) -> Dataset:
        """The test split of the artifact's data set, or the shipped *sample* of it; `InvalidInput` if it has none."""
        from branchynet.errors import InvalidInput
        from branchynet.training import datasets

        if not sample:
            return datasets.load(manifest.dataset, "test", self.data, progress=True)
        shipped = datasets.load_sample()
        if shipped.name != manifest.dataset:
            raise InvalidInput(f"the shipped sample is {shipped.name}, {manifest.name} is for {manifest.dataset}")
        return shipped

    def score(self, name: str, dataset: Dataset, bar: Progress) -> Evaluated:
        """Every exit and the plain trunk on *dataset*, with all threads."""
        from branchynet.training.evaluation import score

        task = bar.add_task(f"scoring {name}", total=2 * len(dataset), note="")
        return score(name, dataset, lambda done: bar.update(task, completed=done))

    def time(
        self,
        evaluated: Evaluated,
        rules: Mapping[str, ExitRule],
        yardsticks: list[Yardstick],
        dataset: Dataset,
        bar: Progress,
        *,
        by_exit: bool = False,
    ) -> Timings:
        """Time everything in turn on some images of *dataset*, drawn at random, with one thread."""
        import numpy as np

        from branchynet.training.comparison import measure_timings

        chosen = np.random.default_rng(0).permutation(len(dataset))[: self.timing_images]
        engines = self.engines(evaluated.manifest)
        task = bar.add_task("timing", total=self.passes * len(engines) * len(chosen), note="one thread, batch 1")
        return measure_timings(
            evaluated,
            rules,
            yardsticks,
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


def evaluate_one(
    name: str, measuring: Measuring, *, sample: bool, given: Mapping[str, str], plot: Path | None, record: bool
) -> dict[str, Any]:
    """Evaluate the artifact *name* beside its yard-sticks (*given* ones first), and print, draw and record it."""
    from branchynet.manifest import read_manifest
    from branchynet.models import zoo
    from branchynet.training.comparison import compare
    from branchynet.training.machine import describe_machine

    folder = zoo.find(name)
    manifest = read_manifest(folder)
    engine = measuring.choice(manifest)
    dataset = measuring.test_images(manifest, sample=sample)
    with progress_bar() as bar:
        evaluated = measuring.score(name, dataset, bar)
        yardsticks, left_out = _load_yardsticks(evaluated, dataset, given, measuring.data, bar)
        rules = {"early_exit": manifest.rule}
        timings = measuring.time(evaluated, rules, yardsticks, dataset, bar, by_exit=plot is not None)
    figures = {
        "artifact": manifest.name,
        "dataset": dataset.name,
        "images": len(dataset),
        "command": measuring.command(name, engine, given),
        "engine": engine.value,
        "machine": describe_machine(),
        "timing_images": min(measuring.timing_images, len(dataset)),
        "passes": measuring.passes,
        **compare(evaluated, yardsticks, timings),
    }
    print_evaluation(figures, dataset.source, left_out)
    if plot is not None:
        from branchynet.training.evaluation_pictures import draw_evaluation

        draw_evaluation(evaluated, figures, plot)
        console.print(f"picture: {plot}", soft_wrap=True)
    if record:
        from branchynet.training import records

        records.record(folder, figures, {**manifest.yardsticks, **given})
        console.print(f"recorded in {folder}", soft_wrap=True)
    return figures


def _load_yardsticks(
    evaluated: Evaluated, dataset: Dataset, given: Mapping[str, str], data: Path | None, bar: Progress
) -> tuple[list[Yardstick], dict[str, str]]:
    """The yard-sticks, and why one is left out that the manifest names; one that was asked for must be there."""
    from branchynet.errors import Unavailable, UnknownModel
    from branchynet.training.yardsticks import cascade_yardstick, static_yardstick

    found: list[Yardstick] = []
    left_out: dict[str, str] = {}
    for kind, name in {**evaluated.manifest.yardsticks, **given}.items():
        task = bar.add_task(f"scoring {name}", total=None, note=kind)
        try:
            if kind == "static":
                found.append(static_yardstick(name, evaluated, dataset))
            else:
                found.append(cascade_yardstick(name, evaluated, dataset, data))
        except (UnknownModel, Unavailable) as error:
            if kind in given:
                raise
            left_out[kind] = str(error)
        bar.update(task, total=1, completed=1)
    return found, left_out
