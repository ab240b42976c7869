"""How stages run: the loop over them, written once, for every engine that can run one.

    images ─► run(0) ─► rule: who leaves? ─► run(1) ─► rule ─► … ─► answers, and the features of who is left

A `Runner` holds stages of a network on one engine: `BranchyNet` runs them in torch (`eager`, the reference),
`branchynet.network.onnx_runner.OnnxRunner` in ONNX Runtime (`onnx`). NumPy is the border, so that only the eager engine
needs torch. Edge half, cloud half and whole network are all served by `resume`; that they agree bit for bit follows
from it: the same stages see the same batch in the same order on either side of the cut.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.rules import ExitRule, History

__all__ = ["Engine", "Progress", "Runner", "batch_slices", "exit_stages_of", "set_torch_threads"]

Array = NDArray[Any]

# A stage runs on so many input values at a time (4 MiB in float32): 6 images of 224×224×3, 341 of 32×32×3. What a layer
# holds in between is some ten times its input, so this bounds the memory of a batch of any size; larger chunks are no
# quicker, for they outgrow the caches.
CHUNK_VALUES = 1 << 20
# Where all images of a data set are worked through, so many of their values at a time, whose maps are kept between two
# stages: 27 images of 224×224×3.
BATCH_VALUES = 4 << 20
BATCH = 500


class Engine(StrEnum):
    """What runs the layers: torch layer by layer, or ONNX Runtime with each stage as one optimised graph."""

    EAGER = "eager"
    ONNX = "onnx"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch of B samples came.

    *exits*: int64 [B], the exit that scored each sample last, -1 where none did yet.
    *logits*: float32 [B, C], that exit's logits; zero where none.
    *remaining*: int64 [R], ascending positions in the batch of the samples that have not left.
    *features*: [R, …], the feature map of the remaining samples, to resume from.
    *history*: int32 [R, 2], what a rule with a memory knows of the remaining samples; None for other rules.
    """

    exits: NDArray[np.int64]
    logits: NDArray[np.float32]
    remaining: NDArray[np.int64]
    features: Array
    history: History | None = None


class Runner(ABC):
    """Stages [*first*, *last*) of a network with *total_stages* stages and *exits* exits, ready to run.

    A part keeps the whole network's numbering: its stages, exits and cuts mean the same on both sides.
    *exit_of_stage* maps each stage of the whole network to its exit's number, None where it has no exit.
    *input_shape*: channels, height, width of one image. *engine*: what runs the layers.
    """

    engine: Engine

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        classes: int,
        exit_of_stage: Sequence[int | None],
        first: int,
        last: int,
    ) -> None:
        self.input_shape = input_shape
        self.classes = classes
        self.exit_of_stage = tuple(exit_of_stage)
        self.first = first
        self.last = last
        self.total_stages = len(self.exit_of_stage)
        self.exits = sum(number is not None for number in self.exit_of_stage)

    def run(self, index: int, x: Array) -> tuple[Array, NDArray[np.float32] | None]:
        """What stage *index* hands on, float32 [B, …], and its exit's logits, float32 [B, C], if it has an exit.

        *x*: uint8 images [B, C, H, W] for stage 0, otherwise what the stage before handed on. What the final stage
        hands on means nothing. A large batch runs in chunks, whose size depends on the stage's input alone: halves and
        whole cut it alike.
        """
        if x.size <= CHUNK_VALUES or len(x) == 1:
            return self.run_chunk(index, x)
        size = max(1, CHUNK_VALUES // (x.size // len(x)))
        chunks = [self.run_chunk(index, x[start : start + size]) for start in range(0, len(x), size)]
        scores = [logits for _, logits in chunks if logits is not None]
        return np.concatenate([features for features, _ in chunks]), np.concatenate(scores) if scores else None

    @abstractmethod
    def run_chunk(self, index: int, x: Array) -> tuple[Array, NDArray[np.float32] | None]:
        """`run` on as many samples as fit into memory at once."""

    @abstractmethod
    def without_branches(self) -> Runner:
        """The same stages without the exits that the plain network has not: only the final one is left."""

    def check_range(self, first: int, last: int) -> None:
        """Raise `InvalidInput` unless stages [*first*, *last*) are held here."""
        if not self.first <= first <= last <= self.last:
            raise InvalidInput(
                f"stages [{first}, {last}) are not held here; this half holds [{self.first}, {self.last})"
            )

    def exits_before(self, cut: int) -> int:
        """Number of exits that a sample has passed when it reaches *cut*."""
        return sum(number is not None for number in self.exit_of_stage[:cut])

    def is_decided(self, cut: int) -> bool:
        """Whether only the final exit lies behind *cut*: no rule counts there any more."""
        return self.exits - self.exits_before(cut) <= 1

    def resume(self, x: Array, first: int, last: int, rule: ExitRule, history: History | None = None) -> Progress:
        """Run stages [*first*, *last*); after each exit the samples that *rule* is sure about leave the batch.

        *x*: uint8 images [B, C, H, W] if *first* is 0, otherwise the float32 feature map [B, …] at cut *first*.
        *history*: what the `Progress` up to *first* holds, if *rule* has a memory and an exit was passed.
        Later stages run on the samples that stay, and on nothing else. The final exit answers whoever is left.
        Raises `InvalidInput` if a stage is not held here, or *rule* or *history* does not fit the network.
        """
        self.check_range(first, last)
        rule.check_exits(self.exits, self.classes)
        rule.check_history(history, len(x), self.classes, self.exits_before(first))
        return self._go_on(x, first, last, rule, history)

    def _go_on(self, x: Array, first: int, last: int, rule: ExitRule, history: History | None) -> Progress:
        """`resume` without its checks. One image takes no array operation that its answer does not need."""
        batch, exit_number, logits = len(x), -1, None
        for index in range(first, last if batch else first):
            x, scores = self.run(index, x)
            number = self.exit_of_stage[index]
            if scores is None or number is None:
                continue
            exit_number, logits = number, scores
            history = rule.remember(scores, history)
            leaves = rule.leaves(number, scores, history)
            leaving = np.count_nonzero(leaves)
            if leaving == batch:
                gone = None if history is None else history[:0]
                return Progress(_repeated(number, batch), scores, np.arange(0), x[:0], gone)
            if leaving:
                stays = np.flatnonzero(~leaves)
                kept = None if history is None else history[stays]
                rest = self._go_on(x[stays], index + 1, last, rule, kept)
                return _joined(_repeated(number, batch), scores, stays, rest)
        if logits is None:
            logits = np.zeros((batch, self.classes), dtype=np.float32)
        return Progress(_repeated(exit_number, batch), logits, np.arange(batch), x, history)


def _repeated(number: int, times: int) -> NDArray[np.int64]:
    return np.array([number] * times, dtype=np.int64)  # for one sample quicker than `np.full`


def _joined(
    exits: NDArray[np.int64], logits: NDArray[np.float32], stays: NDArray[np.int64], rest: Progress
) -> Progress:
    """A batch scored at one exit, of which the samples at *stays* went on and became *rest*."""
    scored = rest.exits >= 0
    logits = logits.copy()
    exits[stays[scored]], logits[stays[scored]] = rest.exits[scored], rest.logits[scored]
    return Progress(exits, logits, stays[rest.remaining], rest.features, rest.history)


def batch_slices(images: Array) -> Iterator[slice]:
    """Slices that work through *images* [N, C, H, W] in their order, each as many as memory bears."""
    size = max(1, min(BATCH, BATCH_VALUES // math.prod(images.shape[1:])))
    for start in range(0, len(images), size):
        yield slice(start, min(start + size, len(images)))


def exit_stages_of(network: Runner) -> tuple[int, ...]:
    """The stage that each exit of *network* follows."""
    return tuple(stage for stage, number in enumerate(network.exit_of_stage) if number is not None)


def set_torch_threads(network: Runner, threads: int) -> None:
    """Have torch compute on that many *threads*, in the whole process, if it is what runs *network*."""
    if network.engine is Engine.EAGER:
        import torch

        torch.set_num_threads(threads)
