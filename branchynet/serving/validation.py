"""Checks of what comes in from outside, each with the value and the legal range in its message."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import ArtifactMismatch, InvalidInput, TooLarge, UnknownModel

__all__ = ["HASH_CHARACTERS", "check_batch", "check_hash", "check_model"]

# Of a SHA-256 in hex: 64 bits tell artifacts apart as well as 256 do, and every offload carries them.
HASH_CHARACTERS = 16


def check_batch(
    array: NDArray[np.generic],
    dtype: np.dtype[np.generic],
    item_shape: tuple[int, ...],
    max_batch: int,
    what: str,
) -> None:
    """Raise unless *array* is [1 … max_batch, *item_shape*] of *dtype* and, for floats, finite everywhere.

    Raises `InvalidInput` for dtype, shape or a NaN or infinity (with its position), `TooLarge` for the batch.
    """
    if array.dtype != dtype:
        raise InvalidInput(f"{what}: dtype is {array.dtype}, it must be {dtype}")
    if array.shape[1:] != item_shape or array.ndim < 1:
        raise InvalidInput(f"{what}: shape is {array.shape}, it must be (batch, {', '.join(map(str, item_shape))})")
    if len(array) == 0:
        raise InvalidInput(f"{what}: the batch is empty")
    if len(array) > max_batch:
        raise TooLarge(f"{what}: the batch holds {len(array)} samples, this node takes at most {max_batch}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        position = tuple(int(index) for index in np.argwhere(~np.isfinite(array))[0])
        raise InvalidInput(f"{what}: the value at {position} is {array[position]}, it must be finite")


def check_model(asked: str, served: str) -> None:
    """Raise `UnknownModel` unless *asked* is empty or the *served* name."""
    if asked not in ("", served):
        raise UnknownModel(f"model {asked!r} is not served here; this node serves {served!r}")


def check_hash(theirs: str, ours: str) -> None:
    """Raise `ArtifactMismatch` unless *theirs* is *ours*, or its first `HASH_CHARACTERS` or more: the same weights."""
    if len(theirs) < HASH_CHARACTERS or not ours.startswith(theirs):
        raise ArtifactMismatch(
            f"the edge's half has content hash {theirs[:64]!r}, this node holds {ours!r}: "
            "deploy the same artifact to both"
        )
