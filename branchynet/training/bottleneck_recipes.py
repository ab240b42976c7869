"""How the bottleneck of a cut is trained: its form and its training as one value, and those of the shipped networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from branchynet.artifact.manifest import Manifest
from branchynet.codecs.bottleneck import GROUP, BottleneckShape, ConvolutionShape, TransformShape
from branchynet.errors import InvalidInput
from branchynet.training.recipes import Augmentation

__all__ = ["BOTTLENECKS", "BottleneckForm", "BottleneckOptimiser", "BottleneckRecipe", "bottleneck_recipe"]

BottleneckForm = Literal["convolution", "transform"]
BottleneckOptimiser = Literal["adam", "muon"]


@dataclass(frozen=True, slots=True)
class BottleneckRecipe:
    """Everything that decides a bottleneck, besides the artifact and the data.

    Of *form* `convolution`, see `ConvolutionShape`, it has *channels*, *kernel*, *stride* and *hidden*; of `transform`,
    see `TransformShape`, *kept* and *side*, and begins with levels *step* of the maps' standard deviation wide.
    *passes*: how often the training images go, augmented, through the stages before the cut; *epochs* go over all that
    came out. *rate*: what 1,000 bits a sample cost beside the divergence in nats, *fidelity*: what losing the whole
    map does; a low one lets it learn the answers to its samples instead of their maps. *easy*: share 0..1 that is kept
    of the samples that leave before the cut under the artifact's rule.
    """

    cut: int
    levels: int
    form: BottleneckForm = "convolution"
    channels: int = 8
    kernel: int = 3
    stride: int = 1
    hidden: int = 0
    kept: int = 1024
    side: int = 0
    step: float = 1.0
    width: int = 32
    blocks: int = 0
    passes: int = 2
    epochs: int = 10
    batch_size: int = 64
    optimiser: BottleneckOptimiser = "adam"
    learning_rate: float = 3e-3
    rate: float = 0.1
    fidelity: float = 0.2
    easy: float = 0.25
    augmentation: Augmentation = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("passes", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name, legal in (("form", BottleneckForm), ("optimiser", BottleneckOptimiser)):
            if getattr(self, name) not in get_args(legal):
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(get_args(legal))}")
        if not self.step > 0:
            raise InvalidInput(f"step is {self.step}; it must be positive")
        if not 0 <= self.easy <= 1 or min(self.rate, self.fidelity) < 0:
            raise InvalidInput(
                f"easy is {self.easy}, rate {self.rate}, fidelity {self.fidelity}: a share, and none negative"
            )

    def shape_for(self, map_shape: tuple[int, ...], *, positive: bool) -> BottleneckShape:
        """The bottleneck's shape for maps of *map_shape*; raises what `BottleneckShape` raises."""
        chosen: type[BottleneckShape] = TransformShape if self.form == TransformShape.form else ConvolutionShape
        ours = {field.name for field in fields(self)}
        values = {field.name: getattr(self, field.name) for field in fields(chosen) if field.name in ours}
        return chosen(map_shape=map_shape, positive=positive, **values)  # type: ignore[arg-type]


_ALEXNET = BottleneckRecipe(
    cut=2,
    form="transform",
    levels=15,
    kept=2048,
    step=1.4,
    width=64,
    blocks=1,
    passes=6,
    epochs=2,
    optimiser="muon",
    learning_rate=0.02,
    rate=0.04,
    fidelity=1.0,
    easy=0.2,
)

_MOST_KEPT = 8192

# What bottlenecks of the shipped artifacts are trained with, by name and cut.
BOTTLENECKS = {
    ("lenet-mnist", 1): BottleneckRecipe(
        cut=1,
        channels=8,
        levels=4,
        stride=2,
        width=24,
        epochs=14,
        batch_size=32,
        learning_rate=4e-3,
        rate=0.05,
        fidelity=0.05,
        easy=0.1,
    ),
    ("lenet-fashion", 1): BottleneckRecipe(
        cut=1,
        channels=10,
        levels=5,
        stride=2,
        width=24,
        learning_rate=5e-3,
        fidelity=0.05,
        easy=0.15,
    ),
    ("alexnet-cifar10", 2): replace(_ALEXNET, step=1.84, blocks=2, passes=3, rate=0.05, easy=0.1),
    ("modern-alexnet-cifar10", 2): _ALEXNET,
}


def bottleneck_recipe(manifest: Manifest, cut: int) -> BottleneckRecipe:
    """What the shipped artifact's bottleneck at *cut* was trained with, or a start for that of another network.

    Images are augmented as they were for the network. Raises `InvalidInput` for a cut without a map.
    """
    if not 1 <= cut < manifest.stages:
        raise InvalidInput(f"cut is {cut}; a bottleneck lies at one of the cuts 1 to {manifest.stages - 1}")
    recipe = BOTTLENECKS.get((manifest.name, cut)) or _transform_for(manifest.cut_shapes[cut], cut)
    return replace(recipe, augmentation=manifest.recipe.get("augmentation", "none"))


def _transform_for(map_shape: tuple[int, ...], cut: int) -> BottleneckRecipe:
    """For maps that nobody tried a recipe on.

    Few photos teach the transform little beyond what it begins as, so one quiet epoch goes over all of their maps.
    Wide levels of many coefficients, most of them nothing, lose less in the same bytes than narrow levels of few.
    Batches are small: all layers behind the cut keep what they hand on, of images that may be large.
    """
    return BottleneckRecipe(
        cut=cut,
        form="transform",
        levels=15,
        kept=min(_MOST_KEPT, math.prod(map_shape) // GROUP * GROUP),
        step=1.8,
        blocks=1,
        passes=1,
        epochs=1,
        batch_size=16,
        optimiser="muon",
        learning_rate=3e-3,
        rate=0.04,
        fidelity=1.0,
        easy=1.0,
    )
