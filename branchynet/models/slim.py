"""B-Slim: a residual network made for exits, for CIFAR-10; the fourth beside the paper's three.

Few layers that are wide where the map is small, in the manner of the ResNet-9 of speed contests, and slim where it is
large: the first exit follows two convolutions, yet sees the whole image, for a seventh of what the network costs.
"""

from __future__ import annotations

from torch import nn

from branchynet.models.layers import ResidualBlock, convolution, residual_head
from branchynet.network.stages import Stage

__all__ = ["INPUT_SHAPE", "stages"]

INPUT_SHAPE = (3, 32, 32)


def stages(_: str, classes: int) -> list[Stage]:
    """The three stages of B-Slim for images [B, 3, 32, 32]."""
    first = [*convolution(3, 24), *convolution(24, 48, stride=2)]  # [48, 16, 16]
    second = [
        ResidualBlock(48, 48, bias=False),
        *convolution(48, 96, stride=2),
        ResidualBlock(96, 96, bias=False),  # [96, 8, 8]
    ]
    rest = [
        *convolution(96, 256),
        nn.MaxPool2d(2),
        ResidualBlock(256, 256, bias=False),  # [256, 4, 4]
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
    ]
    return [
        Stage(nn.Sequential(*first), residual_head(48, (40, 80), classes)),
        Stage(nn.Sequential(*second), residual_head(96, (128,), classes)),
        Stage(nn.Sequential(*rest), nn.Linear(256, classes)),
    ]
