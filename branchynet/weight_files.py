"""How weights lie in a file: as they are, in half precision, or in 8 bits with a scale for each output channel.

In memory they are float32 again. What is rounded when it is written is rounded for everybody who reads it: an
artifact's results are measured on what its files hold, and two halves that were read from them agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from branchynet.errors import DamagedData, InvalidInput

__all__ = ["Weights", "pack", "read_tensors", "tensors_to_bytes", "unpack"]

Weights = Literal["fp32", "fp16", "int8"]

_SCALE = ".scale"
_LEVELS = 127


def pack(tensors: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """*tensors* as a file keeps them: contiguous, floats as *weights*; integers stay as they are.

    int8 holds each row of a matrix, or filter of a convolution, in 127 steps to either side of zero, the row's largest
    weight being the last: no weight is off by more than 1/254 of that, beside the rounding of the scale. Vectors
    (normalisations, biases) are few and stay in half precision. Raises `InvalidInput` for a weight that half precision
    cannot hold.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().contiguous()
        if weights == "fp32" or not plain.is_floating_point():
            packed[name] = plain
        elif weights == "fp16" or plain.dim() < 2:
            packed[name] = _half(name, plain)
        else:
            packed[name], packed[name + _SCALE] = _in_steps(name, plain)
    return packed


def unpack(packed: Mapping[str, Tensor], weights: Weights, where: str) -> dict[str, Tensor]:
    """The float32 tensors of *packed*; raises `DamagedData`, naming *where*, if it was not packed as *weights*."""
    kept = torch.float32 if weights == "fp32" else torch.float16
    tensors: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in packed:
            continue
        scale = packed.get(name + _SCALE)
        if scale is not None:
            if weights != "int8" or tensor.dtype != torch.int8 or scale.shape != _scale_shape(tensor):
                raise DamagedData(f"{where} holds {name} in steps that the manifest's {weights} does not explain")
            tensors[name] = tensor.float() * scale.float()
        elif not tensor.is_floating_point():
            tensors[name] = tensor
        elif tensor.dtype != kept or (weights == "int8" and tensor.dim() >= 2):
            raise DamagedData(f"{where} holds {tensor.dtype}, the manifest says {weights}")
        else:
            tensors[name] = tensor.float()
    return tensors


def read_tensors(blob: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file's bytes; `DamagedData`, naming *path*, if it is none."""
    try:
        return dict(tensors_from_bytes(blob))
    except SafetensorError as error:
        raise DamagedData(f"{path} is not a safetensors file: {error}") from None


def _half(name: str, tensor: Tensor) -> Tensor:
    half = tensor.to(torch.float16)
    if half.isinf().any() and not tensor.isinf().any():
        raise InvalidInput(f"{name} reaches {tensor.abs().max():g}, which torch.float16 cannot hold")
    return half


def _in_steps(name: str, tensor: Tensor) -> tuple[Tensor, Tensor]:
    largest = tensor.abs().amax(dim=tuple(range(1, tensor.dim())), keepdim=True)
    # A scale below half precision's smallest number would be zero, and so would be the row.
    scale = _half(name + _SCALE, (largest / _LEVELS).clamp_min(2.0**-24))
    steps = (tensor / scale.float()).round().clamp(-_LEVELS, _LEVELS)
    return steps.to(torch.int8), scale


def _scale_shape(tensor: Tensor) -> torch.Size:
    return torch.Size((tensor.shape[0], *(1,) * (tensor.dim() - 1)))
