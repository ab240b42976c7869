"""Arrays for what a training looks at again and again: in memory, or beyond some size in files that end with them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from branchynet.system import reserve_room

__all__ = ["scratch_arrays"]

Scalar = TypeVar("Scalar", bound=np.generic)

# All arrays of one call together; beyond it they are mapped from files.
IN_MEMORY_BYTES = 512 * 1024 * 1024


def scratch_arrays(shapes: Sequence[tuple[int, ...]], dtype: type[Scalar]) -> list[NDArray[Scalar]]:
    """An array of each of *shapes*, not filled; `OSError` if the disk has no room for them."""
    size = np.dtype(dtype).itemsize
    if sum(size * math.prod(shape) for shape in shapes) <= IN_MEMORY_BYTES:
        return [np.empty(shape, dtype) for shape in shapes]
    return [_mapped(shape, dtype) for shape in shapes]


def _mapped(shape: tuple[int, ...], dtype: type[Scalar]) -> NDArray[Scalar]:
    with tempfile.TemporaryFile() as file:  # the mapping keeps what is in it
        reserve_room(file.fileno(), np.dtype(dtype).itemsize * math.prod(shape))
        return np.memmap(file, dtype, "w+", shape=shape)
