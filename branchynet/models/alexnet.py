"""B-AlexNet for CIFAR-10: five convolutions, three linear layers, two branches.

Paper: section IV-B and Fig. 1 put the branches after the first and second convolution. Code: `networks/alex.py` of
the release puts the same branches after the second and third, before their ReLU. The text does not fix where pooling
and normalisation fall; variant `paper` keeps the layers that both paths share before the cut, which shrinks it.

Variant `modern` has the same convolutions, each with batch normalisation in place of LRN, and branches that halve the
map before they work on it. `plain` is no AlexNet: a small network without branches, the baseline.
"""

from __future__ import annotations

from torch import nn

from branchynet.models.layers import LocalResponseNorm, ceil_pool, convolution, residual_head
from branchynet.network.stages import Stage

__all__ = ["INPUT_SHAPE", "stages"]

INPUT_SHAPE = (3, 32, 32)


def stages(variant: str, classes: int) -> list[Stage]:
    """The stages of B-AlexNet, or of the plain network, for images [B, 3, 32, 32]."""
    made = {"paper": _paper, "code": _code, "modern": _modern, "plain": _plain}
    return made[variant](classes)


def _pool_and_norm() -> list[nn.Module]:
    return [nn.ReLU(), ceil_pool(3), LocalResponseNorm()]


def _linear_layers(dropout: float) -> list[nn.Module]:
    """What follows the last convolution; input [64, 4, 4]."""
    return [
        nn.Flatten(),
        nn.Linear(1024, 256),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Dropout(dropout),
    ]


def _end(classes: int) -> tuple[list[nn.Module], nn.Module]:
    """The layers from the third convolution's ReLU on, and the final exit; input [96, 8, 8]."""
    trunk = [
        nn.ReLU(),
        nn.Conv2d(96, 96, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(96, 64, 3, padding=1),
        nn.ReLU(),
        ceil_pool(3),  # [64, 4, 4]
        *_linear_layers(dropout=0.5),
    ]
    return trunk, nn.Linear(128, classes)


def _code(classes: int) -> list[Stage]:
    first_branch = [
        *_pool_and_norm(),  # [64, 8, 8]
        nn.Conv2d(64, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        ceil_pool(3),  # [32, 4, 4]
        nn.Flatten(),
        nn.Linear(512, classes),
    ]
    second_branch = [
        *_pool_and_norm(),  # [96, 4, 4]
        nn.Conv2d(96, 32, 3, padding=1),
        nn.ReLU(),
        ceil_pool(3),  # [32, 2, 2]
        nn.Flatten(),
        nn.Linear(128, classes),
    ]
    first = [
        nn.Conv2d(3, 32, 5, padding=2),  # [32, 32, 32]
        *_pool_and_norm(),  # [32, 16, 16]
        nn.Conv2d(32, 64, 5, padding=2),  # [64, 16, 16]
    ]
    second = [*_pool_and_norm(), nn.Conv2d(64, 96, 3, padding=1)]  # [96, 8, 8]
    end, final = _end(classes)
    return [
        Stage(nn.Sequential(*first), nn.Sequential(*first_branch)),
        Stage(nn.Sequential(*second), nn.Sequential(*second_branch)),
        Stage(nn.Sequential(*end), final),
    ]


def _paper(classes: int) -> list[Stage]:
    first_branch = [
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        ceil_pool(3),  # [32, 8, 8]
        nn.Flatten(),
        nn.Linear(2048, classes),
    ]
    second_branch = [
        nn.Conv2d(64, 32, 3, padding=1),
        nn.ReLU(),
        ceil_pool(3),  # [32, 4, 4]
        nn.Flatten(),
        nn.Linear(512, classes),
    ]
    first = [nn.Conv2d(3, 32, 5, padding=2), *_pool_and_norm()]  # [32, 16, 16]
    second = [nn.Conv2d(32, 64, 5, padding=2), *_pool_and_norm()]  # [64, 8, 8]
    end, final = _end(classes)
    return [
        Stage(nn.Sequential(*first), nn.Sequential(*first_branch)),
        Stage(nn.Sequential(*second), nn.Sequential(*second_branch)),
        Stage(nn.Sequential(nn.Conv2d(64, 96, 3, padding=1), *end), final),
    ]


def _modern(classes: int) -> list[Stage]:
    first = [*convolution(3, 32, kernel=5), ceil_pool(3)]  # [32, 16, 16]
    second = [*convolution(32, 64, kernel=5), ceil_pool(3)]  # [64, 8, 8]
    rest = [
        *convolution(64, 96),
        *convolution(96, 96),
        *convolution(96, 64),
        ceil_pool(3),  # [64, 4, 4]
        *_linear_layers(dropout=0.3),
    ]
    return [
        Stage(nn.Sequential(*first), residual_head(32, (40, 80), classes)),
        Stage(nn.Sequential(*second), residual_head(64, (80,), classes)),
        Stage(nn.Sequential(*rest), nn.Linear(128, classes)),
    ]


def _plain(classes: int) -> list[Stage]:
    layers = [
        *convolution(3, 24),  # [24, 32, 32]
        *convolution(24, 48, stride=2),  # [48, 16, 16]
        *convolution(48, 96, stride=2),  # [96, 8, 8]
        *convolution(96, 96),
        *convolution(96, 128, stride=2),  # [128, 4, 4]
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return [Stage(nn.Sequential(*layers), nn.Linear(128, classes))]
