"""B-LeNet: three convolutions, two linear layers, one branch after the first convolution.

Paper: section IV-A. Code: `networks/lenet.py` of the release. The paper's text and the code name the same layers.
In the code the branch leaves before the pooling and ReLU that both paths then apply, so its cut carries 5×30×30
values. The text only says "after the first convolutional layer": there, variant `paper` puts the shared pooling and
ReLU before the cut. It computes the very same function with a cut four times smaller (5×15×15).

Variant `modern` keeps that trunk and has a lighter head. `plain` is no LeNet: a small network without branches that
strides where the LeNets pool, the baseline that an early-exit network must beat to be worth having.
"""

from __future__ import annotations

from torch import nn

from branchynet.models.layers import ceil_pool, convolution
from branchynet.network.stages import Stage

__all__ = ["INPUT_SHAPE", "stages"]

INPUT_SHAPE = (1, 28, 28)


def stages(variant: str, classes: int) -> list[Stage]:
    """The stages of B-LeNet, or of the plain network, for images [B, 1, 28, 28]."""
    if variant == "plain":
        return _plain(classes)
    first = nn.Conv2d(1, 5, 5, padding=3)  # [5, 30, 30]
    shared = [ceil_pool(2), nn.ReLU()]  # [5, 15, 15]
    branch = [
        nn.Conv2d(5, 10, 3, padding=1),  # [10, 15, 15]
        ceil_pool(2),  # [10, 8, 8]
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(640, classes),
    ]
    deep = [
        nn.Conv2d(5, 10, 5, padding=3),  # [10, 17, 17]
        ceil_pool(2),  # [10, 9, 9]
        nn.ReLU(),
        nn.Conv2d(10, 20, 5, padding=3),  # [20, 11, 11]
        ceil_pool(2),  # [20, 6, 6]
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(720, 84),
    ]
    final = nn.Linear(84, classes)
    if variant == "code":
        again = [ceil_pool(2), nn.ReLU()]
        return [
            Stage(nn.Sequential(first), nn.Sequential(*shared, *branch)),
            Stage(nn.Sequential(*again, *deep), final),
        ]
    if variant == "modern":
        branch = _light_branch(classes)
    return [Stage(nn.Sequential(first, *shared), nn.Sequential(*branch)), Stage(nn.Sequential(*deep), final)]


def _light_branch(classes: int) -> list[nn.Module]:
    return [
        *convolution(5, 10, stride=2),  # [10, 8, 8]
        *convolution(10, 16, stride=2),  # [16, 4, 4]
        nn.Flatten(),
        nn.Linear(256, classes),
    ]


def _plain(classes: int) -> list[Stage]:
    trunk = [
        *convolution(1, 8, stride=2, kernel=5),  # [8, 14, 14]
        *convolution(8, 16, stride=2),  # [16, 7, 7]
        *convolution(16, 32, stride=2),  # [32, 4, 4]
        nn.Flatten(),
    ]
    return [Stage(nn.Sequential(*trunk), nn.Linear(512, classes))]
