"""Weights behind a graph are initialisers to any program that reads ONNX, whatever their kind, shape and size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from branchynet.network.graph_weights import with_weights

WEIGHTS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "large": np.random.default_rng(0).random((300, 257), np.float32),
    "half": np.array([0.5, -2.0], np.float16),
    "steps": np.array([[-127, 127]], np.int8),
    "places": np.array([3, 2**40], np.int64),
    "count": np.array(1234),
    "none": np.zeros((0, 4), np.float32),
    "a name of more than 127 characters " * 4: np.ones(1, np.float32),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "big endian": np.array([1.5], ">f4"),
}


def graph() -> bytes:
    """y = x · matrix, of which only the structure is there, and a constant of its own."""
    multiply = helper.make_node("MatMul", ["x", "matrix"], ["product"])
    add = helper.make_node("Add", ["product", "own"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n]) for name, n in (("x", 2), ("y", 3))]
    own = numpy_helper.from_array(np.array([0.25], np.float32), "own")
    built = helper.make_graph([multiply, add], "example", ends[:1], ends[1:], [own])
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def test_every_kind_of_weight_is_read_back_and_the_graph_keeps_what_it_had() -> None:
    model = onnx.load_from_string(with_weights(graph(), WEIGHTS))
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert set(found) == {"own", *WEIGHTS}
    for name, expected in WEIGHTS.items():
        assert found[name].dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], expected)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add"]


def test_the_runtime_computes_with_them() -> None:
    from onnxruntime import InferenceSession

    with pytest.raises(Exception, match="matrix"):
        InferenceSession(graph(), providers=["CPUExecutionProvider"])
    session = InferenceSession(with_weights(graph(), {"matrix": WEIGHTS["matrix"]}), providers=["CPUExecutionProvider"])
    x = np.array([[1, 10], [0, 1]], np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x @ WEIGHTS["matrix"] + 0.25)
