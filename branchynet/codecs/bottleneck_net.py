"""The trained halves of a bottleneck, in torch: the encoder that makes levels of a map, the decoder that undoes it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from branchynet.codecs.bottleneck import BottleneckShape, ConvolutionShape, TransformShape

__all__ = ["Bottleneck", "ConvolutionBottleneck", "TransformBottleneck", "fresh_bottleneck"]


def fresh_bottleneck(shape: BottleneckShape) -> Bottleneck:
    """Encoder and decoder of *shape*, with fresh weights."""
    if isinstance(shape, TransformShape):
        return TransformBottleneck(shape)
    assert isinstance(shape, ConvolutionShape)
    return ConvolutionBottleneck(shape)


class Bottleneck(nn.Module, ABC):
    """Encoder and decoder of one *shape*."""

    shape: BottleneckShape

    @abstractmethod
    def codes(self, maps: Tensor) -> Tensor:
        """Where *maps* [B, C, H, W] lie among the levels, 0 to levels - 1, not yet rounded: [B, …]."""

    @abstractmethod
    def decoded(self, levels: Tensor) -> Tensor:
        """The maps [B, C, H, W] that *levels*, float32 [B, …], stand for."""

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


class ConvolutionBottleneck(Bottleneck):
    """A convolution or two each way, and what refines between them."""

    def __init__(self, shape: ConvolutionShape) -> None:
        super().__init__()
        self.shape: ConvolutionShape = shape
        depth, height, width = shape.map_shape
        padding = shape.kernel // 2
        first = nn.Conv2d(depth, shape.hidden or shape.channels, shape.kernel, shape.stride, padding)
        second = [nn.ReLU(), nn.Conv2d(shape.hidden, shape.channels, 1)] if shape.hidden else []
        self.encoder = nn.Sequential(first, *second)
        # A transposed convolution does not know which of several heights the map had.
        grown = [(side - 1) % shape.stride for side in (height, width)]
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(shape.channels, shape.width, shape.kernel, shape.stride, padding, tuple(grown)),  # type: ignore[arg-type]
            nn.ReLU(),
            *(_Block(shape.width) for _ in range(shape.blocks)),
            nn.Conv2d(shape.width, depth, 3, padding=1),
            *([nn.ReLU()] if shape.positive else []),
        )

    def codes(self, maps: Tensor) -> Tensor:
        """See `Bottleneck`."""
        codes: Tensor = (self.shape.levels - 1) * torch.sigmoid(self.encoder(maps))
        return codes

    def decoded(self, levels: Tensor) -> Tensor:
        """See `Bottleneck`."""
        maps: Tensor = self.decoder(levels * (2 / (self.shape.levels - 1)) - 1)
        return maps


class TransformBottleneck(Bottleneck):
    """A linear transform of the map less its mean, and back; then what refines the result.

    `begin_at` makes it the Karhunen-Loève transform of given maps, the orthogonal one that puts most of their variance
    into fewest coefficients, separately by rows, by columns and, at each spatial frequency, by channels. From there
    both directions are trained on their own, with the width of each coefficient's levels.
    """

    kept: Tensor

    def __init__(self, shape: TransformShape) -> None:
        super().__init__()
        self.shape: TransformShape = shape
        depth = shape.map_shape[0]
        self.mean = nn.Parameter(torch.zeros(shape.map_shape))
        self.encoder, self.decoder = _Analysis(shape), _Synthesis(shape)
        # Logarithms: how many levels a unit of each coefficient is, and how many units a level.
        self.to_levels, self.from_levels = (nn.Parameter(torch.zeros(shape.kept)) for _ in range(2))
        self.register_buffer("kept", torch.arange(shape.kept))
        self.refining = nn.Sequential(
            nn.Conv2d(depth, shape.width, 3, padding=1),
            nn.ReLU(),
            *(_Block(shape.width) for _ in range(shape.blocks)),
            nn.Conv2d(shape.width, depth, 3, padding=1),
        )

    @torch.no_grad()
    def begin_at(self, maps: Tensor, step: float) -> None:
        """The transform of *maps* [B, C, H, W] with levels *step* of their standard deviations wide, unrefined."""
        self.mean.copy_(maps.mean(0))
        centred = maps - self.mean
        self.encoder.begin_at(centred)
        self.decoder.begin_at(self.encoder)
        variance = self.encoder(centred).flatten(1).square().mean(0)
        self.kept.copy_(variance.argsort(descending=True)[: self.shape.kept])
        width = math.log(step * float(maps.std()))
        self.to_levels.fill_(-width)
        self.from_levels.fill_(width)
        last = self.refining[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def codes(self, maps: Tensor) -> Tensor:
        """See `Bottleneck`."""
        middle = self.shape.levels // 2
        coefficients = self.encoder(maps - self.mean).flatten(1)[:, self.kept]
        codes: Tensor = (coefficients * self.to_levels.exp()).clamp(-middle, middle) + middle
        return codes.view(-1, *self.shape.code_shape)

    def decoded(self, levels: Tensor) -> Tensor:
        """See `Bottleneck`."""
        height, width, channels = self.shape.coefficients
        values = (levels.flatten(1) - self.shape.levels // 2) * self.from_levels.exp()
        coefficients = values.new_zeros(len(levels), height * width * channels).index_copy(1, self.kept, values)
        maps = self.decoder(coefficients.view(-1, height, width, channels)) + self.mean
        maps = maps + self.refining(maps)
        return F.relu(maps) if self.shape.positive else maps


class _Separable(nn.Module):
    """The matrices of a transform by rows, by columns, and by channels at each pair of frequencies."""

    def __init__(self, shape: TransformShape) -> None:
        super().__init__()
        channels, height, width = shape.map_shape
        vertical, horizontal, _ = shape.coefficients
        self.rows = nn.Parameter(torch.zeros(height, vertical))
        self.columns = nn.Parameter(torch.zeros(width, horizontal))
        self.mixes = nn.Parameter(torch.zeros(vertical, horizontal, channels, channels))


class _Analysis(_Separable):
    """Of maps [B, C, H, W] to coefficients [B, vertical frequencies, horizontal frequencies, channels]."""

    def begin_at(self, centred: Tensor) -> None:
        """The Karhunen-Loève transform of *centred* maps [B, C, H, W]."""
        for directions, at in ((self.rows, -2), (self.columns, -1)):
            found = _principal(centred.transpose(-1, at).flatten(0, -2).double())
            directions.copy_(found[:, : directions.shape[1]])
        self.mixes.copy_(_principal(self._frequencies(centred).double()))

    def _frequencies(self, maps: Tensor) -> Tensor:
        """[vertical, horizontal, B, C]: all maps together meet the matrix of each frequency.

        As torch likes it in memory: otherwise that takes one map eight times as long.
        """
        return (self.rows.T @ (maps @ self.columns)).permute(2, 3, 0, 1).contiguous()

    def forward(self, maps: Tensor) -> Tensor:
        """The coefficients of *maps*."""
        return (self._frequencies(maps) @ self.mixes).permute(2, 0, 1, 3)


class _Synthesis(_Separable):
    """Of coefficients back to maps."""

    def begin_at(self, analysis: _Analysis) -> None:
        """The inverse of *analysis*, which is orthogonal."""
        self.rows.copy_(analysis.rows)
        self.columns.copy_(analysis.columns)
        self.mixes.copy_(analysis.mixes.transpose(-1, -2))

    def forward(self, coefficients: Tensor) -> Tensor:
        """The maps of *coefficients*."""
        frequencies = coefficients.permute(1, 2, 0, 3).contiguous() @ self.mixes
        return self.rows @ (frequencies.permute(2, 3, 0, 1) @ self.columns.T)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """*x* and what two convolutions add to it."""
        return F.relu(x + self.second(F.relu(self.first(x))))


def _principal(vectors: Tensor) -> Tensor:
    """The directions in which *vectors* [..., M, D] vary, as columns [..., D, D], most first."""
    directions: Tensor = torch.linalg.eigh(vectors.transpose(-1, -2) @ vectors).eigenvectors.flip(-1)
    return directions
