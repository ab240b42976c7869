"""From ONNX back to torch: a graph as a module that gradients pass through.

An artifact may hold its layers as graphs only, and still something must learn what these want: the bottleneck before
them. It runs node by node and is as quick as torch; what is served runs on ONNX Runtime.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from branchynet.errors import InvalidInput, need
from branchynet.network.onnx_import.operators import OPERATORS

__all__ = ["GraphLayers"]


class GraphLayers(nn.Module):
    """The layers of an ONNX *graph*, a serialised model of opset 18 or later with its weights, which do not learn.

    Called with the graph's inputs, in their order, it returns its outputs by name. Raises `InvalidInput`, with the
    node, for an operator that torch is not told here.
    """

    def __init__(self, graph: bytes) -> None:
        super().__init__()
        need("onnx")
        import onnx

        model = onnx.load_from_string(graph)
        constants = {kept.name: _tensor(onnx.numpy_helper.to_array(kept)) for kept in model.graph.initializer}
        self._nodes = [_Node(node) for node in model.graph.node if node.op_type != "Constant"]
        for node in model.graph.node:
            if node.op_type == "Constant":
                constants[node.output[0]] = _constant(_attributes(node))
        used = {name for node in self._nodes for name in node.inputs}
        # As buffers they follow the module to another device or type.
        self._names = {name: f"constant_{number}" for number, name in enumerate(constants) if name in used}
        for name, buffer in self._names.items():
            self.register_buffer(buffer, constants[name])
        self.inputs = [one.name for one in model.graph.input if one.name not in constants]
        self.outputs = [one.name for one in model.graph.output]
        self._last_use = {name: number for number, node in enumerate(self._nodes) for name in node.inputs}

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The graph's outputs for its *inputs*."""
        values: dict[str, Tensor] = dict(zip(self.inputs, inputs, strict=True))
        for number, node in enumerate(self._nodes):
            values |= node.run([self._value(name, values) for name in node.inputs])
            for name in node.inputs:  # nobody looks at it again
                if self._last_use[name] == number and name not in self.outputs:
                    values.pop(name, None)
        return {name: values[name] for name in self.outputs}

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor | None:
        if not name:  # an optional input that is left out
            return None
        value: Tensor = getattr(self, self._names[name]) if name in self._names else values[name]
        return value


class _Node:
    def __init__(self, node: Any) -> None:
        self.inputs, self._outputs = list(node.input), list(node.output)
        known = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        self._name = f"node {node.name or node.output[0]!r} of the ONNX graph"
        if known is None:
            raise InvalidInput(f"{self._name} is a {node.op_type}, which torch is not told")
        attributes = _attributes(node)
        if node.op_type == "Split":
            attributes["outputs"] = len(self._outputs)
        self._run = functools.partial(known, **attributes)

    def run(self, inputs: Sequence[Tensor | None]) -> dict[str, Tensor]:
        try:
            made = self._run(*inputs)
        except TypeError as error:  # an attribute that the standard has and the function has not
            raise InvalidInput(f"{self._name}: {error}") from error
        return dict(zip(self._outputs, [made] if isinstance(made, Tensor) else made, strict=False))


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    found = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, onnx.TensorProto):
            value = _tensor(onnx.numpy_helper.to_array(value))
        found[attribute.name] = value
    return found


def _constant(attributes: Mapping[str, Any]) -> Tensor:
    [(name, value)] = attributes.items()
    whole = "int" in name
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.int64 if whole else torch.float32)


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(array.copy())
