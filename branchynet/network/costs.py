"""What a network costs for one image, as plain values: MACs, parameters, bytes at each cut.

A MAC is one multiplication with its addition in a convolution, a linear layer or another matrix product (attention has
two); pooling, activation, normalisation and softmax are not counted (the convention of the figures in `docs/results`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NetworkCost", "StageCost"]


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage for one image: MACs of its trunk layers and of its head, parameters, and the map it hands on."""

    trunk_macs: int
    head_macs: int
    trunk_params: int
    head_params: int
    output_shape: tuple[int, ...]

    @property
    def output_bytes(self) -> int:
        """Bytes of the fp32 feature map after this stage, for one image."""
        return 4 * int(np.prod(self.output_shape))


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """The stages' costs, and the sums that early-exit accounting needs."""

    stages: tuple[StageCost, ...]
    exit_of_stage: tuple[int | None, ...]

    @property
    def exits(self) -> int:
        """Number of exits, the final one included."""
        return sum(number is not None for number in self.exit_of_stage)

    @property
    def trunk_macs(self) -> int:
        """MACs of the plain network: all trunk layers and the final exit's head."""
        return sum(stage.trunk_macs for stage in self.stages) + self.stages[-1].head_macs

    def macs_by_exit(self, *, heads: bool) -> NDArray[np.float64]:
        """MACs of a sample that leaves at each exit, float64 [E].

        With *heads*, every branch head passed on the way is counted, as it must be paid. Without, only the trunk
        layers are, as the released timing code of 2016 does; the final head belongs to the trunk in both.
        """
        total, passed, costs = 0, 0, []
        for stage, number in zip(self.stages, self.exit_of_stage, strict=True):
            total += stage.trunk_macs
            if number is None:
                continue
            passed += stage.head_macs
            final = stage is self.stages[-1]
            costs.append(total + (passed if heads else stage.head_macs if final else 0))
        return np.array(costs, dtype=np.float64)
