"""Milliseconds per image at batch 1 on one thread, of everything that is to be compared, taking turns.

On each image every contender runs once before the next image comes, so that a slow moment of the machine falls on all
of them and their ratios hold while single numbers move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from branchynet.decisions.exits import ExitRule
from branchynet.engine import Array, Runner

__all__ = [
    "Contender",
    "Images",
    "Timings",
    "early_exit_contenders",
    "forced_exit_contenders",
    "run_plain",
    "time_in_turn",
]

WARM_UP = 2

# Called with the position of an image.
Contender = Callable[[int], object]
# One batch of one image each: uint8 [1, C, H, W].
Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Timings:
    """Milliseconds per image of each contender on each engine: `ms[engine][contender]` is float64 [passes].

    A contender `early_exit/without_heads` is a part of `early_exit` and stays on its engine.
    """

    ms: Mapping[str, Mapping[str, NDArray[np.float64]]]

    def engine_of(self, contender: str) -> str:
        """The engine on which *contender*, or the whole that it is a part of, has the lowest median."""
        whole = contender.partition("/")[0]
        return min(self.ms, key=lambda engine: float(np.median(self.ms[engine][whole])))

    def __getitem__(self, contender: str) -> NDArray[np.float64]:
        """One value per pass on the quickest engine."""
        return self.ms[self.engine_of(contender)][contender]

    def median(self, contender: str) -> float:
        """The median pass."""
        return float(np.median(self[contender]))

    def spread(self, contender: str) -> list[float]:
        """Lowest, median and highest pass."""
        return _spread(self[contender])

    def gain_spread(self, contender: str, over: str = "trunk") -> list[float]:
        """Lowest, median and highest pass of how many times as long *over* took as *contender* in the same pass."""
        return _spread(self[over] / self[contender])

    def exit_ms(self, contender: str) -> list[float]:
        """Medians of leaving at each exit, if that was timed."""
        measured = self.ms[self.engine_of(contender)]
        return [float(np.median(ms)) for name, ms in measured.items() if name.startswith(f"{contender}/exit_")]

    def medians(self) -> dict[str, dict[str, float]]:
        """The median pass of everything, by engine."""
        return {
            engine: {name: round(float(np.median(ms)), 5) for name, ms in measured.items()}
            for engine, measured in self.ms.items()
        }


def time_in_turn(
    contenders: Mapping[str, Mapping[str, Contender]],
    images: int,
    passes: int,
    on_image: Callable[[int], None] = lambda _: None,
) -> Timings:
    """Time `contenders[engine][name]`, each called with 0 … *images* - 1, *passes* times.

    Who goes first changes from image to image. Torch has one thread meanwhile. *on_image* is told how many are done.
    """
    calls = [call for named in contenders.values() for call in named.values()]
    spent_s = np.zeros((passes, len(calls)))
    with _one_thread(), torch.inference_mode():
        for number in range(WARM_UP):
            for call in calls:
                call(number % images)
        for number in range(passes):
            for image in range(images):
                for offset in range(len(calls)):
                    turn = (image + offset) % len(calls)
                    started_s = time.perf_counter()
                    calls[turn](image)
                    spent_s[number, turn] += time.perf_counter() - started_s
                on_image(number * images + image + 1)
    columns = iter(1e3 * spent_s.T / images)
    return Timings({engine: {name: next(columns) for name in named} for engine, named in contenders.items()})


def run_plain(network: Runner, image: Array) -> Array:
    """Logits [B, C] of a *network* of one exit for *image*, uint8 [B, C, H, W]."""
    x, logits = image, None
    for stage in range(network.total_stages):
        x, logits = network.run(stage, x)
    assert logits is not None
    return logits


def early_exit_contenders(name: str, network: Runner, rule: ExitRule, images: Images) -> dict[str, Contender]:
    """*name*: the network under *rule*, all counted. *name*/without_heads: the trunk segments that each image needs.

    The second is what the released code of 2016 timed: neither branch heads nor the rule lie between its clock reads.
    """
    bare, stages = network.without_branches(), network.total_stages
    taken = [int(network.resume(image, 0, stages, rule).exits[0]) for image in images]
    last_stages = [network.exit_of_stage.index(number) for number in taken]

    def without_heads(index: int) -> None:
        x: Array = images[index]
        for stage in range(last_stages[index] + 1):
            x, _ = bare.run(stage, x)

    return {name: lambda i: network.resume(images[i], 0, stages, rule), f"{name}/without_heads": without_heads}


def forced_exit_contenders(name: str, network: Runner, rule: ExitRule, images: Images) -> dict[str, Contender]:
    """*name*/exit_0, *name*/exit_1, …: every image leaves there, after all heads and rules on its way."""
    criterion, early = rule.criterion, network.exits - 1

    def leave_at(number: int) -> Contender:
        forced = ExitRule(criterion, (criterion.never,) * number + (criterion.always,) * (early - number))
        return lambda i: network.resume(images[i], 0, network.total_stages, forced)

    return {f"{name}/exit_{number}": leave_at(number) for number in range(network.exits)}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _spread(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 5) for value in (values.min(), np.median(values), values.max())]
