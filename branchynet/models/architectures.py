"""The three networks of the paper, a fourth made for exits, and the plain small networks they must beat.

A model is a value (`Architecture`) that `build` turns into stages; adding one means adding a line to `_FAMILIES`.
Variants: `paper` as its text describes it, `code` as the release builds it, `modern` with the same trunk and cheaper
branches, `plain` a small network without branches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from branchynet.errors import InvalidInput, UnknownModel
from branchynet.models import alexnet, lenet, resnet, slim
from branchynet.models.layers import initialise
from branchynet.network.costs import NetworkCost
from branchynet.network.counting import measure_cost
from branchynet.network.normalisation import Normalisation
from branchynet.network.stages import BranchyNet, Stage

__all__ = ["ARCHITECTURES", "Architecture", "build", "cost", "cut_shapes", "variants"]

MIN_CLASSES = 2
_BRANCHED = ("paper", "code", "modern")


@dataclass(frozen=True, slots=True)
class _Family:
    stages: Callable[[str, int], list[Stage]]
    input_shape: tuple[int, int, int]
    variants: tuple[str, ...]
    convolution_scale: float = 1.0


_FAMILIES = {
    "b-lenet": _Family(lenet.stages, lenet.INPUT_SHAPE, _BRANCHED),
    "b-alexnet": _Family(alexnet.stages, alexnet.INPUT_SHAPE, _BRANCHED),
    "b-resnet-110": _Family(resnet.stages, resnet.INPUT_SHAPE, _BRANCHED, convolution_scale=math.sqrt(2)),
    "b-slim": _Family(slim.stages, slim.INPUT_SHAPE, ("modern",), convolution_scale=math.sqrt(2)),
    "lenet-small": _Family(lenet.stages, lenet.INPUT_SHAPE, ("plain",)),
    "alexnet-small": _Family(alexnet.stages, alexnet.INPUT_SHAPE, ("plain",), convolution_scale=math.sqrt(2)),
    "resnet-20": _Family(lambda _, classes: resnet.plain(3, classes), resnet.INPUT_SHAPE, ("plain",), math.sqrt(2)),
    "resnet-32": _Family(lambda _, classes: resnet.plain(5, classes), resnet.INPUT_SHAPE, ("plain",), math.sqrt(2)),
}
ARCHITECTURES = tuple(_FAMILIES)


def variants(name: str) -> tuple[str, ...]:
    """The variants of the architecture called *name*; `UnknownModel` if there is none."""
    if name not in _FAMILIES:
        raise UnknownModel(f"no architecture is called {name!r}; there are {', '.join(ARCHITECTURES)}")
    return _FAMILIES[name].variants


@dataclass(frozen=True, slots=True)
class Architecture:
    """Which network: a family's *name*, its *variant* and the number of *classes*.

    Raises `UnknownModel` for a name or variant that is not known, `InvalidInput` for fewer than two classes.
    """

    name: str
    variant: str = "paper"
    classes: int = 10

    def __post_init__(self) -> None:
        legal = variants(self.name)
        if self.variant not in legal:
            raise UnknownModel(f"{self.name} has no variant called {self.variant!r}; it has {', '.join(legal)}")
        if self.classes < MIN_CLASSES:
            raise InvalidInput(f"classes is {self.classes}; a classifier needs at least {MIN_CLASSES}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one input image."""
        return _FAMILIES[self.name].input_shape


def build(architecture: Architecture, normalisation: Normalisation) -> BranchyNet:
    """A network with fresh weights, drawn from torch's global generator."""
    family = _FAMILIES[architecture.name]
    network = BranchyNet.whole(
        family.stages(architecture.variant, architecture.classes),
        input_shape=family.input_shape,
        classes=architecture.classes,
        normalisation=normalisation,
    )
    initialise(network, family.convolution_scale)
    return network


@lru_cache
def cost(architecture: Architecture) -> NetworkCost:
    """What the network costs, counted without allocating its weights."""
    channels = architecture.input_shape[0]
    with torch.device("meta"):
        return measure_cost(build(architecture, Normalisation((0.0,) * channels, (1.0,) * channels)))


def cut_shapes(architecture: Architecture) -> list[tuple[int, ...]]:
    """Shape of one sample's tensor at each cut 0 … n-1; at cut 0 it is the image's."""
    maps = [stage.output_shape for stage in cost(architecture).stages]
    return [architecture.input_shape, *maps[:-1]]
