"""A recorded model as an ordered list of operations: which places it may be cut at, what crosses there, and its parts.

What crosses a cut is every tensor that is computed before it from the input and used after it. Tensors that do not
depend on the input (positions, tables) are computed again where they are needed, and numbers taken from shapes are
written down, the batch size being read off the tensor that arrives.

One tensor crosses as it is; several are packed into one flat [B, N]. A part restores the memory layout that its input
had in the model, so that the kernels behind the cut are those of the uncut model: the same bits come out.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from branchynet.errors import InvalidInput
from branchynet.surgery.tracing import BATCHES, Trace

__all__ = ["Carried", "Crossing", "Operations"]

_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.memory_format, torch.layout, torch.Size)


@dataclass(frozen=True, slots=True)
class Carried:
    """One tensor that crosses a cut: its *name*, and *shape* and memory *order* of one sample's values (fp32).

    *order*: the dimensions, the batch included, from the slowest to the fastest in memory.
    """

    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    node: fx.Node
    path: tuple[Any, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of one sample's values."""
        return 4 * prod(self.shape)


Crossing = tuple[Carried, ...]


class Operations:
    """The operations of *trace* in order; a place is the number of operations before it."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        *self.nodes, self.output = trace.graph.nodes
        self.position = {node: index for index, node in enumerate(self.nodes)}
        self.input = self.nodes[0]
        self.from_input = {self.input}
        for node in self.nodes[1:]:
            if not self.is_plain(node) and any(source in self.from_input for source in node.all_input_nodes):
                self.from_input.add(node)
        self.result = self.output.args[0]

    def is_plain(self, node: fx.Node) -> bool:
        """Whether *node* gives numbers, names or nothing, but no tensor."""
        return node.op != "get_attr" and all(isinstance(leaf, _PLAIN) for leaf in self._leaves(node))

    def anything_after(self, place: int) -> bool:
        """Whether something is still computed from the input after *place*; `nn.Identity` computes nothing."""
        following = [node for node in self.nodes[place:] if node in self.from_input]
        return any(not isinstance(self.trace.objects.get(str(node.target)), nn.Identity) for node in following)

    def place_after(self, name: str) -> int:
        """The place right after submodule *name* was called; `InvalidInput` unless it is called exactly once."""
        calls = self.trace.calls.get(name, [])
        if len(calls) != 1:
            times = f"called {len(calls)} times" if calls else "never called"
            raise InvalidInput(f"submodule {name!r} is {times} in a forward pass; a cut needs exactly one call")
        place = self.position[calls[0].last] + 1
        while place < len(self.nodes) and self._is_item_of_earlier(place):
            place += 1
        return place

    def crossing(self, place: int, first: str | None = None) -> Crossing:
        """What crosses at *place*; what submodule *first* gave leads. Raises `InvalidInput` for what cannot cross."""
        needed = self._needed(place)
        if first is not None:
            given = pytree.tree_leaves(self.trace.calls[first][0].output)
            leading = [node for node in needed if node in given or self._source(node) in given]
            if not leading:
                raise InvalidInput(
                    f"the output of submodule {first!r} is not used after it, or not made from the input"
                )
            needed = leading + [node for node in needed if node not in leading]
        return tuple(self._carried(node, path) for node in needed for path in self._paths(node))

    def part(self, start: int, end: int, takes: Crossing, gives: Crossing | None) -> fx.GraphModule:
        """The operations [*start*, *end*) as a module from what it *takes* to what it *gives* (None: the result)."""
        return _Writer(self).write(start, end, takes, gives)

    def _leaves(self, node: fx.Node) -> list[Any]:
        return pytree.tree_leaves(self.trace.values[node])

    def _is_item_of_earlier(self, place: int) -> bool:
        """Whether the operation at *place* was moved there, to stand behind the one whose output it takes apart."""
        node, source = self.nodes[place], self._source(self.nodes[place])
        return source is not None and self.position[source] < place and not self.is_plain(node)

    def _source(self, node: fx.Node) -> fx.Node | None:
        if node.op == "call_function" and node.target in (operator.getitem, getattr):
            source = node.args[0]
            if isinstance(source, fx.Node) and not isinstance(self.trace.values[source], Tensor):
                return source
        return None

    def _needed(self, place: int) -> list[fx.Node]:
        """The operations before *place* that depend on the input and are used after it, in order."""
        users = [node for node in self.nodes[place:] if node in self.from_input]
        sources = {source for user in [*users, self.output] for source in user.all_input_nodes}
        return [node for node in self.nodes[:place] if node in sources and node in self.from_input]

    def _paths(self, node: fx.Node) -> list[tuple[Any, ...]]:
        """Where in the value of *node* its tensors are: one empty path if it is a tensor itself."""
        return list(_tensor_paths(self.trace.values[node], self._named(node)))

    def _named(self, node: fx.Node) -> str:
        if node is self.input:
            return "the input"
        if node.op == "call_module":
            return f"{node.target}"
        inside = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        return f"{node.name} in {inside[-1]}" if inside and inside[-1] else node.name

    def _carried(self, node: fx.Node, path: tuple[Any, ...]) -> Carried:
        tensor, other = (_at(values[node], path) for values in (self.trace.values, self.trace.others))
        name = self._named(node) + "".join(f"[{key!r}]" for key in path)
        shape = tuple(tensor.shape)
        if tensor.dtype != torch.float32:
            raise InvalidInput(f"tensor {name} would cross, and is {tensor.dtype}; only torch.float32 can be carried")
        if not shape or (shape[0], other.shape[0]) != BATCHES or shape[1:] != other.shape[1:]:
            raise InvalidInput(
                f"tensor {name} would cross, and has shape {shape} for a batch of {BATCHES[0]} and "
                f"{tuple(other.shape)} for {BATCHES[1]}; its first dimension, and no other, must be the batch"
            )
        order = list(range(len(shape)))
        if 0 not in tensor.stride():  # an expanded tensor has no memory order of its own
            order.sort(key=lambda dimension: -tensor.stride(dimension))
        return Carried(name, shape[1:], tuple(order), node, path)


def _tensor_paths(value: Any, name: str) -> Any:
    if isinstance(value, Tensor):
        yield ()
    elif type(value) in (tuple, list, dict):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from ((key, *path) for path in _tensor_paths(part, name))
    elif not isinstance(value, _PLAIN):
        raise InvalidInput(f"{name} would cross, and is a {type(value).__name__}; only tensors can be carried")


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


class _Writer:
    """Writes one part as a graph of its own."""

    def __init__(self, operations: Operations) -> None:
        self.operations, self.trace = operations, operations.trace
        self.graph = fx.Graph()
        self.made: dict[fx.Node, Any] = {}
        self.arrived: dict[tuple[fx.Node, tuple[Any, ...]], fx.Node] = {}

    def write(self, start: int, end: int, takes: Crossing, gives: Crossing | None) -> fx.GraphModule:
        self.x = self.graph.placeholder("x")
        self._unpack(takes)
        for node in self.operations.nodes[start:end]:
            if node in self.operations.from_input:
                self._fetch(node)
        self.graph.output(map_arg(self.operations.result, self._fetch) if gives is None else self._pack(gives))
        objects = {str(node.target) for node in self.graph.nodes if node.op in ("get_attr", "call_module")}
        module = fx.GraphModule({name: self.trace.objects[name] for name in objects}, self.graph)
        module.train(False)
        return module

    def _fetch(self, node: fx.Node) -> Any:
        """What stands for *node* in this part: another node, or the value itself if it is no tensor."""
        if node not in self.made:
            if self.operations.is_plain(node):
                self.made[node] = self._literal(self.trace.values[node], self.trace.others[node], node)
            else:
                self.made[node] = self.graph.node_copy(node, self._fetch)
                self.made[node].meta = {}
        return self.made[node]

    def _literal(self, value: Any, other: Any, node: fx.Node) -> Any:
        """*value* written down; whole numbers that grow with the batch size (*other*) are computed from it."""
        if value == other:
            return tuple(value) if isinstance(value, torch.Size) else value
        if isinstance(value, tuple | list):
            return tuple(self._literal(a, b, node) for a, b in zip(value, other, strict=True))
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidInput(f"{node.name} is {value} for a batch of {BATCHES[0]} and {other} for {BATCHES[1]}")
        slope = (other - value) // (BATCHES[1] - BATCHES[0])
        batch = self.graph.call_method("size", (self.x, 0))
        scaled = self.graph.call_function(operator.mul, (batch, slope))
        return self.graph.call_function(operator.add, (scaled, value - BATCHES[0] * slope))

    def _unpack(self, takes: Crossing) -> None:
        ends = [0]
        for carried in takes:
            ends.append(ends[-1] + prod(carried.shape))
        for carried, (start, end) in zip(takes, pairwise(ends), strict=True):
            tensor = self.x
            if len(takes) > 1:
                tensor = self.graph.call_method("narrow", (self.x, 1, start, end - start))
                tensor = self.graph.call_method("reshape", (tensor, (-1, *carried.shape)))
                # A view into the flat tensor has gaps, and vectorised kernels then end their runs at other elements.
                tensor = self.graph.call_method("contiguous", (tensor,))
            self.arrived[carried.node, carried.path] = self._laid_out(tensor, carried.order)
        for node in {carried.node for carried in takes}:
            self.made[node] = self._rebuild(self.trace.values[node], self.trace.others[node], node)
        if not takes:
            self.made[self.operations.input] = self.x

    def _rebuild(self, value: Any, other: Any, node: fx.Node, path: tuple[Any, ...] = ()) -> Any:
        """*value*, which *node* had in the model, made of the tensors that arrived."""
        if isinstance(value, Tensor):
            return self.arrived[node, path]
        if type(value) is dict:
            return {key: self._rebuild(part, other[key], node, (*path, key)) for key, part in value.items()}
        if type(value) in (tuple, list):
            parts = enumerate(zip(value, other, strict=True))
            return type(value)([self._rebuild(part, twin, node, (*path, key)) for key, (part, twin) in parts])
        return self._literal(value, other, node)

    def _laid_out(self, tensor: fx.Node, order: Sequence[int]) -> fx.Node:
        """*tensor* with the memory order that it had in the model; nothing to do for the usual one."""
        if list(order) == sorted(order):
            return tensor
        back = [order.index(dimension) for dimension in range(len(order))]
        tensor = self.graph.call_method("permute", (tensor, tuple(order)))
        return self.graph.call_method("permute", (self.graph.call_method("contiguous", (tensor,)), tuple(back)))

    def _pack(self, gives: Crossing) -> fx.Node:
        tensors = []
        for carried in gives:
            tensor = self._fetch(carried.node)
            for key in carried.path:
                taken_apart = not isinstance(tensor, fx.Node)
                tensor = tensor[key] if taken_apart else self.graph.call_function(operator.getitem, (tensor, key))
            tensors.append(tensor)
        if len(tensors) == 1:
            only: fx.Node = tensors[0]
            return only
        flat = [
            self.graph.call_method("reshape", (t, (-1, prod(g.shape)))) for t, g in zip(tensors, gives, strict=True)
        ]
        return self.graph.call_function(torch.cat, (flat, 1))
