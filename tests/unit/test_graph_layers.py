"""ONNX graphs as torch modules: each operator beside ONNX Runtime, and gradients through a stage of an artifact."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from branchynet.errors import InvalidInput
from branchynet.network.onnx_import.graph_layers import GraphLayers

RANDOM = np.random.default_rng(0)
MAP = RANDOM.standard_normal((2, 4, 7, 6), np.float32)
TOKENS = RANDOM.standard_normal((2, 5, 8), np.float32)
POSITIVE = np.abs(TOKENS) + 0.1


def numbers(*values):
    return np.array(values, np.int64)


def weights(*shape):
    return RANDOM.standard_normal(shape, np.float32)


# Operator, what goes in, attributes; the first of what goes in is the graph's input, the others are constants.
CASES = [
    *[(name, [TOKENS], {}) for name in ("Abs", "Cos", "Sin", "Erf", "Exp", "Floor", "Ceil", "Identity", "Neg", "Tanh")],
    *[(name, [TOKENS], {}) for name in ("Relu", "Sigmoid", "Softplus", "HardSwish", "HardSigmoid", "Mish", "Elu")],
    *[(name, [POSITIVE], {}) for name in ("Log", "Sqrt", "Reciprocal")],
    *[(name, [POSITIVE, weights(8)], {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sum")],
    *[(name, [TOKENS, axes], {"keepdims": keep}) for name in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2")
      for axes, keep in ((numbers(-1), 1), (numbers(0, 2), 0))],
    *[(name, [TOKENS], {}) for name in ("Celu", "Round", "Selu", "Sign", "Softsign")],
    *[(name, [TOKENS], {}) for name in ("ThresholdedRelu", "Trilu", "Size")],
    ("Mod", [TOKENS, weights(8)], {"fmod": 1}),
    ("Trilu", [TOKENS, np.int64(1)], {"upper": 0}),
    ("CastLike", [TOKENS, numbers(1)], {}),
    ("SpaceToDepth", [MAP[:, :, :6], ], {"blocksize": 2}),
    ("LRN", [MAP], {"size": 3, "alpha": 0.1}),
    *[(name, [TOKENS, numbers(-1)], {}) for name in ("ReduceL1", "ReduceSumSquare")],
    ("ReduceMin", [TOKENS], {}),
    ("ReduceMean", [TOKENS], {"noop_with_empty_axes": 1}),
    ("HardSigmoid", [TOKENS], {"alpha": 1 / 6, "beta": 0.5}),
    ("LeakyRelu", [TOKENS], {"alpha": 0.3}),
    ("PRelu", [TOKENS, weights(8)], {}),
    ("Gelu", [TOKENS], {}),
    ("Gelu", [TOKENS], {"approximate": "tanh"}),
    ("Softmax", [TOKENS], {"axis": 1}),
    ("LogSoftmax", [TOKENS], {}),
    ("Clip", [TOKENS, np.float32(-0.5), np.float32(0.5)], {}),
    ("Clip", [TOKENS, None, np.float32(0.5)], {}),
    ("CumSum", [TOKENS, np.int64(1)], {}),
    ("Conv", [MAP, weights(6, 2, 3, 3), weights(6)], {"group": 2, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", [MAP, weights(6, 4, 3, 2)], {"pads": [0, 1, 2, 0], "dilations": [1, 2], "kernel_shape": [3, 2]}),
    ("Conv", [MAP, weights(6, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [MAP, weights(6, 4, 2, 3)], {"auto_pad": "SAME_LOWER"}),
    ("Conv", [MAP, weights(6, 4, 2, 3)], {"auto_pad": "VALID"}),
    ("Conv", [TOKENS, weights(3, 5, 3)], {"pads": [1, 1]}),
    ("ConvTranspose", [MAP, weights(4, 3, 3, 3)], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ("BatchNormalization", [MAP, weights(4), weights(4), weights(4), np.abs(weights(4))], {"epsilon": 1e-3}),
    ("InstanceNormalization", [MAP, weights(4), weights(4)], {}),
    ("LayerNormalization", [TOKENS, weights(8), weights(8)], {"epsilon": 1e-6}),
    ("LayerNormalization", [TOKENS, weights(5, 8)], {"axis": 1}),
    ("MaxPool", [MAP], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [MAP], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", [MAP], {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("AveragePool", [MAP], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [MAP], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [MAP], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("GlobalAveragePool", [MAP], {}),
    ("GlobalMaxPool", [MAP], {}),
    ("Gemm", [weights(3, 4), weights(5, 4), weights(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [weights(3, 4), weights(4, 5)], {}),
    ("MatMul", [TOKENS, weights(8, 3)], {}),
    ("Einsum", [TOKENS, weights(8, 3)], {"equation": "bnd,dc->bcn"}),
    ("Reshape", [TOKENS, numbers(0, -1)], {}),
    ("Transpose", [TOKENS], {"perm": [0, 2, 1]}),
    ("Transpose", [TOKENS], {}),
    ("Flatten", [MAP], {"axis": 2}),
    ("Squeeze", [TOKENS[:, :1], numbers(1)], {}),
    ("Unsqueeze", [TOKENS, numbers(-1, 1)], {}),
    ("Concat", [TOKENS, weights(2, 3, 8)], {"axis": 1}),
    ("Split", [TOKENS, numbers(3, 5)], {"axis": 2}),
    ("Split", [TOKENS], {"axis": 2, "num_outputs": 2}),
    ("Slice", [TOKENS, numbers(1, 0), numbers(9, -1), numbers(1, 2), numbers(2, 1)], {}),
    ("Slice", [TOKENS, numbers(-1), numbers(-(2**63)), numbers(1), numbers(-2)], {}),
    ("Gather", [TOKENS, numbers(0, -1)], {"axis": 1}),
    ("Gather", [TOKENS, np.int64(-1)], {"axis": 2}),
    ("GatherND", [TOKENS, np.array([[0, 1], [1, 4]])], {}),
    ("Expand", [TOKENS[:, :1], numbers(2, 3, 1)], {}),
    ("Tile", [TOKENS, numbers(1, 2, 1)], {}),
    ("Pad", [MAP, numbers(0, 0, 1, 0, 0, 0, 2, 1), np.float32(3)], {}),
    ("Pad", [MAP, numbers(1, 2, 1, 0), None, numbers(2, 3)], {"mode": "reflect"}),
    ("DepthToSpace", [MAP], {"blocksize": 2}),
    ("DepthToSpace", [MAP], {"blocksize": 2, "mode": "CRD"}),
    ("Resize", [MAP, None, np.float32([1, 1, 2, 2])], {"mode": "linear"}),
    ("Resize", [MAP, None, None, numbers(2, 4, 9, 5)],
     {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", [MAP, None, np.float32([1, 1, 2, 3])],
     {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Cast", [TOKENS], {"to": TensorProto.DOUBLE}),
    ("Shape", [TOKENS], {"start": 1}),
    ("Dropout", [TOKENS], {}),
]  # fmt: skip


def graph_of(kind, values, attributes, outputs=1):
    names = ["x", *(f"c{number}" if value is not None else "" for number, value in enumerate(values[1:]))]
    node = helper.make_node(kind, names, [f"y{number}" for number in range(outputs)], **attributes)
    constants = [
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in zip(names[1:], values[1:], strict=True)
        if value is not None
    ]
    graph = helper.make_graph(
        [node],
        "one operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, values[0].shape)],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made).SerializeToString()


@pytest.mark.parametrize(
    ("kind", "values", "attributes"), CASES, ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)]
)
def test_an_operator_does_what_onnx_runtime_does(kind, values, attributes):
    graph = graph_of(kind, values, attributes, outputs=2 if kind == "Split" else 1)
    expected = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"x": values[0]})
    got = GraphLayers(graph)(torch.from_numpy(values[0]))
    for want, have in zip(expected, got.values(), strict=True):
        assert have.numpy().dtype == want.dtype
        np.testing.assert_allclose(have.numpy(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "values", "attributes", "reason"),
    [
        ("NonZero", [TOKENS], {}, "NonZero, which torch is not told"),
        ("AveragePool", [MAP], {"kernel_shape": [2, 2], "dilations": [2, 2]}, r"dilations \[2, 2\]"),
        ("CumSum", [TOKENS, np.int64(1)], {"reverse": 1}, "reverse 1"),
        ("Cast", [TOKENS], {"to": TensorProto.BFLOAT16}, "data type 16"),
        ("Resize", [MAP, None, np.float32([1, 1, 2, 2])], {"mode": "nearest"}, "round_prefer_floor"),
    ],
)
def test_what_torch_is_not_told_is_refused(kind, values, attributes, reason):
    with pytest.raises(InvalidInput, match=reason):
        GraphLayers(graph_of(kind, values, attributes))(torch.from_numpy(values[0]))


def test_gradients_pass_through_and_weights_do_not_learn():
    layers = GraphLayers(graph_of("Conv", [MAP, weights(6, 4, 3, 3)], {}))
    x = torch.from_numpy(MAP).requires_grad_()
    layers(x)["y0"].square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert not list(layers.parameters())
