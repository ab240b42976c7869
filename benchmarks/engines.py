"""Microseconds per image at batch 1: plain trunk and early exit, in torch and in ONNX Runtime, on one thread.

    taskset -c 1 python benchmarks/engines.py [ARTIFACT …] [--data DIR] [--images 200] [--rounds 15] [--json FILE]

The contenders take turns after every few images, and who goes first changes, so that a slow moment of the machine falls
on all of them; a gain is a ratio within one round over the images. The early-exit network runs
under its own rule, heads, rule and loop counted. The last two columns are what the loop and the rule add to the first
stage in ONNX Runtime. Graphs come from the cache folder; the first start exports them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset, load
from branchynet.errors import Unavailable
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Engine, Runner

Contender = Callable[[NDArray[np.uint8]], object]
TURN = 10  # images
LOOP = ("stage 0 alone", "stage 0 in the loop")


def early_exit(runner: Runner, rule: ExitRule) -> Contender:
    """The whole early-exit network under *rule*."""
    stages = runner.total_stages
    return lambda image: runner.resume(image, 0, stages, rule)


def first_stage(runner: Runner) -> Contender:
    """Stage 0 and its head, without loop and rule."""
    return lambda image: runner.run(0, image)


def contenders_of(name: str) -> dict[str, Contender]:
    """What is timed for the artifact *name*."""
    artifact = Artifact.open(name)
    manifest = artifact.manifest
    contenders: dict[str, Contender] = {}
    for engine in Engine:
        runner = artifact.runner(engine=engine)
        contenders[f"trunk {engine}"] = first_stage(artifact.trunk(engine))
        contenders[f"early exit {engine}"] = early_exit(runner, manifest.rule)
    contenders[LOOP[0]] = first_stage(runner)
    criterion = manifest.rule.criterion
    # A threshold that everybody passes is decided like any other, so every image pays one stage and one decision.
    contenders[LOOP[1]] = early_exit(runner, ExitRule(criterion, (criterion.always,) * (runner.exits - 1)))
    return contenders


def timed(contenders: dict[str, Contender], images: NDArray[np.uint8], rounds: int) -> dict[str, list[float]]:
    """Microseconds per image of each contender in each round."""
    singles, names = [image[None] for image in images], list(contenders)
    spent_s = np.zeros((rounds + 1, len(names)))
    for number in range(rounds + 1):
        for turn, start in enumerate(range(0, len(singles), TURN)):
            for offset in range(len(names)):
                place = (turn + offset) % len(names)
                contender = contenders[names[place]]
                contender(singles[start])  # what it needs is in the core's caches, as in a node that does nothing else
                started_s = time.perf_counter()
                for single in singles[start : start + TURN]:
                    contender(single)
                spent_s[number, place] += time.perf_counter() - started_s
    us = 1e6 * spent_s[1:] / len(singles)  # the first round warmed up
    return {name: us[:, place].tolist() for place, name in enumerate(names)}


def test_images(name: str, data: Path | None, count: int) -> Dataset | None:
    """*count* test images of the artifact's data set, drawn at random; None if it is not on this machine."""
    try:
        whole = load(Artifact.open(name).manifest.dataset, "test", data)
    except Unavailable:
        return None
    chosen = np.random.default_rng(0).permutation(len(whole))[:count]
    return Dataset(whole.name, whole.images[chosen], whole.labels[chosen], whole.classes, whole.split, whole.source)


def spread(values: list[float], digits: int = 0) -> str:
    """Median (lowest - highest)."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} – {max(values):,.{digits}f})"


def gains(spent: dict[str, list[float]], trunk: str, early: str) -> str:
    """How many times as fast *early* was as *trunk*, from round to round."""
    return spread([slow / quick for slow, quick in zip(spent[trunk], spent[early], strict=True)], 2)


def tables(measured: dict[str, dict[str, list[float]]], images: int, rounds: int) -> list[Table]:
    """The times and the gains."""
    times = Table(title=f"µs per image at batch 1, one thread; {images} test images, {rounds} rounds: median (lo – hi)")
    ratios = Table(title="how many times as fast")
    columns = ("trunk eager", "trunk onnx", "early exit eager", "early exit onnx", *LOOP)
    pairs = {
        "early exit over trunk, eager": ("trunk eager", "early exit eager"),
        "early exit over trunk, onnx": ("trunk onnx", "early exit onnx"),
        "onnx over eager, trunk": ("trunk eager", "trunk onnx"),
    }
    for table, titles in ((times, columns), (ratios, pairs)):
        table.add_column("artifact")
        for title in titles:
            table.add_column(title, justify="right")
    for name, spent in measured.items():
        times.add_row(name, *(spread(spent[column]) for column in columns))
        ratios.add_row(name, *(gains(spent, *pair) for pair in pairs.values()))
    return [times, ratios]


def main() -> None:
    """Measure, print the tables, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifacts", nargs="*", default=zoo.shipped())
    parser.add_argument("--data", type=Path, default=os.environ.get("BRANCHYNET_DATA"), help="folder with data sets")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures of every round to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=150)
    measured: dict[str, dict[str, list[float]]] = {}
    for name in given.artifacts:
        images = test_images(name, given.data, given.images)
        if images is None:
            console.print(f"{name} is left out: its test images are not on this machine; see --data")
            continue
        measured[name] = timed(contenders_of(name), images.images, given.rounds)
    for table in tables(measured, given.images, given.rounds):
        console.print(table)
    if given.json:
        figures: dict[str, Any] = {"images": given.images, "rounds": given.rounds, "us_per_image": measured}
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
