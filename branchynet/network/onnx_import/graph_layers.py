"""From ONNX back to torch: a graph as a module that gradients pass through.

An artifact may hold its layers as graphs only, and still something must learn what these want: the bottleneck before
them. It runs node by node and is as quick as torch; what is served runs on ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from branchynet.errors import need
from branchynet.network.onnx_import.parsing import nodes_and_constants

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
        self._nodes, constants = nodes_and_constants(model)
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
            made = node.run([self._value(name, values) for name in node.inputs])
            values |= zip(node.outputs, made, strict=False)
            for name in node.inputs:  # nobody looks at it again
                if self._last_use[name] == number and name not in self.outputs:
                    values.pop(name, None)
        return {name: values[name] for name in self.outputs}

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor | None:
        if not name:  # an optional input that is left out
            return None
        value: Tensor = getattr(self, self._names[name]) if name in self._names else values[name]
        return value
