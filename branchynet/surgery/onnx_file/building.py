"""A graph becomes layers: what each of its values is at two batch sizes says which are constant and where the batch is.

A file describes shapes by nodes of their own, or has the batch size of its export written into them. Both go: what
depends on the shape of the images alone is computed here, and the layers say -1 where the batch is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from branchynet.errors import BranchyNetError, InvalidInput
from branchynet.network.foreign_code import in_words
from branchynet.network.onnx_import.parsing import GraphNode
from branchynet.surgery.onnx_file.layers import Given, GraphModel, Join, Operation, Rows, Step, Stretch, View, linear
from branchynet.surgery.onnx_file.reading import EXPORT_FOR_ANY, GraphFile
from branchynet.surgery.tracing import BATCHES, example

__all__ = ["build"]

# Which inputs of an operator are numbers that shape its work, not data that it works on.
_NUMBERS = {
    "Clip": (1, 2),
    "CumSum": (1,),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    **{f"Reduce{kind}": (1,) for kind in ("L2", "Max", "Mean", "Min", "Sum")},
}
# Which inputs learn with --joint where they are constant: the weights of layers, but for running statistics.
_LEARNING = {
    **dict.fromkeys(("Conv", "ConvTranspose"), (1, 2)),
    **{f"{kind}Normalization": (1, 2) for kind in ("Batch", "Layer", "Group", "Instance")},
    "MatMul": (0, 1),
    "PRelu": (1,),
}
_RESHAPING = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
_MEASURING = {"Shape", "Size"}
_HALVES = (torch.float16, torch.bfloat16)


class _Kind(Enum):
    CONSTANT = "the same for all images"
    COUNTED = "depends on the number of images only"
    COMPUTED = "computed from the images"


@dataclass(frozen=True, slots=True)
class _Value:
    """A tensor of the graph at both batch sizes."""

    kind: _Kind
    first: Tensor
    second: Tensor

    @property
    def batch_dimension(self) -> int | None:
        """The dimension whose side is another at the other batch size; None unless there is one such."""
        unlike = [axis for axis, (a, b) in enumerate(zip(self.first.shape, self.second.shape, strict=True)) if a != b]
        return unlike[0] if len(unlike) == 1 else None


@torch.no_grad()
def build(graph: GraphFile) -> GraphModel:
    """*graph* as a module for any number of images, in evaluation mode.

    Raises `InvalidInput`, with the node, for what cannot be brought to another number of images than the file has.
    """
    builder = _Builder(graph)
    for index, node in enumerate(graph.nodes):
        try:
            builder.add(node, graph.nodes[index + 1 :])
        except (BranchyNetError, MemoryError):
            raise
        except Exception as error:  # whatever torch raises for shapes that do not fit
            raise _of_another_batch(graph, node, in_words(error)) from error
    return builder.model().eval()


def _of_another_batch(graph: GraphFile, node: GraphNode, reason: str) -> InvalidInput:
    if graph.batch is None:
        return InvalidInput(f"{graph.file}, {node.name} ({node.kind}): {reason}")
    return InvalidInput(
        f"{graph.file} was exported for batches of {graph.batch}, which cannot be undone at {node.name} ({node.kind}: "
        f"{reason}); export it for any: {EXPORT_FOR_ANY}"
    )


class _Builder:
    def __init__(self, graph: GraphFile) -> None:
        self.graph = graph
        self.batches = BATCHES if graph.batch is None else (graph.batch, 2 * graph.batch)
        images = [example(graph.shape, batch) for batch in self.batches]
        first, second = (x.permute(0, 2, 3, 1) if graph.channels_last else x for x in images)
        self.values = {name: _Value(_Kind.CONSTANT, tensor, tensor) for name, tensor in graph.constants.items()}
        self.values[graph.takes] = _Value(_Kind.COMPUTED, first, second)
        self.names = {name: name for name in self.values}
        self.steps: list[Step] = []
        self.parameters: dict[tuple[str, bool], nn.Parameter] = {}
        self.fused: set[int] = set()

    def add(self, node: GraphNode, following: Sequence[GraphNode]) -> None:
        """Compute *node* at both batch sizes, and take it up as a layer if it computes from the images."""
        if id(node) in self.fused:
            return
        inputs = [self.values[self.names[name]] if name else None for name in node.inputs]
        if node.kind in ("Identity", "Dropout"):
            self.names[node.outputs[0]] = self.names[node.inputs[0]]
            return
        if node.kind in _MEASURING or all(each is None or each.kind is not _Kind.COMPUTED for each in inputs):
            self._fold(node, inputs)
        elif node.kind in ("Gemm", "MatMul") and self._add_linear(node, inputs, following):
            return
        else:
            takes, layer = self._layer(node, inputs)
            self._take_up(layer, takes, tuple(name for name in node.outputs if name))

    def model(self) -> GraphModel:
        """The layers that the graph's output needs; logits [B, C, 1, 1] become [B, C]."""
        gives = self.names[self.graph.gives]
        if self.values[gives].kind is not _Kind.COMPUTED:
            raise InvalidInput(f"{self.graph.file}: {self.graph.gives} does not depend on {self.graph.takes}")
        shape = self.values[gives].first.shape
        if len(shape) > 2 and prod(shape[2:]) == 1:
            self._take_up(View((-1, shape[1])), [gives], (f"{gives}_row",))
            gives = f"{gives}_row"
        needed, steps = {gives}, []
        for step in reversed(self.steps):
            if needed.intersection(step.gives):
                needed.update(step.takes or ())
                steps.append(step)
        return GraphModel(
            steps[::-1], self.graph.takes, gives, self.graph.shape, channels_last=self.graph.channels_last
        )

    def _fold(self, node: GraphNode, inputs: Sequence[_Value | None]) -> None:
        firsts = node.run([each and each.first for each in inputs])
        constant = node.kind not in _MEASURING and all(each is None or each.kind is _Kind.CONSTANT for each in inputs)
        seconds = firsts if constant else node.run([each and each.second for each in inputs])
        for name, first, second in zip(node.outputs, firsts, seconds, strict=False):
            same = constant or torch.equal(first, second)
            self._note(name, _Value(_Kind.CONSTANT if same else _Kind.COUNTED, first, second))

    def _note(self, name: str, value: _Value) -> None:
        if value.kind is _Kind.COMPUTED and value.first.dtype in _HALVES:
            raise InvalidInput(
                f"{self.graph.file} computes in {str(value.first.dtype).removeprefix('torch.')} (tensor {name!r}), "
                "nodes compute in float32; export model.float()"
            )
        self.values[name], self.names[name] = value, name

    def _take_up(self, layer: nn.Module, takes: Sequence[str], gives: tuple[str, ...]) -> None:
        values = [self.values[name] for name in takes]
        made = [layer(*(getattr(value, which) for value in values)) for which in ("first", "second")]
        firsts, seconds = ([each] if isinstance(each, Tensor) else list(each) for each in made)
        if len(gives) > len(firsts):
            raise InvalidInput(f"tensor {gives[len(firsts)]!r} of the ONNX graph is an output that torch is not told")
        for name, first, second in zip(gives, firsts, seconds, strict=False):
            self._note(name, _Value(_Kind.COMPUTED, first, second))
        self.steps.append(Step(layer, tuple(takes), gives))

    def _layer(self, node: GraphNode, inputs: Sequence[_Value | None]) -> tuple[list[str], nn.Module]:
        """What stands for *node*, and the tensors that it is called with."""
        takes = [self.names[name] for name, value in zip(node.inputs, inputs, strict=True) if _is_computed(value)]
        data = inputs[0]
        if node.kind in _RESHAPING and data is not None and data.kind is _Kind.COMPUTED:
            return takes, View(self._shape_made(node, inputs, data))
        if node.kind == "Expand" and data is not None and data.kind is _Kind.COMPUTED:
            return takes, Stretch(self._stretched(node, inputs, data))
        if node.kind == "Gather" and (shape := self._all_in_order(inputs, takes)):
            return takes, View(shape)
        if node.kind == "Concat" and self.graph.batch is not None and (join := self._join(node, inputs)):
            return takes, join
        slots: list[Any] = []
        takes = []
        for number, (name, value) in enumerate(zip(node.inputs, inputs, strict=True)):
            slot = self._slot(node, number, name, value)
            slots.append(slot)
            if slot is Given:
                takes.append(self.names[name])
        return takes, Operation(node, slots)

    def _slot(self, node: GraphNode, number: int, name: str, value: _Value | None) -> Any:
        """What stands for input *number* of *node*: see `Operation`."""
        if value is None or value.kind is _Kind.COMPUTED:
            return None if value is None else Given
        if number in _NUMBERS.get(node.kind, ()) or (node.kind == "Gather" and number == 1 and not value.first.ndim):
            numbers, others = value.first.tolist(), value.second.tolist()
            if node.kind == "Resize":  # looks at the sides of the map only
                numbers, others = ([0] * len(part[:2]) + part[2:] for part in (numbers, others))
            if numbers != others:
                raise _of_another_batch(self.graph, node, f"its input {name!r} depends on the number of images")
            return numbers
        if value.kind is _Kind.COUNTED:
            self._lay_out_rows(node, name, value)
            return Given
        return self._parameter(name) if number in _LEARNING.get(node.kind, ()) else value.first

    def _parameter(self, name: str, *, turned: bool = False) -> nn.Parameter:
        """The constant *name* as what may learn, once for all nodes that use it; *turned*: with its sides exchanged."""
        name = self.names[name]
        if (name, turned) not in self.parameters:
            tensor = self.values[name].first
            self.parameters[name, turned] = nn.Parameter(tensor.T.contiguous() if turned else tensor)
        return self.parameters[name, turned]

    def _lay_out_rows(self, node: GraphNode, name: str, value: _Value) -> None:
        """Take up a tensor whose size alone depends on the number of images: the same row for each."""
        name, along = self.names[name], value.batch_dimension
        row = _row(value.first, along)
        if along is None or row is None or not torch.equal(row.expand_as(value.second), value.second):
            raise _of_another_batch(self.graph, node, f"its input {name!r} depends on the number of images")
        count = value.first.shape[along] // self.batches[0]
        if not any(name in step.gives for step in self.steps):
            self.steps.append(Step(Rows(row, along, count), None, (name,)))

    def _shape_made(self, node: GraphNode, inputs: Sequence[_Value | None], data: _Value) -> tuple[int, ...]:
        [made] = node.run([each and each.first for each in inputs])
        if self.graph.batch is not None and node.kind == "Reshape":
            return _with_batch_where(made.shape, data, self.graph.batch)
        [other] = node.run([each and each.second for each in inputs])
        shape = tuple(a if a == b else -1 for a, b in zip(made.shape, other.shape, strict=True))
        if shape.count(-1) > 1:
            raise _of_another_batch(self.graph, node, f"{shape.count(-1)} sides depend on the number of images")
        return shape

    def _stretched(self, node: GraphNode, inputs: Sequence[_Value | None], data: _Value) -> tuple[int, ...]:
        [made] = node.run([each and each.first for each in inputs])
        own = (None,) * (made.ndim - data.first.ndim) + tuple(data.first.shape)
        return tuple(-1 if side == mine else side for side, mine in zip(made.shape, own, strict=True))

    def _all_in_order(self, inputs: Sequence[_Value | None], takes: Sequence[str]) -> tuple[int, ...] | None:
        """The shape into which a node gathers all of a row in order, as `as_strided` is exported; else None."""
        data, places = inputs
        if len(takes) != 1 or data is None or places is None or data.first.ndim != 1 or places.first.ndim < 1:
            return None
        if not torch.equal(places.first.reshape(-1), torch.arange(len(data.first))):
            return None
        if self.graph.batch is not None:
            return _with_batch_where(places.first.shape, data, self.graph.batch)
        sides = zip(places.first.shape, places.second.shape, strict=True)
        return tuple(a if a == b else -1 for a, b in sides)

    def _join(self, node: GraphNode, inputs: Sequence[_Value | None]) -> Join | None:
        """For tensors beside constants that the export made for one batch; None if there are no such."""
        axis = node.attributes["axis"]
        values = [each for each in inputs if each is not None]
        along = next(value.batch_dimension for value in values if value.kind is _Kind.COMPUTED)
        kept = [value.first if value.kind is _Kind.CONSTANT else None for value in values]
        if along is None or axis % values[0].first.ndim == along or not any(part is not None for part in kept):
            return None
        rows = [None if part is None else _row(part, along) for part in kept]
        unlike = any(part is not None and row is None for part, row in zip(kept, rows, strict=True))
        return None if unlike else Join(axis, along, rows)

    def _add_linear(self, node: GraphNode, inputs: Sequence[_Value | None], following: Sequence[GraphNode]) -> bool:
        """Take up *node*, and the addition behind it, as a linear layer if it is one."""
        data, weight, *_ = inputs
        if weight is None or weight.kind is not _Kind.CONSTANT or weight.first.ndim != 2 or not _is_computed(data):
            return False
        has = node.attributes
        if node.kind == "Gemm" and (has.get("transA") or has.get("alpha", 1) != 1 or has.get("beta", 1) != 1):
            return False
        turned = not has.get("transB")
        outputs = weight.first.shape[1 if turned else 0]
        bias, gives = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else None, node.outputs[0]
        if bias is not None and not self._is_bias(bias, outputs):
            return False
        if bias is None and (adding := self._addition(gives, outputs, following)):
            self.fused.add(id(adding))
            bias = next(name for name in adding.inputs if name != gives)
            gives = adding.outputs[0]
        layer = linear(self._parameter(node.inputs[1], turned=turned), bias and self._parameter(bias))
        self._take_up(layer, [self.names[node.inputs[0]]], (gives,))
        return True

    def _addition(self, tensor: str, outputs: int, following: Sequence[GraphNode]) -> GraphNode | None:
        """The node that adds a bias of *outputs* numbers to *tensor*, if nothing else uses that."""
        users = [node for node in following if tensor in node.inputs]
        if len(users) != 1 or users[0].kind != "Add" or tensor == self.graph.gives:
            return None
        others = [name for name in users[0].inputs if name != tensor]
        return users[0] if len(others) == 1 and self._is_bias(others[0], outputs) else None

    def _is_bias(self, name: str, outputs: int) -> bool:
        value = self.values.get(self.names.get(name, ""))
        return value is not None and value.kind is _Kind.CONSTANT and tuple(value.first.shape) == (outputs,)


def _row(tensor: Tensor, along: int | None) -> Tensor | None:
    """The one that *tensor* repeats along that dimension; None if it does not."""
    if along is None:
        return None
    row = tensor.narrow(along, 0, 1)
    return row.clone() if torch.equal(row.expand_as(tensor), tensor) else None


def _is_computed(value: _Value | None) -> bool:
    return value is not None and value.kind is _Kind.COMPUTED


def _with_batch_where(shape: Sequence[int], data: _Value, batch: int) -> tuple[int, ...]:
    """*shape*, which *data* takes for *batch* images, with -1 for the side that these are in.

    A reshape keeps the order of values, so the batch is behind as many of them as before.
    """
    along = data.batch_dimension
    if along is None:
        return tuple(shape)
    before = prod(data.first.shape[:along])
    places = (at for at, side in enumerate(shape) if prod(shape[:at]) == before and side % batch == 0)
    if (place := next(places, None)) is None:
        raise ValueError(f"{list(data.first.shape)} to {list(shape)} mixes images")
    return tuple(-1 if at == place else side for at, side in enumerate(shape))
