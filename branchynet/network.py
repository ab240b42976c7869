"""The network is a list of stages; an exit may follow each stage, and the last stage always has one.

    image ─► stage 0 ─► stage 1 ─► … ─► stage n-1
               │exit 0    │exit 1         │final exit

Cut k lies before stage k: an edge half holds stages [0, k), a cloud half stages [k, n). A half is the same class
with fewer stages, and one method, `resume`, serves the whole network and both halves. That they agree bit for bit
in fp32 follows from it: the same layers see the same batch in the same order on either side of the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from branchynet.decisions.exits import ExitRule, History
from branchynet.errors import InvalidInput

__all__ = ["BranchyNet", "Normalisation", "Progress", "Stage"]

PIXEL_MAX = 255.0


@dataclass(frozen=True)
class Normalisation:
    """Pixels uint8 0..255 become (pixel/255 - mean)/std, one *mean* and *std* per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @cached_property
    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The same as pixel·scale + shift, [1, C, 1, 1] each: made once, for a camera's image is over in 100 µs."""
        # A surrounding `torch.device("meta")`, under which halves are built, must not take hold of these.
        mean = torch.tensor(self.mean, device="cpu").view(1, -1, 1, 1)
        std = torch.tensor(self.std, device="cpu").view(1, -1, 1, 1)
        return 1.0 / (PIXEL_MAX * std), -mean / std

    def __call__(self, images: Tensor) -> Tensor:
        """Float32 [B, C, H, W] of *images*, uint8 [B, C, H, W]."""
        scale, shift = self._scale_and_shift
        return images.float() * scale.to(images.device) + shift.to(images.device)


class Stage(nn.Module):
    """A run of trunk layers with an optional exit head after it."""

    def __init__(self, trunk: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The feature map after the trunk layers, and the exit's logits [B, C] if this stage has an exit."""
        features = self.trunk(x)
        return features, self.head(features) if self.head is not None else None


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
    features: Tensor
    history: History | None = None


class BranchyNet(nn.Module):
    """Stages [first, first + len(stages)) of an early-exit network with *total_stages* stages.

    A part keeps the whole network's numbering: its stages, exits and cuts mean the same on both sides.
    *exit_of_stage* maps each stage of the whole network to its exit's number, None where it has no exit.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        input_shape: tuple[int, int, int],
        classes: int,
        normalisation: Normalisation,
        exit_of_stage: Sequence[int | None],
        first: int = 0,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({str(first + offset): stage for offset, stage in enumerate(stages)})
        self.input_shape = input_shape
        self.classes = classes
        self.normalisation = normalisation
        self.exit_of_stage = tuple(exit_of_stage)
        self.first = first

    @classmethod
    def whole(
        cls,
        stages: Sequence[Stage],
        *,
        input_shape: tuple[int, int, int],
        classes: int,
        normalisation: Normalisation,
    ) -> BranchyNet:
        """A complete network: exits are numbered in the order of the stages that have one."""
        if not stages or stages[-1].head is None:
            raise InvalidInput("the last stage of a network needs an exit")
        numbers = iter(range(len(stages)))
        exit_of_stage = [next(numbers) if stage.head is not None else None for stage in stages]
        return cls(
            stages,
            input_shape=input_shape,
            classes=classes,
            normalisation=normalisation,
            exit_of_stage=exit_of_stage,
        )

    @property
    def total_stages(self) -> int:
        """Number of stages n of the whole network; the cuts are 0 … n."""
        return len(self.exit_of_stage)

    @property
    def last(self) -> int:
        """One past the last stage held here."""
        return self.first + len(self.stages)

    @property
    def exits(self) -> int:
        """Number of exits of the whole network, the final one included."""
        return sum(number is not None for number in self.exit_of_stage)

    def exits_before(self, cut: int) -> int:
        """Number of exits that a sample has passed when it reaches *cut*."""
        return sum(number is not None for number in self.exit_of_stage[:cut])

    def stage(self, index: int) -> Stage:
        """Stage number *index* of the whole network; `InvalidInput` if it is not held here."""
        if not self.first <= index < self.last:
            raise InvalidInput(f"stage {index} is not held here; this half holds [{self.first}, {self.last})")
        stage = self.stages[str(index)]
        assert isinstance(stage, Stage)
        return stage

    def part(self, first: int, last: int) -> BranchyNet:
        """The part that holds stages [*first*, *last*), sharing its weights with this network."""
        self.check_range(first, last)
        return BranchyNet(
            [self.stage(index) for index in range(first, last)],
            input_shape=self.input_shape,
            classes=self.classes,
            normalisation=self.normalisation,
            exit_of_stage=self.exit_of_stage,
            first=first,
        )

    def check_range(self, first: int, last: int) -> None:
        """Raise `InvalidInput` unless stages [*first*, *last*) are held here."""
        if not self.first <= first <= last <= self.last:
            raise InvalidInput(
                f"stages [{first}, {last}) are not held here; this half holds [{self.first}, {self.last})"
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits [B, C] of every exit held here, for training; *x* is normalised float, or the map at `first`."""
        logits = []
        for index in range(self.first, self.last):
            x, scored = self.stage(index)(x)
            if scored is not None:
                logits.append(scored)
        return logits

    def trunk(self, x: Tensor) -> Tensor:
        """Logits [B, C] of the final exit alone: the plain network without its branches."""
        for index in range(self.first, self.last - 1):
            x = self.stage(index).trunk(x)
        logits = self.stage(self.last - 1)(x)[1]
        assert isinstance(logits, Tensor)
        return logits

    @torch.inference_mode()
    def resume(self, x: Tensor, first: int, last: int, rule: ExitRule, history: History | None = None) -> Progress:
        """Run stages [*first*, *last*); after each exit the samples that *rule* is sure about leave the batch.

        *x*: uint8 images [B, C, H, W] if *first* is 0, otherwise the float32 feature map [B, …] at cut *first*.
        *history*: what the `Progress` up to *first* holds, if *rule* has a memory and an exit was passed.
        Later stages run on the samples that stay, and on nothing else. The final exit answers whoever is left.
        Raises `InvalidInput` if a stage is not held here, or *rule* or *history* does not fit the network.
        """
        self.check_range(first, last)
        rule.check_exits(self.exits, self.classes)
        batch = x.shape[0]
        rule.check_history(history, batch, self.classes, self.exits_before(first))
        exits = np.full(batch, -1, dtype=np.int64)
        logits = np.zeros((batch, self.classes), dtype=np.float32)
        remaining = np.arange(batch, dtype=np.int64)
        for index in range(first, last):
            if not len(remaining):
                break
            if index == 0:
                x = self.normalisation(x)
            x, scored = self.stage(index)(x)
            number = self.exit_of_stage[index]
            if scored is None or number is None:
                continue
            scores = scored.numpy()
            exits[remaining] = number
            logits[remaining] = scores
            history = rule.remember(scores, history)
            leaves = rule.leaves(number, scores, history)
            if leaves.all():
                remaining, x = remaining[:0], x[:0]
            elif leaves.any():
                remaining, x = remaining[~leaves], x[torch.from_numpy(~leaves)]
            if history is not None:
                history = history[~leaves]
        return Progress(exits, logits, remaining, x, history)
