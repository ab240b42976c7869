"""How a network is trained: a recipe is one value, and the named ones live here."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from branchynet.errors import InvalidInput, UnknownModel
from branchynet.models import Architecture

__all__ = ["RECIPES", "Recipe", "named_recipe"]

Augmentation = Literal["none", "affine", "crop-flip"]
Optimiser = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "one-cycle"]
Precision = Literal["fp32", "bf16"]
_LEGAL = {"optimiser": Optimiser, "schedule": Schedule, "augmentation": Augmentation, "precision": Precision}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what training produces, besides data and code.

    *exit_weights*: weight of each exit's loss in the joint phase, the final exit last (BranchyNet, section III-A).
    *distillation*: weight of the divergence from the final exit's probabilities to each branch's.
    *calibration_images*: how many training images are held out for thresholds, never trained on.
    """

    architecture: Architecture
    dataset: str
    trunk_epochs: int
    joint_epochs: int
    batch_size: int
    exit_weights: tuple[float, ...]
    optimiser: Optimiser = "adam"
    learning_rate: float = 1e-3
    beta1: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    augmentation: Augmentation = "none"
    label_smoothing: float = 0.0
    distillation: float = 0.0
    precision: Precision = "fp32"
    calibration_images: int = 5_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("trunk_epochs", "joint_epochs", "batch_size", "calibration_images"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.learning_rate > 0 or not math.isfinite(self.learning_rate):
            raise InvalidInput(f"learning_rate is {self.learning_rate}; it must be positive")
        for name, legal in _LEGAL.items():
            if getattr(self, name) not in get_args(legal):
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(get_args(legal))}")
        if not all(0 <= weight < math.inf for weight in self.exit_weights):
            raise InvalidInput(f"exit_weights are {self.exit_weights}; each must be finite and not negative")

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate at *progress* 0..1 through a phase.

        One-cycle: up linearly over the first 20 %, then down along a cosine to nothing (Smith 2018).
        """
        if self.schedule == "constant":
            return self.learning_rate
        rise = 0.2
        if progress < rise:
            return self.learning_rate * (0.04 + 0.96 * progress / rise)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise)))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for logs and manifests."""
        return dataclasses.asdict(self)


def _paper(architecture: Architecture, dataset: str, epochs: int, batch_size: int, exits: int) -> Recipe:
    """The scripts of the release: Adam, no augmentation, equal weights; β1 is the paper's 0.99."""
    return Recipe(
        architecture,
        dataset,
        trunk_epochs=epochs,
        joint_epochs=100,
        batch_size=batch_size,
        exit_weights=(1.0,) * exits,
        beta1=0.99,
    )


_LENET = Architecture("b-lenet")
_MODERN_LENET = Recipe(
    _LENET,
    "fashion-mnist",
    trunk_epochs=8,
    joint_epochs=16,
    batch_size=128,
    exit_weights=(1.0, 1.0),
    optimiser="adamw",
    learning_rate=4e-3,
    weight_decay=0.02,
    schedule="one-cycle",
    augmentation="crop-flip",
    distillation=0.5,
)

RECIPES: dict[str, Recipe] = {
    "lenet-fashion": _MODERN_LENET,
    "lenet-mnist": dataclasses.replace(_MODERN_LENET, dataset="mnist", augmentation="affine"),
    "alexnet-cifar10": Recipe(
        Architecture("b-alexnet"),
        "cifar10",
        trunk_epochs=12,
        joint_epochs=15,
        batch_size=128,
        exit_weights=(1.0, 0.6, 1.0),
        optimiser="sgd",
        learning_rate=0.05,
        weight_decay=5e-4,
        schedule="one-cycle",
        augmentation="crop-flip",
        label_smoothing=0.05,
        distillation=0.5,
        precision="bf16",
    ),
    "paper-lenet-mnist": _paper(Architecture("b-lenet", "code"), "mnist", 50, 512, 2),
    "paper-alexnet-cifar10": _paper(Architecture("b-alexnet", "code"), "cifar10", 50, 512, 3),
    "paper-resnet110-cifar10": _paper(Architecture("b-resnet-110", "code"), "cifar10", 100, 64, 3),
}


def named_recipe(name: str) -> Recipe:
    """The recipe called *name*; `UnknownModel`, with the names there are, if there is none."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownModel(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}") from None
