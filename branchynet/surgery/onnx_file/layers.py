"""Modules that stand for the nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from branchynet.errors import InvalidInput
from branchynet.network.onnx_import.parsing import GraphNode

__all__ = ["Given", "GraphModel", "Join", "Operation", "Rows", "Step", "Stretch", "View", "linear"]

# What inputs are called that are weights; those of tables and of other operators go by their number.
_NAMES = {1: "weight", 2: "bias", 3: "mean", 4: "variance"}


class Given:
    """Stands for an input that is computed."""


class Operation(nn.Module):
    """*node* with what is constant of its inputs; called with the others.

    *inputs*: `Given` for one of those, a parameter for what may learn, a tensor for a table, numbers as they are, None
    for one left out.
    """

    def __init__(self, node: GraphNode, inputs: Sequence[Any]) -> None:
        super().__init__()
        self._node, self._inputs = node, list(inputs)
        for number, value in enumerate(inputs):
            if isinstance(value, Tensor):
                name = _NAMES.get(number, f"input_{number}")
                self._inputs[number] = _Held(name)
                if isinstance(value, nn.Parameter):
                    self.register_parameter(name, value)
                else:
                    self.register_buffer(name, value)

    def forward(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the node makes of *given*: a tensor, or as many as it has outputs."""
        left = iter(given)
        inputs = [
            next(left) if each is Given else getattr(self, each.name) if isinstance(each, _Held) else each
            for each in self._inputs
        ]
        made = self._node.run(inputs)
        return made[0] if len(made) == 1 else made

    def extra_repr(self) -> str:
        """The operator."""
        return self._node.kind


@dataclass(frozen=True, slots=True)
class _Held:
    name: str


class View(nn.Module):
    """Its input in another *shape*; -1 stands where the batch is."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """*x* in that shape."""
        return x.reshape(self.shape)


class Stretch(nn.Module):
    """Its input repeated to *shape*; -1 where it stays as it is."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """*x* in that shape."""
        return x.expand(self.shape)


class Rows(nn.Module):
    """*row* for each image, *count* times, along *dimension*."""

    def __init__(self, row: Tensor, dimension: int, count: int) -> None:
        super().__init__()
        self.register_buffer("row", row)
        self.dimension, self.count = dimension, count

    def forward(self, batch: int) -> Tensor:
        """The rows for *batch* images."""
        row = self.get_buffer("row")
        return row.expand(*row.shape[: self.dimension], batch * self.count, *row.shape[self.dimension + 1 :])


class Join(nn.Module):
    """Joins tensors along *axis*; *kept*, those that are constant, None elsewhere, come for each image of the batch.

    *dimension*: where the batch is.
    """

    def __init__(self, axis: int, dimension: int, kept: Sequence[Tensor | None]) -> None:
        super().__init__()
        self.axis, self.dimension = axis, dimension
        self.kept = [None if part is None else f"input_{number}" for number, part in enumerate(kept)]
        for name, part in zip(self.kept, kept, strict=True):
            if name is not None:
                self.register_buffer(name, part)

    def forward(self, *given: Tensor) -> Tensor:
        """All parts, joined."""
        left, batch = iter(given), given[0].shape[self.dimension]
        parts = [next(left) if name is None else self._rows(getattr(self, name), batch) for name in self.kept]
        return torch.cat(parts, self.axis)

    def _rows(self, part: Tensor, batch: int) -> Tensor:
        return part.expand(*part.shape[: self.dimension], batch, *part.shape[self.dimension + 1 :])


def linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """A layer with *weight* [outputs, inputs], which another one may take the place of."""
    outputs, inputs = weight.shape
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs)
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer


@dataclass(frozen=True, slots=True)
class Step:
    """*layer* makes the tensors *gives* of the tensors *takes*, or of the number of images where that is None."""

    layer: nn.Module
    takes: tuple[str, ...] | None
    gives: tuple[str, ...]


class GraphModel(nn.Module):
    """*steps* one after another; the submodule of each has the name of the first tensor that it makes.

    Takes float32 [B, *shape*] and hands it to the steps as tensor *takes*, [B, H, W, C] if *channels_last*; returns
    tensor *gives*.
    """

    def __init__(
        self, steps: Sequence[Step], takes: str, gives: str, shape: tuple[int, int, int], *, channels_last: bool
    ) -> None:
        super().__init__()
        self._takes, self._gives, self._shape, self._channels_last = takes, gives, shape, channels_last
        self._steps = [(_put(self, step.gives[0], step.layer), step.takes, step.gives) for step in steps]

    def forward(self, x: Tensor) -> Tensor:
        """The graph's output for images *x*."""
        if tuple(x.shape[1:]) != self._shape:
            raise InvalidInput(f"the ONNX graph takes images of shape {self._shape}, these are {tuple(x.shape[1:])}")
        values = {self._takes: x.permute(0, 2, 3, 1) if self._channels_last else x}
        for name, takes, gives in self._steps:
            layer = self.get_submodule(name)
            made = layer(x.size(0)) if takes is None else layer(*(values[each] for each in takes))
            values |= {gives[0]: made} if len(gives) == 1 else dict(zip(gives, made, strict=True))
        return values[self._gives]


def _put(model: nn.Module, tensor: str, layer: nn.Module) -> str:
    """Put *layer* into *model* under the name of *tensor*, as far as torch allows; returns the name.

    torch has dots between a module and its submodules: what is before a dot becomes a module that holds the others.
    """
    name = "".join("_" if letter in "\"'\\" or not letter.isprintable() else letter for letter in tensor)
    *outer, last = name.split(".")
    holder = model
    for step in outer:
        inner = holder._modules.get(step)
        if not step or (inner is None and hasattr(holder, step)) or type(inner) not in (nn.Module, type(None)):
            return _put(model, name.replace(".", "_"), layer)
        if inner is None:
            holder.add_module(step, inner := nn.Module())
        holder = inner
    if not last:
        return _put(model, name.replace(".", "_"), layer)
    if hasattr(holder, last):
        return _put(model, f"{tensor}_", layer)
    holder.add_module(last, layer)
    return name
