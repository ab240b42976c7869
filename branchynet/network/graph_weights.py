"""Weights put into an ONNX graph that was written without them. Needs numpy only.

A graph of ours holds the structure; its weights lie once, in safetensors, for torch and ONNX Runtime alike. An ONNX
model is a protobuf message, and two of these one after the other are read as one, their lists joined. So a graph gets
its weights by a second model behind it that holds nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["with_weights"]

# Numbers of fields in onnx.proto, and of its data types.
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_DATA_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}


def with_weights(graph: bytes, weights: Mapping[str, NDArray[Any]]) -> bytes:
    """*graph*, a serialised ONNX model, with *weights* as initialisers; those that it does not name do no harm."""
    return graph + _bytes_field(
        _MODEL_GRAPH, b"".join(_bytes_field(_GRAPH_INITIALIZER, _tensor(*weight)) for weight in weights.items())
    )


def _tensor(name: str, values: NDArray[Any]) -> bytes:
    head = b"".join(_number_field(_TENSOR_DIMS, side) for side in values.shape)
    head += _number_field(_TENSOR_DATA_TYPE, _DATA_TYPES[values.dtype.name])
    raw = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return head + _bytes_field(_TENSOR_NAME, name.encode()) + _bytes_field(_TENSOR_RAW_DATA, raw)


def _number_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """*value*, not negative, seven bits a byte, the lowest first; all bytes but the last have their top bit set."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
