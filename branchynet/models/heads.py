"""Exit heads for trunks that nobody designed with exits: light, and chosen by the shape they look at."""

from __future__ import annotations

import math

from torch import Tensor, nn

from branchynet.errors import InvalidInput

__all__ = ["ChannelsFirst", "MeanOfTokens", "default_head"]

GRID = 4  # a map is pooled to at most 4×4: where something is matters less the more exits follow
WIDTH = 64


class ChannelsFirst(nn.Module):
    """For maps of a network that has its channels last."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] to [B, C, H, W]."""
        return x.permute(0, 3, 1, 2)


class MeanOfTokens(nn.Module):
    """For what a transformer hands on."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] to [B, D]."""
        return x.mean(1)


def default_head(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A head from tensors [B, *shape*] to logits [B, *classes*], with fresh weights.

    A map [C, H, W] is pooled to at most 4×4, then one 3×3 convolution to at most 64 channels and a linear layer; a
    map whose first two dimensions are equal and differ from the third is taken for [H, W, C]. Tokens [N, D]: their
    mean, layer normalisation, a linear layer. A vector [D]: a linear layer. `InvalidInput` for any other shape.
    """
    if len(shape) == 1:
        return nn.Linear(shape[0], classes)
    if len(shape) == 2:
        return nn.Sequential(MeanOfTokens(), nn.LayerNorm(shape[1]), nn.Linear(shape[1], classes))
    if len(shape) != 3:
        raise InvalidInput(f"no default head looks at a tensor of shape {shape} per sample; give one with head=")
    if shape[0] == shape[1] != shape[2]:
        return nn.Sequential(ChannelsFirst(), *_map_head((shape[2], *shape[:2]), classes))
    return nn.Sequential(*_map_head(shape, classes))


def _map_head(shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    channels, *sides = shape
    kernel = [math.ceil(side / GRID) for side in sides]
    pooled = math.prod(math.ceil(side / step) for side, step in zip(sides, kernel, strict=True))
    width = min(channels, WIDTH)
    return [
        nn.AvgPool2d((kernel[0], kernel[1]), ceil_mode=True),
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * pooled, classes),
    ]
