"""A network on an engine, as it is timed: whole, as a plain trunk, and as trunk segments without branch heads."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from branchynet.decisions.exits import ExitRule
from branchynet.network import BranchyNet, Progress, Stage

__all__ = ["ENGINES", "Runner", "headless", "plain", "runner"]

ENGINES = ("eager",)


class Runner:
    """PyTorch, layer by layer; NumPy is the border."""

    def __init__(self, network: BranchyNet) -> None:
        self._network = network

    @torch.inference_mode()
    def run(self, index: int, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """What stage *index* hands on and its exit's logits; *x*: uint8 images for stage 0."""
        entering = torch.as_tensor(x)
        network = self._network
        features, logits = network.stage(index)(network.normalisation(entering) if index == 0 else entering)
        return features.numpy(), None if logits is None else logits.numpy()

    def resume(self, x: NDArray[Any], first: int, last: int, rule: ExitRule) -> Progress:
        """As `BranchyNet.resume`."""
        return self._network.resume(torch.as_tensor(x), first, last, rule)


def runner(network: BranchyNet, engine: str) -> Runner:
    """*network* on *engine*, one of `ENGINES`."""
    assert engine in ENGINES
    return Runner(network)


def plain(network: BranchyNet) -> BranchyNet:
    """The plain network without its branches, as a network of one stage; it shares its weights with *network*."""
    stages = [network.stage(index) for index in range(network.total_stages)]
    return _like(network, [Stage(nn.Sequential(*(stage.trunk for stage in stages)), stages[-1].head)])


def headless(network: BranchyNet) -> BranchyNet:
    """The stages of *network* without their branch heads; the final one belongs to the trunk."""
    *early, final = (network.stage(index) for index in range(network.total_stages))
    return _like(network, [*(Stage(stage.trunk) for stage in early), final])


def _like(network: BranchyNet, stages: list[Stage]) -> BranchyNet:
    whole = BranchyNet.whole(
        stages, input_shape=network.input_shape, classes=network.classes, normalisation=network.normalisation
    )
    return whole.train(network.training)
