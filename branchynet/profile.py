"""What a network costs, counted on its layers: MACs, parameters, bytes at each cut.

A MAC is one multiplication with its addition in a convolution, a linear layer or another matrix product (attention has
two); pooling, activation, normalisation and softmax are not counted (the convention of the figures in `docs/results`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from branchynet.network import BranchyNet

__all__ = ["NetworkCost", "StageCost", "count_macs", "count_macs_of", "measure_cost"]

# torch's counter knows the attention of other devices only.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


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


def count_macs(module: nn.Module, x: Tensor) -> int:
    """MACs of *module* for input *x*, divided by the batch size."""
    return count_macs_of(lambda: module(x)) // len(x)


def count_macs_of(run: Callable[[], object]) -> int:
    """MACs of everything that *run* computes: counted where torch carries it out, in layers and functions alike."""
    with FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention_flops}) as counter:
        run()
    flops: int = counter.get_total_flops()
    return flops // 2  # a multiplication and an addition are two floating-point operations


@torch.inference_mode()
def measure_cost(network: BranchyNet) -> NetworkCost:
    """Count the whole *network* for one image. Works on weights that are not there (`meta` device) too."""
    device = next(network.parameters()).device
    x = torch.zeros(1, *network.input_shape, device=device)
    costs = []
    was_training = network.training
    network.eval()
    for index in range(network.total_stages):
        stage = network.stage(index)
        trunk_macs = count_macs(stage.trunk, x)
        x = stage.trunk(x)
        head_macs = count_macs(stage.head, x) if stage.head is not None else 0
        costs.append(StageCost(trunk_macs, head_macs, _params(stage.trunk), _params(stage.head), tuple(x.shape[1:])))
    network.train(was_training)
    return NetworkCost(tuple(costs), network.exit_of_stage)


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _params(module: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0
