"""What processes that share a batch gain over threads, in epochs of a few batches of a recipe, both in turn.

python benchmarks/training_team.py --recipe resnet110-cifar10
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from branchynet.data.datasets import Dataset
from branchynet.training.checkpoints import LOG
from branchynet.training.data_parallel import ALONE, Team, run_team
from branchynet.training.recipes import Recipe, named_recipe
from branchynet.training.trainer import train

EPOCHS = 3


def pictures(recipe: Recipe, count: int) -> Dataset:
    """Noise in the shape of the recipe's images, of every class: times do not hang on what they show."""
    shape = (count, *recipe.architecture.input_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    classes = recipe.architecture.classes
    labels = np.arange(count) % classes
    return Dataset("noise", images, labels, tuple(map(str, range(classes))), "train", "made by a benchmark")


def work(team: Team, recipe: Recipe, images: int, folder: Path) -> None:
    """Train the baseline on noise; one held-out image a class, so that judging it takes no time."""
    held_out = pictures(recipe, recipe.architecture.classes)
    train(recipe, pictures(recipe, images), held_out, folder, phases=("baseline",), team=team)


def alone(threads: int, recipe: Recipe, images: int, folder: Path) -> None:
    """The same in this process, with *threads*."""
    torch.set_num_threads(threads)
    work(ALONE, recipe, images, folder)


def seconds(start: Callable[[Path], None]) -> float:
    """Median time of the epochs behind the first, which takes memory for the first time."""
    with TemporaryDirectory() as folder:
        start(Path(folder))
        records = [json.loads(line) for line in (Path(folder) / LOG).read_text().splitlines()]
    return statistics.median(record["seconds"] for record in records[1:])


def main(
    recipe: Annotated[str, typer.Option(help="Whose baseline is trained.")] = "resnet110-cifar10",
    cores: Annotated[int, typer.Option(help="Threads of the one process, and processes of the team.", min=2)] = 2,
    batches: Annotated[int, typer.Option(help="Batches an epoch.", min=1)] = 4,
    rounds: Annotated[int, typer.Option(help="How often both are measured.", min=1)] = 5,
) -> None:
    """Print the images a second of both, and the gain of the team over one process with a thread a core."""
    chosen = dataclasses.replace(named_recipe(recipe), joint_epochs=EPOCHS, trunk_epochs=0)
    images = batches * chosen.batch_size

    def one_process(folder: Path) -> None:
        process = get_context("spawn").Process(target=alone, args=(cores, chosen, images, folder))
        process.start()
        process.join()

    def team(folder: Path) -> None:
        run_team(cores, 1, work, chosen, images, folder)

    ways = {
        f"one process, {cores} threads": one_process,
        f"{cores} processes": team,
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            spent[name].append(seconds(way))
    _print(recipe, images, spent)


def _print(recipe: str, images: int, spent: dict[str, list[float]]) -> None:
    table = Table(title=f"{recipe}: baseline phase, epochs of {images:,} images")
    for heading in ("way", "images a second", "gain", "spread"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    first, *_ = spent.values()
    for name, times in spent.items():
        gains = sorted(before / now for before, now in zip(first, times, strict=True))
        rate = f"{images / statistics.median(times):.0f}"
        table.add_row(name, rate, f"{statistics.median(gains):.2f}x", f"{gains[0]:.2f} – {gains[-1]:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
