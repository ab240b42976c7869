"""The operators of ONNX in torch, each as the standard says it, with gradients.

A function takes a node's inputs, None where an optional one is left out, then its attributes by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from branchynet.errors import InvalidInput
from branchynet.network.onnx_import.shapes import SHAPES, Numbers, named_axes, plain
from branchynet.network.onnx_import.spatial import SPATIAL

__all__ = ["OPERATORS"]

# Numbers of onnx.TensorProto's data types.
_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}


def _reducing(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, axes: Numbers | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        along = named_axes(axes, x, nothing=bool(noop_with_empty_axes))
        return reduce(x, dim=along, keepdim=bool(keepdims)) if along else x

    return run


def _batch_normalisation(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    del momentum
    if training_mode:
        raise InvalidInput("BatchNormalization is in training mode; export the model after model.eval()")
    return F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def _layer_normalisation(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    del stash_type
    shape = x.shape[axis:]
    return F.layer_norm(x, shape, scale.expand(shape), None if bias is None else bias.expand(shape), epsilon)


def _group_normalisation(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    # Before opset 21 there is a scale for each group, since then for each channel.
    scale, bias = (part.repeat_interleave(x.shape[1] // len(part)) for part in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def _instance_normalisation(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 (the standard's names)
    transB: int = 0,  # noqa: N803
) -> Tensor:
    product = (a.T if transA else a) @ (b.T if transB else b)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


def _clip(x: Tensor, low: Tensor | float | None = None, high: Tensor | float | None = None) -> Tensor:
    return x if low is None and high is None else x.clamp(low, high)  # type: ignore[arg-type]


def _cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    del saturate
    if to not in _TYPES:
        raise InvalidInput(f"Cast is to data type {to}")
    return x.to(_TYPES[to])


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _cumulative_sum(x: Tensor, axis: Numbers, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    if exclusive or reverse:
        raise InvalidInput(f"CumSum has exclusive {exclusive} and reverse {reverse}")
    return x.cumsum(plain(axis)[0])


def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    sixth = abs(alpha - 1 / 6) < 1e-6 and beta == 0.5
    return F.hardsigmoid(x) if sixth else (alpha * x + beta).clamp(0, 1)


def _selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * F.elu(x, alpha)


def _modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def _local_response(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    if size % 2 == 0:  # torch and the standard lean to other sides
        raise InvalidInput(f"LRN has the even size {size}")
    return F.local_response_norm(x, size, alpha, beta, bias)


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


OPERATORS: dict[str, Callable[..., Any]] = {
    **SHAPES,
    **SPATIAL,
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "BatchNormalization": _batch_normalisation,
    "Cast": _cast,
    "CastLike": lambda x, other: x.to(other.dtype),
    "Ceil": torch.ceil,
    "Celu": lambda x, alpha=1.0: F.celu(x, alpha),
    "Clip": _clip,
    "Cos": torch.cos,
    "CumSum": _cumulative_sum,
    "Div": _divide,
    "Dropout": lambda x, *_, **__: x,
    "Einsum": lambda *parts, equation: torch.einsum(equation, *parts),
    "Elu": lambda x, alpha=1.0: F.elu(x, alpha),
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "GroupNormalization": _group_normalisation,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "InstanceNormalization": _instance_normalisation,
    "LRN": _local_response,
    "LayerNormalization": _layer_normalisation,
    "LeakyRelu": lambda x, alpha=0.01: F.leaky_relu(x, alpha),
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "LogSoftmax": lambda x, axis=-1: F.log_softmax(x, axis),
    "MatMul": torch.matmul,
    "Max": lambda *parts: functools.reduce(torch.maximum, parts),
    "Min": lambda *parts: functools.reduce(torch.minimum, parts),
    "Mish": F.mish,
    "Mod": _modulo,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": lambda x, slope: torch.where(x < 0, x * slope, x),
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "ReduceL1": _reducing(functools.partial(torch.linalg.vector_norm, ord=1)),
    "ReduceL2": _reducing(torch.linalg.vector_norm),
    "ReduceMax": _reducing(torch.amax),
    "ReduceMean": _reducing(torch.mean),
    "ReduceMin": _reducing(torch.amin),
    "ReduceSum": _reducing(torch.sum),
    "ReduceSumSquare": _reducing(lambda x, dim, keepdim: x.square().sum(dim, keepdim)),
    "Relu": F.relu,
    "Round": torch.round,
    "Selu": _selu,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softmax": lambda x, axis=-1: F.softmax(x, axis),
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Sum": lambda *parts: functools.reduce(torch.add, parts),
    "Tanh": torch.tanh,
    "ThresholdedRelu": lambda x, alpha=1.0: torch.where(x > alpha, x, 0),
    "Where": torch.where,
}
