"""What a pixel becomes before the first layer: a plain value, which only training and the eager engine apply."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Normalisation"]

PIXEL_MAX = 255.0


@dataclass(frozen=True)
class Normalisation:
    """Pixels uint8 0..255 become (pixel/255 - mean)/std, one *mean* and *std* per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @cached_property
    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The same as pixel·scale + shift, [1, C, 1, 1] each: made once, for a camera's image is over in 100 µs."""
        import torch  # a node that runs graphs has the two values inside them, and may have no torch

        # A surrounding `torch.device("meta")`, under which halves are built, must not take hold of these.
        mean = torch.tensor(self.mean, device="cpu").view(1, -1, 1, 1)
        std = torch.tensor(self.std, device="cpu").view(1, -1, 1, 1)
        return 1.0 / (PIXEL_MAX * std), -mean / std

    def __call__(self, images: Tensor) -> Tensor:
        """Float32 [B, C, H, W] of *images*, uint8 [B, C, H, W]."""
        scale, shift = self._scale_and_shift
        return images.float() * scale.to(images.device) + shift.to(images.device)
