"""What gives a tensor another shape, or picks from it.

Shapes and places come as tensors, or as numbers where they are known before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from branchynet.errors import InvalidInput

__all__ = ["SHAPES", "Numbers", "named_axes", "plain"]

Numbers = Tensor | Sequence[int] | Sequence[float] | float


def plain(numbers: Numbers | None) -> list[Any]:
    """*numbers* as a list; that of None is empty."""
    if numbers is None:
        return []
    given = numbers.tolist() if isinstance(numbers, Tensor) else numbers
    return list(given) if isinstance(given, Sequence) else [given]


def named_axes(axes: Numbers | None, x: Tensor, *, nothing: bool = False) -> list[int]:
    """The dimensions that *axes* names; all of *x*, or none if *nothing*, where it names none."""
    return plain(axes) or ([] if nothing else list(range(x.ndim)))


def _reshape(x: Tensor, shape: Numbers, *, allowzero: int = 0) -> Tensor:
    wanted = plain(shape)
    if not allowzero:
        wanted = [x.shape[index] if side == 0 else side for index, side in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(x: Tensor, axes: Numbers | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(named_axes(axes, x)))


def _unsqueeze(x: Tensor, axes: Numbers) -> Tensor:
    rank = x.ndim + len(plain(axes))
    for axis in sorted(axis % rank for axis in plain(axes)):
        x = x.unsqueeze(axis)
    return x


def _split(
    x: Tensor, split: Numbers | None = None, *, axis: int = 0, num_outputs: int = 0, outputs: int = 0
) -> tuple[Tensor, ...]:
    even = math.ceil(x.shape[axis] / (num_outputs or outputs))
    sizes = even if split is None else plain(split)
    parts: tuple[Tensor, ...] = x.split(sizes, axis)  # type: ignore[no-untyped-call]
    return parts


def _slice(
    x: Tensor, starts: Numbers, ends: Numbers, axes: Numbers | None = None, steps: Numbers | None = None
) -> Tensor:
    firsts, lasts = plain(starts), plain(ends)
    along = named_axes(axes, x)[: len(firsts)]
    for axis, start, end, step in zip(along, firsts, lasts, plain(steps) or [1] * len(along), strict=True):
        if step < 0:
            places = range(x.shape[axis])[slice(start, end if end >= -x.shape[axis] else None, step)]
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
        else:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
    return x


def _gather(x: Tensor, indices: Tensor | int, *, axis: int = 0) -> Tensor:
    if isinstance(indices, int):
        return x.select(axis, indices)
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, indices.reshape(-1))
    axis = axis % x.ndim
    return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    if batch_dims:
        raise InvalidInput(f"GatherND has batch_dims {batch_dims}")
    return x[tuple(indices.unbind(-1))]


def _pad(
    x: Tensor, pads: Numbers, value: Numbers | None = None, axes: Numbers | None = None, *, mode: str = "constant"
) -> Tensor:
    along, amounts = [axis % x.ndim for axis in named_axes(axes, x)], plain(pads)
    around = {axis: (amounts[index], amounts[len(along) + index]) for index, axis in enumerate(along)}
    first = min((axis for axis, sides in around.items() if any(sides)), default=x.ndim)
    pairs = [amount for axis in reversed(range(first, x.ndim)) for amount in around.get(axis, (0, 0))]
    way = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}[mode]
    if way == "constant":
        return F.pad(x, pairs, value=(plain(value) or [0.0])[0])
    return F.pad(x, pairs, mode=way)


def _expand(x: Tensor, shape: Numbers) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(plain(shape))))  # type: ignore[no-untyped-call]


def _depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    batch, channels, height, width = x.shape
    kept = channels // blocksize**2
    parts = x.reshape(batch, blocksize, blocksize, kept, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(batch, kept, height * blocksize, width * blocksize)


def _space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    batch, channels, height, width = x.shape
    rows, columns = height // blocksize, width // blocksize
    parts = x.reshape(batch, channels, rows, blocksize, columns, blocksize).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(batch, channels * blocksize**2, rows, columns)


def _triangle(x: Tensor, k: Numbers = 0, *, upper: int = 1) -> Tensor:
    return (torch.triu if upper else torch.tril)(x, (plain(k) or [0])[0])


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[slice(start, end)], dtype=torch.int64)


def _filled(shape: Numbers, *, value: Tensor | None = None) -> Tensor:
    filling = torch.zeros(1) if value is None else value
    return filling.expand(plain(shape))


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
    "Size": lambda x: torch.tensor(x.numel()),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda x, repeats: x.repeat(plain(repeats)),
    "Transpose": lambda x, perm=None: x.permute(perm or tuple(reversed(range(x.ndim)))),
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
