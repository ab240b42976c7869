"""Random changes to a batch of training images, drawn from a generator that is passed in."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from branchynet.training.recipes import Augmentation

__all__ = ["affine", "augmented", "crop_flip", "cutout", "shrink"]


def augmented(images: Tensor, kind: Augmentation, generator: Generator) -> Tensor:
    """*images*, uint8 [B, C, H, W], changed by a recipe's *kind*."""
    if kind == "crop-flip":
        return crop_flip(images, generator)
    if kind == "crop-flip-cutout":
        return cutout(crop_flip(images, generator), generator)
    if kind == "affine":
        return affine(images, generator)
    return images


def crop_flip(images: Tensor, generator: Generator) -> Tensor:
    """Shift each image by up to an eighth of its side (zeros come in) and mirror half of them; uint8 [B, C, H, W]."""
    batch, _, height, width = images.shape
    pad = height // 8
    padded = F.pad(images, (pad, pad, pad, pad))
    rows = torch.randint(0, 2 * pad + 1, (batch, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(0, 2 * pad + 1, (batch, 1), generator=generator) + torch.arange(width)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    sample = torch.arange(batch)[:, None, None]
    # Indexing dimensions 0, 2 and 3 together puts them first: [B, H, W, C].
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def cutout(images: Tensor, generator: Generator) -> Tensor:
    """Grey a square of a quarter of the side anywhere in each image (DeVries and Taylor 2017); uint8 [B, C, H, W]."""
    batch, _, height, width = images.shape
    side = height // 4
    top = torch.randint(0, height, (batch, 1), generator=generator) - side // 2
    left = torch.randint(0, width, (batch, 1), generator=generator) - side // 2
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    hidden = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return images.masked_fill(hidden, 128)


def shrink(images: Tensor, side: int) -> Tensor:
    """Images [B, C, H, W] at *side* × *side* pixels, float32, still 0 to 255."""
    return F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)


def affine(images: Tensor, generator: Generator) -> Tensor:
    """Turn (±12°), scale (±10 %) and shift (±8 %) each image; uint8 [B, C, H, W]. For digits: no mirroring."""
    batch = images.shape[0]

    def spread(limit: float) -> Tensor:
        return (torch.rand(batch, generator=generator) * 2 - 1) * limit

    angle, scale = spread(math.radians(12)), 1 + spread(0.1)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    # The grid's coordinates run from -1 to 1, so a shift of 8 % of the side is 0.16.
    rows = [torch.stack([cosine, -sine, spread(0.16)], 1), torch.stack([sine, cosine, spread(0.16)], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8)
