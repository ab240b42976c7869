"""How weights lie in a file: as they are, in half precision, or in 8 bits with a scale for each output channel.

In memory they are float32 again. What is rounded when it is written is rounded for everybody who reads it: an
artifact's results are measured on what its files hold, and two halves that were read from them agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as tensors_from_bytes
from safetensors.numpy import save as tensors_to_bytes

from branchynet.errors import DamagedData, InvalidInput

__all__ = ["Tensors", "Weights", "pack", "read_tensors", "tensors_to_bytes", "unpack"]

Weights = Literal["fp32", "fp16", "int8"]
Tensors = Mapping[str, NDArray[Any]]

_SCALE = ".scale"
_LEVELS = 127


def pack(tensors: Tensors, weights: Weights) -> dict[str, NDArray[Any]]:
    """*tensors* as a file keeps them: contiguous, floats as *weights*; integers stay as they are.

    int8 holds each row of a matrix, or filter of a convolution, in 127 steps to either side of zero, the row's largest
    weight being the last: no weight is off by more than 1/254 of that, beside the rounding of the scale. Vectors
    (normalisations, biases) are few and stay in half precision. Raises `InvalidInput` for a weight that half precision
    cannot hold.
    """
    packed: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        plain = np.array(tensor, order="C")
        if weights == "fp32" or plain.dtype.kind != "f":
            packed[name] = plain
        elif weights == "fp16" or plain.ndim < 2:
            packed[name] = _half(name, plain)
        else:
            packed[name], packed[name + _SCALE] = _in_steps(name, plain)
    return packed


def unpack(packed: Tensors, weights: Weights, where: str) -> dict[str, NDArray[Any]]:
    """The float32 tensors of *packed*; raises `DamagedData`, naming *where*, if it was not packed as *weights*."""
    kept = np.float32 if weights == "fp32" else np.float16
    tensors: dict[str, NDArray[Any]] = {}
    for name, tensor in packed.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in packed:
            continue
        scale = packed.get(name + _SCALE)
        if scale is not None:
            if weights != "int8" or tensor.dtype != np.int8 or scale.shape != _scale_shape(tensor):
                raise DamagedData(f"{where} holds {name} in steps that the manifest's {weights} does not explain")
            tensors[name] = tensor.astype(np.float32) * scale.astype(np.float32)
        elif tensor.dtype.kind != "f":
            tensors[name] = tensor.copy()  # what comes from a file is read-only, which torch does not take
        elif tensor.dtype != kept or (weights == "int8" and tensor.ndim >= 2):
            raise DamagedData(f"{where} holds {tensor.dtype}, the manifest says {weights}")
        else:
            tensors[name] = tensor.astype(np.float32)
    return tensors


def read_tensors(blob: bytes, path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file's bytes; `DamagedData`, naming *path*, if it is none."""
    try:
        return dict(tensors_from_bytes(blob))
    except (SafetensorError, KeyError) as error:  # the latter for a kind of number that numpy has not
        raise DamagedData(f"{path} is not a safetensors file: {error}") from None


def _half(name: str, tensor: NDArray[Any]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = tensor.astype(np.float16)
    if np.isinf(half).any() and not np.isinf(tensor).any():
        raise InvalidInput(f"{name} reaches {np.abs(tensor).max():g}, which float16 cannot hold")
    return half


def _in_steps(name: str, tensor: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    largest = np.abs(tensor).max(axis=tuple(range(1, tensor.ndim)), keepdims=True)
    # A scale below half precision's smallest number would be zero, and so would be the row.
    scale = _half(name + _SCALE, np.maximum(largest / np.float32(_LEVELS), np.float32(2.0**-24)))
    steps = np.rint(tensor / scale.astype(np.float32)).clip(-_LEVELS, _LEVELS)
    return steps.astype(np.int8), scale


def _scale_shape(tensor: NDArray[Any]) -> tuple[int, ...]:
    return (tensor.shape[0], *(1,) * (tensor.ndim - 1))
