"""One forward pass of any model, recorded as a list of operations with the values they had.

`torch.fx` records what the code of the *opened* submodules does; every other submodule is one operation, called as it
is. So only the code that lies around a cut has to be traceable, and what is inside the rest (dropout, batch statistics,
control flow) stays the model's own, in training as in evaluation.

The model runs while it is recorded, at two batch sizes: shapes are known, a condition on a shape can be decided, and
what depends on the batch size shows. A condition on the *data* cannot be recorded; the error says where it is.
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from branchynet.errors import InvalidInput
from branchynet.surgery.preserving import Kept

__all__ = ["BATCHES", "TRAINING", "Call", "Trace", "example", "trace"]

BATCHES = (2, 3)
# The name of `nn.Module.training` as an operand: what a recorded literal becomes that follows the mode.
TRAINING = "training"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a submodule: the *last* operation inside it, and its *output*, with nodes in place of tensors."""

    last: fx.Node
    output: Any


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded forward pass.

    *values*, *others*: of each node at batch `BATCHES[0]` and `BATCHES[1]`; tensors without their data.
    *calls*: of each submodule whose call was seen. *objects*: the submodules and tensors that *graph* refers to.
    """

    graph: fx.Graph
    values: dict[fx.Node, Any]
    others: dict[fx.Node, Any]
    calls: dict[str, list[Call]]
    objects: dict[str, Any]


def example(shape: tuple[int, ...], batch: int) -> Tensor:
    """The same standard normal numbers [batch, *shape*] every time."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def trace(model: nn.Module, shape: tuple[int, ...], opened: Set[str], *, strict: bool) -> Trace:
    """Record *model* on inputs [B, *shape*], looking into the submodules called *opened* and no others.

    *model* is in evaluation mode, without gradients, and left as it was. What cannot be looked into is an error if
    *strict*; otherwise it, and all of its class, stays closed. Raises `InvalidInput` for the place that cannot be
    recorded.
    """
    kept = Kept(model)
    while True:
        try:
            return _trace(model, shape, opened, kept)
        except _Stuck as stuck:
            if strict or not stuck.path:
                raise InvalidInput(f"{stuck.title} cannot be cut inside: {stuck.reason}") from None
            opened = opened - _alike(model, stuck.path, opened)


class _Stuck(Exception):
    """Recording does not get through the code of the submodule *path*."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason

    @property
    def title(self) -> str:
        return f"submodule {self.path!r}" if self.path else "the model"


def _alike(model: nn.Module, path: str, opened: Set[str]) -> set[str]:
    kind = type(model.get_submodule(path))
    if kind is nn.Sequential:  # its own code is never the reason
        return {path}
    return {name for name in opened if type(model.get_submodule(name)) is kind}


def _trace(model: nn.Module, shape: tuple[int, ...], opened: Set[str], kept: Kept) -> Trace:
    first = _record(_Recorder(opened, example(shape, BATCHES[0])), model, kept)
    second = _record(_Recorder(opened, example(shape, BATCHES[1])), model, kept)
    _check_same(first, second, f"what it computes depends on the batch size ({BATCHES[0]} or {BATCHES[1]})")
    pairs = zip(first.graph.nodes, second.graph.nodes, strict=True)
    others = {node: second.values[twin] for node, twin in pairs if node.op != "output"}
    third = _record(_Replayer(opened, first), model, kept, training=True)
    _follow_training(first, third)
    objects = {
        str(node.target): first.values[node] if node.op == "get_attr" else model.get_submodule(str(node.target))
        for node in first.graph.nodes
        if node.op in ("get_attr", "call_module")
    }
    values = {node: _without_data(value) for node, value in first.values.items()}
    others = {node: _without_data(value) for node, value in others.items()}
    _advance_items(first.graph, values)
    return Trace(first.graph, values, others, first.calls, objects)


class _Known(fx.Proxy):
    """A recorded value that can be asked for its number: shapes are known while recording."""

    def __index__(self) -> int:
        value = self._value()
        if not isinstance(value, int):
            raise TypeError(f"{type(value).__name__} of the data used as a number")
        return value

    def __int__(self) -> int:
        return int(self._value(number=True))

    def __float__(self) -> float:
        return float(self._value(number=True))

    def __len__(self) -> int:
        return len(self._value())

    def _value(self, *, number: bool = False) -> Any:
        assert isinstance(self.tracer, _Recorder)
        value = self.tracer.values[self.node]
        if number and isinstance(value, Tensor):
            raise fx.proxy.TraceError("a number is taken out of a tensor of data")
        return value


class _Recorder(fx.Tracer):
    """`torch.fx`'s tracer, with the value of every operation beside it."""

    def __init__(self, opened: Set[str], x: Tensor) -> None:
        super().__init__()
        self.proxy_buffer_attributes = True
        self.opened, self.x = opened, x
        self.values: dict[fx.Node, Any] = {}
        self.calls: dict[str, list[Call]] = {}
        self.stuck_in: str | None = None
        self.computing = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return module_qualified_name not in self.opened

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:  # noqa: ARG002
        # Optional parameters of the model's forward keep their defaults, as in a plain call with one input.
        self.interpreter = fx.Interpreter(self.root, garbage_collect_values=False, graph=self.graph)
        self.interpreter.args_iter = iter([self.x])
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        proxy = super().create_proxy(*args, **kwargs)
        self.computing = True
        try:
            self.values[proxy.node] = self.interpreter.env[proxy.node] = self.compute(proxy.node)
        finally:
            self.computing = False
        return proxy

    def compute(self, node: fx.Node) -> Any:
        return self.interpreter.run_node(node)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Known(node, self)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.computing:  # a closed submodule runs: its inside is not recorded
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        try:
            output = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.stuck_in = self.stuck_in or (path if path in self.opened else None)
            raise
        nodes = map_aggregate(output, lambda part: part.node if isinstance(part, fx.Proxy) else part)
        self.calls.setdefault(path, []).append(Call(next(iter(reversed(self.graph.nodes))), nodes))
        return output

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        return attr_val if self.computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        if isinstance(value := self.values[obj.node], Tensor):
            raise fx.proxy.TraceError("what is computed depends on the data")
        return bool(value)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        count = len(self.values[obj.node])
        return (self.create_proxy("call_function", operator.getitem, (obj, index), {}) for index in range(count))


class _Replayer(_Recorder):
    """Records the code as it runs in training, without running any layer: values are those of *first*."""

    def __init__(self, opened: Set[str], first: _Recorder) -> None:
        super().__init__(opened, first.x)
        self.first, self.nodes = first, iter(first.graph.nodes)

    def compute(self, node: fx.Node) -> Any:
        twin = next(self.nodes)
        if (node.op, node.target) != (twin.op, twin.target):
            raise fx.proxy.TraceError("in training it computes other operations than in evaluation")
        return self.first.values[twin]


def _record(recorder: _Recorder, model: nn.Module, kept: Kept, *, training: bool = False) -> _Recorder:
    try:
        model.train(training)
        recorder.trace(model)
    except Exception as error:  # whatever the model's own code raises under a recording
        raise _Stuck(recorder.stuck_in or "", f"{error or type(error).__name__}{_where(error)}") from error
    finally:
        kept.put_back()  # fx leaves constants in the model, and the model's own code recorded values
    return recorder


def _where(error: Exception) -> str:
    """The last line of the model's own code under *error*."""
    ours = (str(Path(torch.__file__).parent), __file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""


def _check_same(first: _Recorder, second: _Recorder, reason: str) -> None:
    for node, twin in zip_longest(first.graph.nodes, second.graph.nodes):
        if node is None or twin is None or _signature(node) != _signature(twin):
            raise _Stuck(_module_of(node or twin), reason)
        if node.op == "get_attr" and first.values[node].shape != second.values[twin].shape:
            raise _Stuck(_module_of(node), reason)


def _follow_training(first: _Recorder, training: _Recorder) -> None:
    """Where evaluation and training differ in one literal only, let it follow the mode (`F.dropout(training=…)`)."""
    reason = "in training it computes other operations than in evaluation"
    for node, twin in zip_longest(list(first.graph.nodes), training.graph.nodes):
        if node is None or twin is None:
            raise _Stuck(_module_of(node or twin), reason)
        (ours, spec), (theirs, other) = (pytree.tree_flatten(_signature(each)) for each in (node, twin))
        changed = [index for index, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a is not b and a != b]
        if spec != other or not all(ours[index] is False and theirs[index] is True for index in changed):
            raise _Stuck(_module_of(node), reason)
        if changed:
            with first.graph.inserting_before(node):
                mode = first.graph.get_attr(TRAINING)
            first.values[mode] = False
            literals, arguments = pytree.tree_flatten((node.args, node.kwargs))
            for index in changed:
                literals[index - 2] = mode  # op and target lead the signature
            node.args, node.kwargs = pytree.tree_unflatten(literals, arguments)


def _signature(node: fx.Node) -> tuple[Any, ...]:
    """What *node* computes, with the names of other nodes for their values."""
    return node.op, node.target, *map_aggregate((node.args, node.kwargs), lambda a: str(a) if _is_node(a) else a)


def _is_node(value: object) -> bool:
    return isinstance(value, fx.Node)


def _module_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    if node.op == "call_module" and paths:
        paths.pop()
    return paths[-1] if paths else ""


def _without_data(value: Any) -> Any:
    def describe(part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        return torch.empty_strided(part.shape, part.stride(), dtype=part.dtype, device="meta")

    return pytree.tree_map(describe, value)


def _advance_items(graph: fx.Graph, values: dict[fx.Node, Any]) -> None:
    """Move each `output[i]` right behind `output`: what is taken out of a tuple later need not carry the tuple."""
    behind: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in (operator.getitem, getattr):
            source, item = node.args
            if _is_node(source) and not _is_node(item) and not isinstance(values[source], Tensor):
                behind.get(source, source).append(node)
                behind[source] = node
