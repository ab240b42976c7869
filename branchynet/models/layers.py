"""Layers as the released Chainer code of 2016 meant them, said in PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LocalResponseNorm", "ResidualBlock", "ceil_pool", "convolution", "initialise", "residual_head"]


def ceil_pool(kernel: int, stride: int = 2) -> nn.MaxPool2d:
    """Max pooling that covers the whole map: Chainer's `cover_all=True` is PyTorch's `ceil_mode=True`."""
    return nn.MaxPool2d(kernel, stride, ceil_mode=True)


class LocalResponseNorm(nn.Module):
    """x / (2 + 5e-5 · Σ x²)^0.75, the sum over a channel and its two neighbours.

    Chainer's defaults and meaning: it does not divide alpha by the window as PyTorch does. Equal to
    `torch.nn.LocalResponseNorm(3, alpha=1.5e-4, beta=0.75, k=2)`, which goes through a three-dimensional pooling
    that is slower and has no bfloat16 form.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        denominator = self._as_convolution(x * x) if torch.compiler.is_exporting() else self._by_slices(x * x)
        # d^-0.75 by two square roots; a general power is several times slower.
        return x * torch.rsqrt(denominator * torch.sqrt(denominator))

    def _by_slices(self, squares: Tensor) -> Tensor:
        padded = F.pad(squares, (0, 0, 0, 0, 1, 1))
        return 2.0 + 5e-5 * (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:])

    def _as_convolution(self, squares: Tensor) -> Tensor:
        """The same in one 1×1 convolution: a graph has to copy each slice, and ONNX's own LRN takes general powers."""
        channels = squares.shape[1]
        band = (torch.ones(channels, channels).triu(-1).tril(1) * 5e-5)[:, :, None, None]
        return F.conv2d(squares, band, torch.full((channels,), 2.0))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation and a parameter-free shortcut.

    Where the block halves the map, the shortcut takes every second pixel and pads zeros *before* the old
    channels, as the released code does (He et al. 2015, option A, pads after them). Convolutions have biases
    there too, although the normalisation makes them useless.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, bias: bool = True) -> None:
        super().__init__()
        self.stride = stride
        self.padding_channels = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
        self.norm1 = nn.BatchNorm2d(outputs, eps=2e-5)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(outputs, eps=2e-5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, ⌈H/stride⌉, ⌈W/stride⌉]."""
        h = F.relu(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(h))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.padding_channels:
            x = F.pad(x, (0, 0, 0, 0, self.padding_channels, 0))
        return F.relu(h + x)


def convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> list[nn.Module]:
    """Convolution, batch normalisation and ReLU; [B, inputs, H, W] to [B, outputs, ⌈H/stride⌉, ⌈W/stride⌉]."""
    convolve = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolve, nn.BatchNorm2d(outputs), nn.ReLU()]


def residual_head(inputs: int, widths: tuple[int, ...], classes: int) -> nn.Sequential:
    """A branch that halves the map before it works on it: for each width a strided convolution and a residual block.

    A branch at full resolution is dear: the paper's first one on B-ResNet-110 costs a fifth of the whole trunk.
    In first trials the residual block learnt more per MAC than strided convolutions alone.
    """
    layers: list[nn.Module] = []
    for width in widths:
        layers += [*convolution(inputs, width, stride=2), ResidualBlock(width, width, bias=False)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def initialise(network: nn.Module, convolution_scale: float = 1.0) -> None:
    """LeCun-normal weights and zero biases, Chainer 1's default; convolutions may be scaled (√2 in B-ResNet)."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan_in = layer.weight[0].numel()
            scale = convolution_scale if isinstance(layer, nn.Conv2d) else 1.0
            nn.init.normal_(layer.weight, std=scale / math.sqrt(fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
