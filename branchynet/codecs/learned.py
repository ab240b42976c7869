"""The trained halves of a bottleneck, in torch: the encoder that makes levels of a map, the decoder that undoes it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from branchynet.codecs.bottleneck import BottleneckShape

__all__ = ["Bottleneck"]


class Bottleneck(nn.Module):
    """Encoder and decoder of *shape*, with fresh weights."""

    def __init__(self, shape: BottleneckShape) -> None:
        super().__init__()
        self.shape = shape
        depth, height, width = shape.map_shape
        padding = shape.kernel // 2
        first = nn.Conv2d(depth, shape.hidden or shape.channels, shape.kernel, shape.stride, padding)
        second = [nn.ReLU(), nn.Conv2d(shape.hidden, shape.channels, 1)] if shape.hidden else []
        self.encoder = nn.Sequential(first, *second)
        # A transposed convolution alone does not say which of several heights the map had.
        grown = [(side - 1) % shape.stride for side in (height, width)]
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(shape.channels, shape.width, shape.kernel, shape.stride, padding, tuple(grown)),  # type: ignore[arg-type]
            nn.ReLU(),
            *(_Block(shape.width) for _ in range(shape.blocks)),
            nn.Conv2d(shape.width, depth, 3, padding=1),
            *([nn.ReLU()] if shape.positive else []),
        )

    def codes(self, maps: Tensor) -> Tensor:
        """Where *maps* [B, C, H, W] lie among the levels, 0 to levels - 1, not yet rounded."""
        codes: Tensor = (self.shape.levels - 1) * torch.sigmoid(self.encoder(maps))
        return codes

    def decoded(self, levels: Tensor) -> Tensor:
        """The maps [B, C, H, W] that *levels*, float32 [B, channels, …], stand for."""
        maps: Tensor = self.decoder(levels * (2 / (self.shape.levels - 1)) - 1)
        return maps

    @torch.inference_mode()
    def levels(self, features: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See `Halves`."""
        rounded = self.codes(torch.tensor(features)[None]).round()
        # Finite values may still overflow inside; whatever level that is, it is one.
        levels: NDArray[np.uint8] = rounded.nan_to_num(0.0).to(torch.uint8).numpy().reshape(-1)
        return levels

    @torch.inference_mode()
    def features(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Halves`."""
        shaped = torch.tensor(levels).float().view(1, *self.shape.code_shape)
        features: NDArray[np.float32] = self.decoded(shaped)[0].numpy()
        return features


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """*x* and what two convolutions add to it."""
        return F.relu(x + self.second(F.relu(self.first(x))))
