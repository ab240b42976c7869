"""What gives a tensor another shape, or picks from it; shapes and places come as tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from branchynet.errors import InvalidInput

__all__ = ["SHAPES", "named_axes"]


def named_axes(axes: Tensor | None, x: Tensor, *, nothing: bool = False) -> list[int]:
    """The dimensions that *axes* names; all of *x*, or none if *nothing*, where it names none."""
    if axes is not None and axes.numel():
        return [int(axis) for axis in axes.tolist()]
    return [] if nothing else list(range(x.ndim))


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    wanted = [int(side) for side in shape.tolist()]
    if not allowzero:
        wanted = [x.shape[index] if side == 0 else side for index, side in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(named_axes(axes, x)))


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(int(axis) % rank for axis in axes.reshape(-1).tolist()):
        x = x.unsqueeze(axis)
    return x


def _split(
    x: Tensor, split: Tensor | None = None, *, axis: int = 0, num_outputs: int = 0, outputs: int = 0
) -> tuple[Tensor, ...]:
    even = math.ceil(x.shape[axis] / (num_outputs or outputs))
    sizes = even if split is None else [int(part) for part in split.tolist()]
    parts: tuple[Tensor, ...] = x.split(sizes, axis)  # type: ignore[no-untyped-call]
    return parts


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    along = named_axes(axes, x)[: starts.numel()]
    strides = [1] * len(along) if steps is None else steps.tolist()
    for axis, start, end, step in zip(along, starts.tolist(), ends.tolist(), strides, strict=True):
        if step < 0:
            places = range(x.shape[axis])[slice(start, end if end >= -x.shape[axis] else None, step)]
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
        else:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
    return x


def _gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, indices.reshape(-1))
    axis = axis % x.ndim
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    if batch_dims:
        raise InvalidInput(f"GatherND has batch_dims {batch_dims}")
    return x[tuple(indices.unbind(-1))]


def _pad(
    x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None, *, mode: str = "constant"
) -> Tensor:
    along, amounts = [axis % x.ndim for axis in named_axes(axes, x)], [int(amount) for amount in pads.tolist()]
    around = {axis: (amounts[index], amounts[len(along) + index]) for index, axis in enumerate(along)}
    first = min((axis for axis, sides in around.items() if any(sides)), default=x.ndim)
    pairs = [amount for axis in reversed(range(first, x.ndim)) for amount in around.get(axis, (0, 0))]
    way = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}[mode]
    if way == "constant":
        return F.pad(x, pairs, value=0.0 if value is None or not value.numel() else float(value))
    return F.pad(x, pairs, mode=way)


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    wanted = tuple(int(side) for side in shape.tolist())
    return x.expand(torch.broadcast_shapes(x.shape, wanted))  # type: ignore[no-untyped-call]


def _depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    batch, channels, height, width = x.shape
    kept = channels // blocksize**2
    parts = x.reshape(batch, blocksize, blocksize, kept, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(batch, kept, height * blocksize, width * blocksize)


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[slice(start, end)], dtype=torch.int64)


def _filled(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    filling = torch.zeros(1) if value is None else value
    return filling.expand([int(side) for side in shape.tolist()])


SHAPES: dict[str, Callable[..., Any]] = {
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "ConstantOfShape": _filled,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Range": lambda start, limit, delta: torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype),
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda x, repeats: x.repeat(repeats.tolist()),
    "Transpose": lambda x, perm=None: x.permute(perm or tuple(reversed(range(x.ndim)))),
    "Unsqueeze": _unsqueeze,
}
