"""An ONNX graph read: its nodes as functions in torch, and its constants as tensors."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from branchynet.errors import InvalidInput
from branchynet.network.onnx_import.operators import OPERATORS

__all__ = ["GraphNode", "nodes_and_constants"]


class GraphNode:
    """One node of a graph: its operator's *kind*, the names of its *inputs* and *outputs*, and what it computes.

    *name*: what it is called in errors. Raises `InvalidInput` for an operator that torch is not told.
    """

    def __init__(self, node: Any) -> None:
        self.kind: str = node.op_type
        self.inputs, self.outputs = list(node.input), list(node.output)
        known = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        self.name = f"node {node.name or node.output[0]!r} of the ONNX graph"
        if known is None:
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise InvalidInput(f"{self.name} is a {kind}, which torch is not told")
        self.attributes = _attributes(node)
        if node.op_type == "Split":
            self.attributes["outputs"] = len(self.outputs)
        self._run = functools.partial(known, **self.attributes)

    def run(self, inputs: Sequence[Any]) -> tuple[Tensor, ...]:
        """What it makes of *inputs*: a tensor each, None for one left out, a list or number where numbers are meant."""
        try:
            made = self._run(*inputs)
        except (TypeError, InvalidInput) as error:  # an attribute that the standard has and the function has not
            raise InvalidInput(f"{self.name}: {error}") from error
        return (made,) if isinstance(made, Tensor) else tuple(made)


def nodes_and_constants(model: Any) -> tuple[list[GraphNode], dict[str, Tensor]]:
    """The nodes of *model*, an `onnx.ModelProto`, in their order, and its constants by name."""
    import onnx

    constants = {kept.name: _tensor(onnx.numpy_helper.to_array(kept)) for kept in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(_attributes(node))
    return [GraphNode(node) for node in model.graph.node if node.op_type != "Constant"], constants


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
