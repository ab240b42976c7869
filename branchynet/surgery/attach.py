"""Exits on any PyTorch model: cut it at named submodules, and it is a `BranchyNet` like ours.

    model = timm.create_model("resnet18", num_classes=10)
    print(cuts_table(legal_cuts(model, (3, 64, 64))))
    network = attach(model, ["layer1", "layer2"], 10, input_shape=(3, 64, 64), normalisation=Normalisation(mean, std))

The model's code is not touched and its weights are shared: stage k runs the model's own submodules. How it is taken
apart is explained in `tracing` (what is recorded) and `graphs` (what crosses a cut); which models are refused in
`admission` (by their kind) and `answers` (by what they give).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from branchynet.errors import InvalidInput
from branchynet.models.heads import default_head
from branchynet.network.counting import count_macs_of
from branchynet.network.foreign_code import foreign_code
from branchynet.network.normalisation import Normalisation
from branchynet.network.stages import BranchyNet, Stage
from branchynet.surgery.admission import check_model
from branchynet.surgery.answers import check_answers, run
from branchynet.surgery.exits import made_head
from branchynet.surgery.graphs import Carried, Crossing, Operations
from branchynet.surgery.preserving import evaluating
from branchynet.surgery.tracing import BATCHES, example, trace

__all__ = ["Cut", "attach", "cuts_table", "legal_cuts"]

CHECKED_BATCHES = (1, 4)  # neither is a batch that was recorded
TOLERANCE = 1e-4

Shape = tuple[int, int, int]
HeadMaker = Callable[[tuple[int, ...], int], nn.Module]


@dataclass(frozen=True, slots=True)
class Cut:
    """A place where a model may be cut: after submodule *name*; *aliases* end at the same place.

    *crossing*: the tensors that cross, the submodule's own output first. *macs_before*, *macs_after*: multiply-adds
    of one sample on either side.
    """

    name: str
    aliases: tuple[str, ...]
    crossing: tuple[Carried, ...]
    macs_before: int
    macs_after: int

    @property
    def bytes(self) -> int:
        """Bytes of one sample's tensors at this cut, in fp32."""
        return sum(carried.bytes for carried in self.crossing)


@torch.inference_mode(False)  # whoever calls in it would get heads that cannot learn
def attach(
    model: nn.Module,
    after: Sequence[str],
    classes: int,
    *,
    input_shape: Shape,
    normalisation: Normalisation,
    head: HeadMaker = default_head,
    replace_classifier: bool = False,
) -> BranchyNet:
    """*model* as a network of `len(after) + 1` stages, with an exit after each submodule named in *after*.

    *model* takes float32 [B, *input_shape*] and gives logits [B, *classes*], which are the final exit's; the network
    takes uint8 images and hands the model `normalisation(images)`. *head* makes each exit from the shape of one
    sample's tensor and *classes*. With *replace_classifier* a fresh last linear layer of *classes* outputs takes the
    place of the model's. Weights are shared with *model*; the network, and so the model, is in evaluation mode.

    Raises `InvalidInput`, naming the submodule or tensor, for a cut that is not possible, a model of another kind, and
    whatever the model's or a head's own code raises. The model is then as it was.
    """
    check_model(model)
    after = _own_names(model, after)
    if len(normalisation.mean) != input_shape[0]:
        raise InvalidInput(f"normalisation has {len(normalisation.mean)} channels, input_shape {input_shape}")
    with evaluating(model), foreign_code("the model cannot be taken apart", model):
        width = _width(model, input_shape)
        if width != classes and not replace_classifier:
            raise InvalidInput(
                f"the model gives {width} logits, classes is {classes}; build the model with {classes} classes, or let "
                "attach replace its last linear layer (--new-classifier; replace_classifier=True)"
            )
        classifier = _classifier(model, input_shape, width)
        operations = _operations(model, input_shape, after, classifier)
        crossings = _crossings(operations, after)
        stages = _stages(operations, after, crossings, classifier)
        maps = _check_equal(model, stages, input_shape)
    for stage, name, gives, x in zip(stages, after, crossings, maps, strict=False):
        stage.head = made_head(lambda shape: head(shape, classes), gives, x, classes, name)
    if replace_classifier:
        _replace(stages[-1], classifier, classes)
    network = BranchyNet.whole(stages, input_shape=input_shape, classes=classes, normalisation=normalisation)
    return network.eval()


@torch.inference_mode(False)
def legal_cuts(model: nn.Module, input_shape: Shape) -> list[Cut]:
    """Every place where *model* may be cut for inputs [B, *input_shape*], in order, one entry a place.

    A submodule whose code cannot be recorded is one operation: it may be cut after, not inside. Raises `InvalidInput`
    if that is so for the model itself, and for models that `attach` refuses. The model is left as it was.
    """
    check_model(model)
    parents = {name for name, module in model.named_modules() if name and any(module.children())}
    with evaluating(model), foreign_code("the model cannot be taken apart", model):
        _width(model, input_shape)
        operations = Operations(trace(model, input_shape, parents, strict=False))
        macs = _macs_by_place(model, operations, input_shape)
    names: dict[int, list[str]] = {}
    for name, calls in operations.trace.calls.items():
        if len(calls) == 1:
            names.setdefault(operations.place_after(name), []).append(name)
    cuts = []
    for place, aliases in sorted(names.items()):
        legal = {name: crossing for name in aliases if (crossing := _legal(operations, place, name))}
        if legal:
            name, *others = sorted(legal, key=lambda name: (name.count("."), name))
            cuts.append(Cut(name, tuple(others), legal[name], macs[place], macs[-1] - macs[place]))
    return cuts


def cuts_table(cuts: Sequence[Cut]) -> str:
    """*cuts* as lines of text: what to write in `after=`, what crosses, its bytes, the share of the MACs before it.

    Names that a shell would read otherwise are quoted.
    """
    names = [shlex.quote(cut.name) for cut in cuts]
    width = max(32, *map(len, names), 0)
    lines = [f"{'after':{width}} {'crosses (one sample)':44} {'kB':>8} {'MACs before':>12}"]
    for name, cut in zip(names, cuts, strict=True):
        total = cut.macs_before + cut.macs_after
        crosses = " + ".join("×".join(map(str, carried.shape)) for carried in cut.crossing)
        lines.append(f"{name:{width}} {crosses:44} {cut.bytes / 1e3:8.1f} {cut.macs_before / max(total, 1):12.1%}")
    return "\n".join(lines)


def _own_names(model: nn.Module, after: Sequence[str]) -> list[str]:
    """*after* as `named_modules` calls them, which has one name for each; `InvalidInput` for what is no submodule."""
    known = dict(model.named_modules(remove_duplicate=False))
    if isinstance(after, str) or not after:
        raise InvalidInput(f"after is {after!r}; it must list the submodules that exits follow")
    for name in after:
        if name not in known or not name:
            near = get_close_matches(name, known, n=5, cutoff=0.4) or [child for child, _ in model.named_children()]
            raise InvalidInput(f"the model has no submodule {name!r}; near names are {', '.join(near)}")
    own = {module: name for name, module in model.named_modules()}
    names = [own[known[name]] for name in after]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InvalidInput(f"submodule {repeated[0]!r} is named twice in after")
    return names


def _width(model: nn.Module, input_shape: Shape) -> int:
    return check_answers(model, example(input_shape, BATCHES[0]), "the model")


def _classifier(model: nn.Module, input_shape: Shape, width: int) -> str | None:
    """The linear layer that is called last, if it is called once and gives the logits' *width*."""
    called: list[str] = []
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda *_, name=name: called.append(name)) for name, layer in linears]
    try:
        model(example(input_shape, 1))
    finally:
        for hook in hooks:
            hook.remove()
    last = called[-1] if called else None
    return last if last and called.count(last) == 1 and dict(linears)[last].out_features == width else None


def _operations(model: nn.Module, input_shape: Shape, after: Sequence[str], classifier: str | None) -> Operations:
    """The recorded model: opened around the cuts, and around the classifier if its surroundings allow."""
    opened = {parent for name in after for parent in _parents(name)}
    wider = opened | set(_parents(classifier or ""))
    try:
        return Operations(trace(model, input_shape, wider, strict=True))
    except InvalidInput:
        if wider == opened:
            raise
    return Operations(trace(model, input_shape, opened, strict=True))


def _parents(name: str) -> list[str]:
    steps = name.split(".")
    return [".".join(steps[:count]) for count in range(1, len(steps))]


def _crossings(operations: Operations, after: Sequence[str]) -> list[Crossing]:
    """What crosses after each of *after*, which must be in the order that the model computes them in."""
    places = [operations.place_after(name) for name in after]
    for index, (earlier, later) in enumerate(pairwise(places), 1):
        if later <= earlier:
            order = sorted(after, key=operations.place_after)
            raise InvalidInput(
                f"submodule {after[index]!r} does not end after {after[index - 1]!r}; "
                f"the model computes them in the order {', '.join(order)}"
            )
    return [_legal_or_raise(operations, name) for name in after]


def _stages(
    operations: Operations, after: Sequence[str], crossings: Sequence[Crossing], classifier: str | None
) -> list[Stage]:
    """The trunk of each stage, and the model's own head behind the last."""
    places = [0, *(operations.place_after(name) for name in after)]
    takings: list[Crossing] = [(), *crossings]
    stages = [
        Stage(operations.part(start, end, takes, gives))
        for (start, end), (takes, gives) in zip(pairwise(places), pairwise(takings), strict=True)
    ]
    return [*stages, _last_stage(operations, places[-1], takings[-1], classifier)]


def _last_stage(operations: Operations, start: int, takes: Crossing, classifier: str | None) -> Stage:
    """The rest of the model; its head is what follows from the classifier on, if one tensor goes into that."""
    end = len(operations.nodes)
    if classifier in operations.trace.calls:
        place = operations.position[operations.trace.calls[classifier][0].last]
        try:
            inputs = operations.crossing(place)
        except InvalidInput:
            inputs = ()
        if place >= start and len(inputs) == 1:
            return Stage(operations.part(start, place, takes, inputs), operations.part(place, end, inputs, None))
    return Stage(operations.part(start, end, takes, None), nn.Identity())


def _legal_or_raise(operations: Operations, name: str) -> Crossing:
    place = operations.place_after(name)
    if not operations.anything_after(place):
        raise InvalidInput(f"nothing is computed after submodule {name!r}; the final exit is there already")
    try:
        return operations.crossing(place, name)
    except InvalidInput as error:
        raise InvalidInput(f"the model cannot be cut after {name!r}: {error}") from None


def _legal(operations: Operations, place: int, name: str) -> Crossing:
    """What crosses after *name*; nothing if that is no place to cut."""
    try:
        return operations.crossing(place, name) if operations.anything_after(place) else ()
    except InvalidInput:
        return ()


def _check_equal(model: nn.Module, stages: Sequence[Stage], input_shape: Shape) -> list[Tensor]:
    """What each stage's trunk hands on for `CHECKED_BATCHES[-1]` examples.

    Raises `InvalidInput` unless the parts compute what the model does, each on a tensor of its own memory.
    """
    for batch in CHECKED_BATCHES:
        expected = run(model, example(input_shape, batch), "the model")
        x, maps = example(input_shape, batch), []
        for stage in stages:
            assert isinstance(stage.trunk, fx.GraphModule)
            before, version = x, x._version
            x = stage.trunk(x).clone(memory_format=torch.contiguous_format)
            if before._version != version:
                _copy_first(stage.trunk)
            maps.append(x)
        assert stages[-1].head is not None
        logits = stages[-1].head(x)
        error = float((logits - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not error <= TOLERANCE:
            raise InvalidInput(
                f"cut there, the model does not compute the same for a batch of {batch} (off by {error:.1e}): "
                "it changes a tensor in place on one side and reads it on the other, draws random numbers, or "
                "treats batch sizes differently"
            )
    return maps


def _copy_first(part: fx.GraphModule) -> None:
    """Let *part* work on a copy of its input, which its first operations would otherwise overwrite."""
    x = next(iter(part.graph.nodes))
    with part.graph.inserting_after(x):
        copy = part.graph.call_method("clone", (x,))
    x.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)
    part.recompile()


def _replace(last: Stage, classifier: str | None, classes: int) -> None:
    if classifier is None or not isinstance(last.head, fx.GraphModule):
        raise InvalidInput("the model does not end with a linear layer that could be replaced; change it yourself")
    old = last.head.get_submodule(classifier)
    assert isinstance(old, nn.Linear)
    last.head.set_submodule(classifier, nn.Linear(old.in_features, classes))


def _macs_by_place(model: nn.Module, operations: Operations, input_shape: Shape) -> list[int]:
    """Multiply-adds of one sample in the operations before each place."""
    counter = _Counter(model, graph=operations.trace.graph)
    counter.run(example(input_shape, 1))
    totals = [0]
    for node in operations.nodes:
        totals.append(totals[-1] + counter.macs[node])
    return totals


class _Counter(fx.Interpreter):
    """Counts each operation while it runs."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.macs: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> object:
        result: list[object] = []
        self.macs[n] = count_macs_of(lambda: result.append(super(_Counter, self).run_node(n)))
        return result[0]
