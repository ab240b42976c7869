"""Milliseconds per image at batch 1 on one thread, of everything that is to be compared, taking turns.

Contenders take turns every few images, so that a slow moment of the machine falls on all of them and their ratios hold
while single numbers move. In a turn one runs image after image, as a device does that serves one network: if each image
were a turn, every network would find the caches as another left them. Each image is timed in several passes, and its
median counts: what else runs on a machine interrupts single calls for longer than a small network takes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import installed
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Array, Runner

__all__ = [
    "Contender",
    "Images",
    "Timings",
    "early_exit_contenders",
    "forced_exit_contenders",
    "run_plain",
    "time_in_turn",
]

INTERRUPTED = 3.0
# Images in a turn: milliseconds of a small network, less than what makes a machine slow lasts.
TURN = 10

# Called with the position of an image.
Contender = Callable[[int], object]
# One batch of one image each: uint8 [1, C, H, W].
Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Timings:
    """Milliseconds of each contender on each engine: `ms[engine][contender]` is float64 [passes, images].

    A contender `early_exit/without_heads` is a part of `early_exit` and stays on its engine. Spreads are `[low,
    value, high]` with the lowest and the highest single pass.
    """

    ms: Mapping[str, Mapping[str, NDArray[np.float64]]]

    def engine_of(self, contender: str) -> str:
        """The engine that is quickest on *contender*, or on the whole that it is a part of."""
        whole = contender.partition("/")[0]
        return min(self.ms, key=lambda engine: _typical(self.ms[engine][whole]))

    def __getitem__(self, contender: str) -> NDArray[np.float64]:
        """Of the quickest engine: float64 [passes, images]."""
        return self.ms[self.engine_of(contender)][contender]

    def median(self, contender: str) -> float:
        """Mean over the images of each one's median pass."""
        return _typical(self[contender])

    def spread(self, contender: str) -> list[float]:
        """`median` between the lowest and the highest pass."""
        return _spread(self.median(contender), _passes(self[contender]))

    def gain_spread(self, contender: str, over: str = "trunk") -> list[float]:
        """How many times as long *over* takes as *contender*, between the lowest and the highest pass."""
        gain = self.median(over) / self.median(contender)
        return _spread(gain, _passes(self[over]) / _passes(self[contender]))

    def exit_ms(self, contender: str) -> list[float]:
        """Medians of leaving at each exit, if that was timed."""
        measured = self.ms[self.engine_of(contender)]
        return [_typical(ms) for name, ms in measured.items() if name.startswith(f"{contender}/exit_")]

    def medians(self) -> dict[str, dict[str, float]]:
        """`median` of everything, by engine."""
        return {
            engine: {name: round(_typical(ms), 5) for name, ms in measured.items()}
            for engine, measured in self.ms.items()
        }


def time_in_turn(
    contenders: Mapping[str, Mapping[str, Contender]],
    images: int,
    passes: int,
    on_image: Callable[[int], None] = lambda _: None,
) -> Timings:
    """Time `contenders[engine][name]`, each called with 0 … *images* - 1, *passes* times.

    In each pass the engines follow one another, and on every `TURN` images the contenders of an engine; who goes first
    changes. A turn begins with the image before, which is not timed. Torch has one thread meanwhile. *on_image*
    receives how many of *passes* · engines · *images* are done.
    """
    spent_s = {engine: np.zeros((len(named), passes, images)) for engine, named in contenders.items()}
    done = 0
    with _one_thread():
        for call in (call for named in contenders.values() for call in named.values()):
            call(0)  # warms up
        for number, (engine, named) in itertools.product(range(passes), contenders.items()):
            calls = list(named.values())
            for turn, first in enumerate(range(0, images, TURN)):
                block = range(first, min(first + TURN, images))
                for offset in range(len(calls)):
                    who = (turn + number + offset) % len(calls)
                    spent_s[engine][who, number, first : block.stop] = _timed_s(calls[who], block)
                done += len(block)
                on_image(done)
    return Timings(
        {engine: dict(zip(named, 1e3 * spent_s[engine], strict=True)) for engine, named in contenders.items()}
    )


def _timed_s(call: Contender, images: range) -> list[float]:
    """Seconds of *call* for each of *images*, one right after the other."""
    call(max(images.start - 1, 0))
    clock_s = [time.perf_counter()]
    for image in images:
        call(image)
        clock_s.append(time.perf_counter())
    return [end_s - start_s for start_s, end_s in itertools.pairwise(clock_s)]


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
    never, always = rule.criterion.never, rule.criterion.always

    def leave_at(number: int) -> Contender:
        forced = replace(rule, thresholds=(never,) * number + (always,) * (network.exits - 1 - number))
        return lambda i: network.resume(images[i], 0, network.total_stages, forced)

    return {f"{name}/exit_{number}": leave_at(number) for number in range(network.exits)}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch, where it is installed, computes on one thread and records nothing."""
    if not installed("torch"):
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)


def _typical(ms: NDArray[np.float64]) -> float:
    """Mean over the images of each one's median pass, of *ms* [passes, images]."""
    return float(np.median(ms, axis=0).mean())


def _passes(ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each pass, float64 [passes]; a call that was interrupted counts as `INTERRUPTED` times its median."""
    return np.asarray(np.minimum(ms, INTERRUPTED * np.median(ms, axis=0)).mean(axis=1))


def _spread(value: float, passes: NDArray[np.float64]) -> list[float]:
    return [round(float(end), 5) for end in (min(value, passes.min()), value, max(value, passes.max()))]
