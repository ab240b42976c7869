"""Counts on a network's layers, in torch, what `branchynet.network.costs` states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from branchynet.network.costs import NetworkCost, StageCost
from branchynet.network.stages import BranchyNet

__all__ = ["count_macs", "count_macs_of", "measure_cost"]

# torch's counter knows the attention of other devices only.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def count_macs(module: nn.Module, x: Tensor) -> int:
    """MACs of *module* for input *x*, divided by the batch size."""
    return count_macs_of(lambda: module(x)) // len(x)


def count_macs_of(run: Callable[[], object]) -> int:
    """MACs of everything that *run* computes: counted where torch carries it out, in layers and functions alike."""
    with FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention_flops}) as counter:
        run()
    flops: int = counter.get_total_flops()
    return flops // 2  # a multiplication and an addition are two floating-point operations


@torch.no_grad()  # not inference_mode: torch's counter then breaks on parametrised weights
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
