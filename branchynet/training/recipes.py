"""How a network is trained: a recipe is one value, and the named ones live here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from branchynet.errors import InvalidInput, UnknownModel
from branchynet.exits.rules import LOGIT_CRITERIA, Criterion
from branchynet.exits.threshold_search import ACCURACY_DROP_POINTS
from branchynet.models.architectures import Architecture

__all__ = ["BRANCHES_ONLY", "JOINT_ONLY", "RECIPES", "Augmentation", "Recipe", "named_recipe"]

Augmentation = Literal["none", "affine", "crop-flip", "crop-flip-cutout"]
Optimiser = Literal["adam", "adamw", "sgd", "muon"]
Schedule = Literal["constant", "one-cycle", "warm-up", "decay"]
Precision = Literal["fp32", "bf16"]
Baseline = Literal["trained-on", "trunk", "final-exit"]
_LEGAL = {
    "optimiser": Optimiser,
    "schedule": Schedule,
    "trunk_schedule": Schedule,
    "augmentation": Augmentation,
    "precision": Precision,
    "baseline": Baseline,
}
# What the trunk phase does not depend on: these may change after it without training the trunk again.
JOINT_ONLY = (
    "joint_epochs",
    "branch_epochs",
    "schedule",
    "exit_weights",
    "distillation",
    "averaging",
    "baseline",
    "frozen",
)
# What the baseline phase does not depend on either.
BRANCHES_ONLY = ("branch_epochs", "exit_weights", "distillation", "frozen")

_LEAST = {"trunk_epochs": 0, "joint_epochs": 1, "branch_epochs": 0, "batch_size": 1, "calibration_images": 1}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what training produces, besides data and code.

    *exit_weights*: weight of each exit's loss in the joint phase, the final exit last (BranchyNet, section III-A).
    *distillation*: weight of the divergence from the final exit's probabilities to each branch's.
    *criterion*: by which the artifact's exit rule judges confidence.
    *accuracy_drop_points*: percentage points that the artifact's exit rule may lose on held-out images, see `assemble`.
    *calibration_images*: how many training images are held out for thresholds, never trained on.
    *trunk_epochs* 0: all exits are trained together from fresh weights.
    *trunk_schedule*, *schedule*: the learning rate in the trunk phase, and in the joint and baseline phases.
    *trunk_side*: side in pixels to which images are shrunk in the trunk phase (0: not), which saves a good part of it.
    *averaging*: decay per step of the moving average of weights that the joint and baseline phases end with (0: none).
    *baseline*: the plain network to compare with is the trunk, trained on for *joint_epochs* more or, as in the
    paper, left as its own phase made it; or it is no network of its own, but what the joint phase made of the layers
    to the final exit, which saves half of the work.
    *frozen*: the joint phase trains the branches alone, on the baseline, whose answers the final exit then gives; for
    *branch_epochs* if not 0, else for *joint_epochs* as well.
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
    trunk_schedule: Schedule = "constant"
    schedule: Schedule = "constant"
    trunk_side: int = 0
    augmentation: Augmentation = "none"
    label_smoothing: float = 0.0
    distillation: float = 0.0
    averaging: float = 0.0
    precision: Precision = "fp32"
    baseline: Baseline = "trained-on"
    frozen: bool = False
    branch_epochs: int = 0
    criterion: Criterion = Criterion.ENTROPY
    accuracy_drop_points: float = ACCURACY_DROP_POINTS
    calibration_images: int = 5_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.branch_epochs and not self.frozen:
            raise InvalidInput(f"branch_epochs is {self.branch_epochs}, which takes a frozen trunk")
        self._check_baseline()
        if not 0 <= self.averaging < 1:
            raise InvalidInput(f"averaging is {self.averaging}; it must lie in 0 <= averaging < 1")
        if not 0 <= self.accuracy_drop_points <= 100:
            raise InvalidInput(f"accuracy_drop_points is {self.accuracy_drop_points}; it must lie in 0 to 100")
        if self.trunk_side < 0:
            raise InvalidInput(f"trunk_side is {self.trunk_side}; it must not be negative")
        if not self.learning_rate > 0 or not math.isfinite(self.learning_rate):
            raise InvalidInput(f"learning_rate is {self.learning_rate}; it must be positive")
        if self.criterion not in LOGIT_CRITERIA:
            raise InvalidInput(f"criterion is {self.criterion!r}; it must be one of {', '.join(LOGIT_CRITERIA)}")
        for name, legal in _LEGAL.items():
            if getattr(self, name) not in get_args(legal):
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(get_args(legal))}")
        if not all(0 <= weight < math.inf for weight in self.exit_weights):
            raise InvalidInput(f"exit_weights are {self.exit_weights}; each must be finite and not negative")

    def _check_baseline(self) -> None:
        if self.baseline == "trunk" and not self.trunk_epochs:
            raise InvalidInput("trunk_epochs is 0, so there is no trained trunk to be the baseline")
        if self.baseline == "final-exit" and self.frozen:
            raise InvalidInput(
                "on a frozen trunk the final exit is the plain network's; baseline cannot be 'final-exit'"
            )

    def learning_rate_at(self, progress: float, phase: str = "joint") -> float:
        """The learning rate at *progress* 0..1 through *phase*.

        One-cycle: up linearly over the first 20 %, then down along a cosine to nothing (Smith 2018). Warm-up: up
        over the first 5 %, then constant; decay: down linearly to nothing. The two together let a long trunk phase
        be followed by several short ends (Hägele et al. 2024, "warm-up, stable, decay").
        """
        schedule = self.trunk_schedule if phase == "trunk" else self.schedule
        return self.learning_rate * _SCHEDULES[schedule](progress)

    def epochs_of(self, phase: str) -> int:
        """How many epochs *phase* has."""
        if phase == "trunk":
            return self.trunk_epochs
        return (self.branch_epochs if phase == "joint" else 0) or self.joint_epochs

    def to_json(self) -> dict[str, Any]:
        """Plain values, for logs and manifests."""
        return dataclasses.asdict(self)


def _rise(progress: float, share: float) -> float:
    return 0.04 + 0.96 * progress / share


def _one_cycle(progress: float) -> float:
    return _rise(progress, 0.2) if progress < 0.2 else 0.5 * (1 + math.cos(math.pi * (progress - 0.2) / 0.8))


_SCHEDULES: dict[Schedule, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "one-cycle": _one_cycle,
    "warm-up": lambda progress: _rise(progress, 0.05) if progress < 0.05 else 1.0,
    "decay": lambda progress: 1.0 - progress,
}


def _paper(architecture: Architecture, dataset: str, epochs: int, batch_size: int, exits: int) -> Recipe:
    """The scripts of the release: Adam, no augmentation, equal weights; β1 is the paper's 0.99."""
    return Recipe(
        architecture,
        dataset,
        trunk_epochs=epochs,
        joint_epochs=100,
        baseline="trunk",
        batch_size=batch_size,
        exit_weights=(1.0,) * exits,
        beta1=0.99,
    )


_LENET = Architecture("b-lenet")
_LENET_FASHION = Recipe(
    _LENET,
    "fashion-mnist",
    trunk_epochs=8,
    joint_epochs=16,
    batch_size=128,
    exit_weights=(1.0, 1.0),
    optimiser="adamw",
    learning_rate=4e-3,
    weight_decay=0.02,
    trunk_schedule="one-cycle",
    schedule="one-cycle",
    augmentation="crop-flip",
    distillation=0.5,
)

_MODERN_LENET = Recipe(
    Architecture("b-lenet", "modern"),
    "mnist",
    trunk_epochs=0,
    joint_epochs=60,
    batch_size=256,
    exit_weights=(1.0, 1.0),
    optimiser="adamw",
    learning_rate=6e-3,
    weight_decay=0.02,
    schedule="one-cycle",
    augmentation="affine",
    distillation=0.5,
    averaging=0.998,
    frozen=True,
    branch_epochs=20,
    criterion=Criterion.MARGIN,
    accuracy_drop_points=0.0,
)

# Muon takes a third of the epochs that SGD needs for the same accuracy.
_MODERN_CIFAR = Recipe(
    Architecture("b-alexnet", "modern"),
    "cifar10",
    trunk_epochs=0,
    joint_epochs=18,
    batch_size=256,
    exit_weights=(1.0, 0.5, 1.0),
    optimiser="muon",
    learning_rate=0.06,
    weight_decay=5e-4,
    schedule="decay",
    augmentation="crop-flip",
    label_smoothing=0.05,
    distillation=0.5,
    averaging=0.99,
    criterion=Criterion.MARGIN,
    accuracy_drop_points=0.0,
)

RECIPES: dict[str, Recipe] = {
    "lenet-fashion": _LENET_FASHION,
    "lenet-mnist": dataclasses.replace(_LENET_FASHION, dataset="mnist", augmentation="affine"),
    "modern-lenet-mnist": _MODERN_LENET,
    "lenet-small-mnist": dataclasses.replace(
        _MODERN_LENET,
        architecture=Architecture("lenet-small", "plain"),
        exit_weights=(1.0,),
        frozen=False,
        branch_epochs=0,
    ),
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
        trunk_schedule="one-cycle",
        schedule="one-cycle",
        augmentation="crop-flip",
        label_smoothing=0.05,
        distillation=0.5,
        precision="bf16",
    ),
    "modern-alexnet-cifar10": _MODERN_CIFAR,
    "alexnet-small-cifar10": dataclasses.replace(
        _MODERN_CIFAR, architecture=Architecture("alexnet-small", "plain"), exit_weights=(1.0,)
    ),
    "slim-cifar10": dataclasses.replace(
        _MODERN_CIFAR,
        architecture=Architecture("b-slim", "modern"),
        joint_epochs=20,
        exit_weights=(1.0, 1.0, 1.0),
        augmentation="crop-flip-cutout",
        baseline="final-exit",
    ),
    "resnet20-cifar10": dataclasses.replace(
        _MODERN_CIFAR,
        architecture=Architecture("resnet-20", "plain"),
        trunk_epochs=8,
        trunk_side=24,
        joint_epochs=8,
        exit_weights=(1.0,),
        precision="bf16",
    ),
    # Grown from the trunk of the recipe above (--trunk-from); it may be trained on from its own baseline likewise. The
    # branches are put on the finished network.
    "resnet110-cifar10": dataclasses.replace(
        _MODERN_CIFAR,
        architecture=Architecture("b-resnet-110", "modern"),
        joint_epochs=13,
        precision="bf16",
        exit_weights=(1.0, 1.0, 1.0),
        distillation=0.0,
        frozen=True,
        branch_epochs=10,
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
