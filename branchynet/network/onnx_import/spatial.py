"""Convolutions, pooling and resizing, with the paddings that ONNX knows and torch does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from branchynet.errors import InvalidInput
from branchynet.network.onnx_import.shapes import Numbers, plain

__all__ = ["SPATIAL"]

Sizes = Sequence[int]


def _padding(x: Tensor, kernel: Sizes, strides: Sizes, dilations: Sizes, auto_pad: str, pads: Sizes) -> list[int]:
    """What stands before each spatial dimension of *x*, then what behind each, as ONNX orders them."""
    if auto_pad in ("NOTSET", ""):
        return list(pads) or [0] * 2 * len(kernel)
    if auto_pad == "VALID":
        return [0] * 2 * len(kernel)
    missing = [
        max((math.ceil(side / step) - 1) * step + (size - 1) * spread + 1 - side, 0)
        for side, size, step, spread in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    small, large = [part // 2 for part in missing], [part - part // 2 for part in missing]
    return [*small, *large] if auto_pad == "SAME_UPPER" else [*large, *small]


def _padded(x: Tensor, pads: Sizes, value: float = 0.0) -> Tensor:
    """*x* with *pads* around its spatial dimensions; torch takes them from the last dimension on, in pairs."""
    half = len(pads) // 2
    pairs = [size for index in reversed(range(half)) for size in (pads[index], pads[half + index])]
    return F.pad(x, pairs, value=value) if any(pairs) else x


def _convolution(  # noqa: PLR0913 (the attributes of the standard)
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sizes = (),
    strides: Sizes = (),
    dilations: Sizes = (),
    group: int = 1,
    auto_pad: str = "NOTSET",
    pads: Sizes = (),
) -> Tensor:
    kernel = kernel_shape or weight.shape[2:]
    strides, dilations = strides or [1] * len(kernel), dilations or [1] * len(kernel)
    pads = _padding(x, kernel, strides, dilations, auto_pad, pads)
    run = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    half = len(pads) // 2
    if list(pads[:half]) == list(pads[half:]):
        return run(x, weight, bias, list(strides), list(pads[:half]), list(dilations), group)
    return run(_padded(x, pads), weight, bias, list(strides), 0, list(dilations), group)


def _transposed_convolution(  # noqa: PLR0913 (the attributes of the standard)
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sizes = (),
    strides: Sizes = (),
    dilations: Sizes = (),
    group: int = 1,
    output_padding: Sizes = (),
    pads: Sizes = (),
) -> Tensor:
    count = weight.ndim - 2
    pads = pads or [0] * 2 * count
    if list(pads[:count]) != list(pads[count:]):
        raise InvalidInput(f"ConvTranspose has the uneven pads {list(pads)}")
    run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[count - 1]
    del kernel_shape  # the weight has it
    out = list(output_padding) or [0] * count
    return run(
        x, weight, bias, list(strides) or [1] * count, list(pads[:count]), out, group, list(dilations) or [1] * count
    )


def _native(kernel: Sizes, pads: Sizes, ceil_mode: int) -> list[int] | None:
    """The padding of torch's own pooling that is the same, as ONNX Runtime's quick kernels have it; None if none is."""
    half = len(kernel)
    even = list(pads[:half]) == list(pads[half:]) and all(2 * p <= k for p, k in zip(pads[:half], kernel, strict=True))
    return list(pads[:half]) if even and not ceil_mode else None


def _pooled(x: Tensor, kernel: Sizes, strides: Sizes, pads: Sizes, value: float, ceil_mode: int) -> Tensor:
    """*x* with *value* around it, as far as windows reach: pooling then needs neither padding nor ceiling."""
    pads, half = list(pads), len(kernel)
    for index in range(half if ceil_mode else 0):
        # A last window that begins within the map or its padding counts.
        side = x.shape[2 + index] + pads[index] + pads[half + index]
        steps = math.ceil((side - kernel[index]) / strides[index])
        if steps * strides[index] >= x.shape[2 + index] + pads[index]:
            steps -= 1
        pads[half + index] += max(steps * strides[index] + kernel[index] - side, 0)
    return _padded(x, pads, value)


def _max_pool(
    x: Tensor,
    *,
    kernel_shape: Sizes,
    strides: Sizes = (),
    dilations: Sizes = (),
    auto_pad: str = "NOTSET",
    pads: Sizes = (),
    ceil_mode: int = 0,
    storage_order: int = 0,
) -> Tensor:
    del storage_order  # of the indices, which nothing of ours asks for
    strides, dilations = strides or [1] * len(kernel_shape), dilations or [1] * len(kernel_shape)
    pads = _padding(x, kernel_shape, strides, dilations, auto_pad, pads)
    run = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel_shape) - 1]
    if (padding := _native(kernel_shape, pads, ceil_mode)) is not None:
        whole: Tensor = run(x, list(kernel_shape), list(strides), padding, list(dilations))
        return whole
    reach = [(size - 1) * spread + 1 for size, spread in zip(kernel_shape, dilations, strict=True)]
    x = _pooled(x, reach, strides, pads, -math.inf, ceil_mode)
    pooled: Tensor = run(x, list(kernel_shape), list(strides), 0, list(dilations))
    return pooled


def _average_pool(
    x: Tensor,
    *,
    kernel_shape: Sizes,
    strides: Sizes = (),
    dilations: Sizes = (),
    auto_pad: str = "NOTSET",
    pads: Sizes = (),
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:
    strides, dilations = strides or [1] * len(kernel_shape), dilations or [1] * len(kernel_shape)
    if any(spread != 1 for spread in dilations):
        raise InvalidInput(f"AveragePool has the dilations {list(dilations)}")
    pads = _padding(x, kernel_shape, strides, dilations, auto_pad, pads)
    run = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel_shape) - 1]
    if (padding := _native(kernel_shape, pads, ceil_mode)) is not None:
        counts = bool(count_include_pad)
        return run(x, list(kernel_shape), list(strides), padding, count_include_pad=counts)
    counted = torch.ones_like(x[:1, :1])
    if count_include_pad:
        x, counted, pads = _padded(x, pads), _padded(counted, pads, 1.0), [0] * len(pads)
    whole, shares = (_pooled(part, kernel_shape, strides, pads, 0.0, ceil_mode) for part in (x, counted))
    sums, share = (run(part, list(kernel_shape), list(strides)) for part in (whole, shares))
    # Where a window reaches beyond what counts, its mean is of what counts.
    return sums / share


def _resize(  # noqa: PLR0913 (the attributes of the standard)
    x: Tensor,
    roi: Numbers | None = None,
    scales: Numbers | None = None,
    sizes: Numbers | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    antialias: int = 0,
    **_: Any,
) -> Tensor:
    del roi
    known = {
        ("nearest", "asymmetric"): ("nearest", None),
        ("linear", "half_pixel"): ("bilinear", False),
        ("linear", "pytorch_half_pixel"): ("bilinear", False),
        ("linear", "align_corners"): ("bilinear", True),
        ("cubic", "half_pixel"): ("bicubic", False),
        ("cubic", "pytorch_half_pixel"): ("bicubic", False),
        ("cubic", "align_corners"): ("bicubic", True),
    }
    chosen = known.get((mode, coordinate_transformation_mode))
    floors = mode != "nearest" or nearest_mode == "floor"
    if chosen is None or not floors or x.ndim != 4 or (mode == "cubic" and cubic_coeff_a != -0.75):
        raise InvalidInput(f"Resize is {mode} with {coordinate_transformation_mode} and {nearest_mode} of {x.ndim}-D")
    size = plain(sizes)[2:] or [
        math.floor(side * scale) for side, scale in zip(x.shape[2:], plain(scales)[2:], strict=True)
    ]
    way, corners = chosen
    return F.interpolate(x, size, mode=way, align_corners=corners, antialias=bool(antialias))


SPATIAL: dict[str, Callable[..., Any]] = {
    "AveragePool": _average_pool,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "MaxPool": _max_pool,
    "Resize": _resize,
}
