"""The network is a list of stages; an exit may follow each stage, and the last stage always has one.

    image ─► stage 0 ─► stage 1 ─► … ─► stage n-1
               │exit 0    │exit 1         │final exit

Cut k lies before stage k: an edge half holds stages [0, k), a cloud half stages [k, n). A half is the same class
with fewer stages. A network is itself the eager engine: it runs its stages in torch, layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from branchynet.errors import InvalidInput
from branchynet.network.normalisation import Normalisation
from branchynet.network.runner import Array, Engine, Runner

__all__ = ["BranchyNet", "Stage"]


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


class BranchyNet(nn.Module, Runner):
    """Stages [first, first + len(stages)) of an early-exit network; see `Runner` for what its attributes mean."""

    engine = Engine.EAGER

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
        nn.Module.__init__(self)
        Runner.__init__(
            self,
            input_shape=input_shape,
            classes=classes,
            exit_of_stage=exit_of_stage,
            first=first,
            last=first + len(stages),
        )
        self.stages = nn.ModuleDict({str(first + offset): stage for offset, stage in enumerate(stages)})
        self.normalisation = normalisation

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

    def without_branches(self) -> BranchyNet:
        """See `Runner.without_branches`; the weights are shared."""
        final = self.total_stages - 1
        stages = [self.stage(index) for index in range(self.first, self.last)]
        network = BranchyNet(
            [stage if self.first + offset == final else Stage(stage.trunk) for offset, stage in enumerate(stages)],
            input_shape=self.input_shape,
            classes=self.classes,
            normalisation=self.normalisation,
            exit_of_stage=(*[None] * final, 0),
            first=self.first,
        )
        return network if self.training else network.eval()

    def plain(self) -> BranchyNet:
        """The plain network, its trunk and final exit, as a network of one stage; the weights are shared."""
        trunk = nn.Sequential(*(self.stage(index).trunk for index in range(self.first, self.last)))
        network = BranchyNet.whole(
            [Stage(trunk, self.stage(self.last - 1).head)],
            input_shape=self.input_shape,
            classes=self.classes,
            normalisation=self.normalisation,
        )
        return network if self.training else network.eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits [B, C] of every exit held here, for training; *x* is normalised float, or the map at `first`."""
        logits = []
        for index in range(self.first, self.last):
            x, scored = self.stage(index)(x)
            if scored is not None:
                logits.append(scored)
        return logits

    def trunk(self, x: Tensor) -> Tensor:
        """Logits [B, C] of the final exit only: the plain network without its branches."""
        for index in range(self.first, self.last - 1):
            x = self.stage(index).trunk(x)
        logits = self.stage(self.last - 1)(x)[1]
        assert isinstance(logits, Tensor)
        return logits

    @torch.inference_mode()
    def run_chunk(self, index: int, x: Array) -> tuple[Array, NDArray[np.float32] | None]:
        """See `Runner.run_chunk`."""
        entering = torch.as_tensor(x)
        features, logits = self.stage(index)(self.normalisation(entering) if index == 0 else entering)
        return features.numpy(), None if logits is None else logits.numpy()
