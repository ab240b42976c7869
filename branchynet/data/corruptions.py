"""Images as a worse camera would see them: a kind of corruption and a severity from 1 to 5.

The kinds are four of those with which Hendrycks and Dietterich (2019, "Benchmarking neural network robustness to common
corruptions and perturbations") test classifiers; the strengths are our own, in units that hold for any image size.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

__all__ = ["SEVERITIES", "Corruption", "corrupt"]

SEVERITIES = (1, 2, 3, 4, 5)
PIXEL_MAX = 255.0
CHUNK = 1_000

Pixels = NDArray[np.float32]


class Corruption(StrEnum):
    """What went wrong."""

    NOISE = "noise"
    BLUR = "blur"
    BRIGHTNESS = "brightness"
    CONTRAST = "contrast"


def corrupt(images: NDArray[np.uint8], kind: Corruption, severity: int, seed: int = 0) -> NDArray[np.uint8]:
    """A corrupted copy of *images*, uint8 [N, C, H, W]. Depends on nothing but its arguments.

    Raises `InvalidInput` for a severity outside 1 … 5.
    """
    if severity not in SEVERITIES:
        raise InvalidInput(f"severity is {severity}; it must be 1 to 5")
    generator, change, strength = np.random.default_rng(seed), _CHANGES[kind], _STRENGTHS[kind][severity - 1]
    changed = np.empty_like(images)
    for start in range(0, len(images), CHUNK):  # a whole data set as floats would take four times its memory
        pixels = images[start : start + CHUNK].astype(np.float32) / PIXEL_MAX
        worse = change(pixels, strength, generator)
        changed[start : start + CHUNK] = (PIXEL_MAX * worse).round().clip(0, PIXEL_MAX).astype(np.uint8)
    return changed


def _noise(pixels: Pixels, deviation: float, generator: np.random.Generator) -> Pixels:
    """Gaussian noise of a standard *deviation* in units of the pixel range."""
    return np.asarray(pixels + np.float32(deviation) * generator.standard_normal(pixels.shape, dtype=np.float32))


def _blur(pixels: Pixels, sigma: float, _: np.random.Generator) -> Pixels:
    """A Gaussian of *sigma* pixels; the outermost pixels go on beyond the edges."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (2, 3):
        size = pixels.shape[axis]
        padded = np.pad(pixels, [(reach, reach) if index == axis else (0, 0) for index in range(4)], mode="edge")
        shifted = (padded.take(range(offset, offset + size), axis=axis) for offset in range(len(weights)))
        pixels = np.asarray(sum(weight * part for weight, part in zip(weights, shifted, strict=True)), dtype=np.float32)
    return pixels


def _brightness(pixels: Pixels, added: float, _: np.random.Generator) -> Pixels:
    """*added* to every pixel, in units of the pixel range."""
    return np.asarray(pixels + np.float32(added))


def _contrast(pixels: Pixels, kept: float, _: np.random.Generator) -> Pixels:
    """Each image's distance from its own mean, of which the share *kept* is left."""
    mean = pixels.mean(axis=(1, 2, 3), keepdims=True)
    return np.asarray(mean + np.float32(kept) * (pixels - mean))


_CHANGES: dict[Corruption, Callable[[Pixels, float, np.random.Generator], Pixels]] = {
    Corruption.NOISE: _noise,
    Corruption.BLUR: _blur,
    Corruption.BRIGHTNESS: _brightness,
    Corruption.CONTRAST: _contrast,
}
_STRENGTHS = {
    Corruption.NOISE: (0.04, 0.08, 0.12, 0.18, 0.26),
    Corruption.BLUR: (0.4, 0.6, 0.8, 1.1, 1.5),
    Corruption.BRIGHTNESS: (0.05, 0.1, 0.2, 0.3, 0.4),
    Corruption.CONTRAST: (0.75, 0.5, 0.4, 0.3, 0.15),
}
