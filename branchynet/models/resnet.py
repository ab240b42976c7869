"""B-ResNet-110 for CIFAR-10: 54 residual blocks in three groups of 18, two branches.

Code: `networks/resnet.py` of the release. Its first convolution has no padding, so the maps are 30×30, 15×15, 8×8;
the branches sit after that convolution and after the first group; the end is a 6×6 average with stride 1.
Paper: section IV-C. The trunk is that of He et al. 2015 (padded, 32×32, global average, no biases before
normalisation). The first branch sits "after the 2nd convolutional layer", which is inside a residual block; a cut
there would have to carry the shortcut as well, so variant `paper` takes the end of that block. The second branch
comes after the 37th convolution, the end of the first group, in both.

Variant `modern` has the paper's trunk. Its branches leave after the first block and after the first block of the
second group, whose map is half as large and twice as deep, and halve the map again before they work on it. `plain`
residual networks of fewer blocks and no branches are the baseline.
"""

from __future__ import annotations

from torch import nn

from branchynet.models.layers import LocalResponseNorm, ResidualBlock, residual_head
from branchynet.network.stages import Stage

__all__ = ["BLOCKS_PER_GROUP", "INPUT_SHAPE", "plain", "stages"]

INPUT_SHAPE = (3, 32, 32)
BLOCKS_PER_GROUP = 18


def stages(variant: str, classes: int) -> list[Stage]:
    """The three stages of B-ResNet-110 for images [B, 3, 32, 32], in variant `code`, `paper` or `modern`."""
    if variant == "modern":
        return _modern(classes)
    code = variant == "code"
    side = 30 if code else 32
    start = [
        nn.Conv2d(3, 16, 3, padding=0 if code else 1, bias=code),
        nn.BatchNorm2d(16, eps=2e-5),
        nn.ReLU(),
    ]  # [16, side, side]
    group = [ResidualBlock(16, 16, bias=code) for _ in range(BLOCKS_PER_GROUP)]
    # The code branches off before the first block, the paper after it.
    inside = 0 if code else 1
    rest = [*_group(16, 32, bias=code), *_group(32, 64, bias=code)]  # [64, 8, 8]
    # 6×6 average with stride 1 leaves 3×3 of the code's map; the paper's trunk averages over the whole map.
    end = [nn.AvgPool2d(6, 1), nn.Flatten()] if code else [nn.AvgPool2d(8), nn.Flatten()]
    return [
        Stage(nn.Sequential(*start, *group[:inside]), _first_branch(side, classes)),
        Stage(nn.Sequential(*group[inside:]), _second_branch(side, classes, bias=code)),
        Stage(nn.Sequential(*rest, *end), nn.Linear(576 if code else 64, classes)),
    ]


def plain(blocks: int, classes: int) -> list[Stage]:
    """The network of He et al. 2015 with *blocks* residual blocks in each group, 6·*blocks* + 2 layers: one stage."""
    return [Stage(nn.Sequential(*_trunk(blocks)), nn.Linear(64, classes))]


def _group(inputs: int, outputs: int, *, bias: bool, blocks: int = BLOCKS_PER_GROUP) -> list[ResidualBlock]:
    halving = ResidualBlock(inputs, outputs, stride=2, bias=bias)
    return [halving, *(ResidualBlock(outputs, outputs, bias=bias) for _ in range(blocks - 1))]


def _first_branch(side: int, classes: int) -> nn.Module:
    """Three convolutions and a linear layer: a fifth of the trunk's MACs, the price of the released design."""
    return nn.Sequential(
        nn.Conv2d(16, 64, 5, padding=2),
        nn.ReLU(),
        LocalResponseNorm(),
        nn.Conv2d(64, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * side * side, classes),
    )


def _second_branch(side: int, classes: int, *, bias: bool) -> nn.Module:
    return nn.Sequential(ResidualBlock(16, 16, bias=bias), nn.Flatten(), nn.Linear(16 * side * side, classes))


def _trunk(blocks: int) -> list[nn.Module]:
    """Three layers, three groups of *blocks* blocks, two layers; [B, 3, 32, 32] to [B, 64]."""
    groups = [
        *(ResidualBlock(16, 16, bias=False) for _ in range(blocks)),
        *_group(16, 32, bias=False, blocks=blocks),
        *_group(32, 64, bias=False, blocks=blocks),
    ]
    for block in groups:
        # Each block starts as nothing but its shortcut, which a network this deep learns faster from.
        nn.init.zeros_(block.norm2.weight)
    start = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16, eps=2e-5), nn.ReLU()]
    return [*start, *groups, nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def _modern(classes: int) -> list[Stage]:
    layers = _trunk(BLOCKS_PER_GROUP)
    first, second = 3 + 1, 3 + BLOCKS_PER_GROUP + 1  # behind the start: one block; the first group and one more
    return [
        Stage(nn.Sequential(*layers[:first]), residual_head(16, (40, 80), classes)),
        Stage(nn.Sequential(*layers[first:second]), residual_head(32, (64, 128), classes)),
        Stage(nn.Sequential(*layers[second:]), nn.Linear(64, classes)),
    ]
