"""What a model, or a head, must answer: logits, the same for an image whenever and beside whatever it is asked.

An edge and a cloud see an image in other batches than a test does. So a model whose answer depends on its neighbours,
on chance or on what it was asked before is refused; and so are probabilities, whose softmax hardly tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from branchynet.errors import InvalidInput
from branchynet.network.foreign_code import foreign_code

__all__ = ["check_answers", "run"]

TOLERANCE = 1e-4  # of the largest logit; other batch sizes take other kernels, which come to 1e-6
# An image unlike its neighbour: statistics over both are far from those of either.
UNLIKE = 3.0
_SIGMOIDS = ("aten::sigmoid", "aten::sigmoid_", "aten::hardsigmoid", "aten::hardsigmoid_")


def check_answers(model: nn.Module, x: Tensor, what: str) -> int:
    """The number of logits that *model*, called *what* in errors, gives; it is in evaluation mode, without gradients.

    *x*: float32 [2, …], two inputs. Raises `InvalidInput` unless it runs and gives finite float32 logits [2, N] that
    are no probabilities and depend on each input alone.
    """
    x = torch.stack([x[0], UNLIKE * x[1]])
    sigmoid = _LastSigmoid()  # type: ignore[no-untyped-call]
    with sigmoid:
        logits = run(model, x, what)
    _check_kind(logits, len(x), what)
    _check_no_probabilities(logits, sigmoid.last, what)
    alone = [run(model, x[index : index + 1], what) for index in range(len(x))]
    if not _near(torch.cat(alone), logits):
        raise InvalidInput(_why_unlike(model, x, logits, what))
    return logits.shape[1]


def _why_unlike(model: nn.Module, x: Tensor, logits: Tensor, what: str) -> str:
    """What to do about a *model* whose answers to the images of *x* are not *logits* when each is asked alone."""
    if not _near(run(model, x, what), logits):
        name = _first_unlike(model, lambda: model(x.clone()), lambda: model(x.clone()))
        return (
            f"{what} answers the same images differently the second time{name}: it draws random numbers, or keeps "
            "something from one call to the next; in evaluation mode it must do neither"
        )
    name = _first_unlike(model, lambda: model(x.clone()), lambda: model(x[:1].clone()))
    return (
        f"{what} answers an image otherwise beside another one than alone{name}: it takes statistics over the batch; "
        "batch normalisation must have running statistics (track_running_stats=True) and use them after model.eval(), "
        "and a mean or maximum must not go over dimension 0"
    )


def run(model: nn.Module, x: Tensor, what: str) -> Tensor:
    """What *model* gives for a copy of *x*; `InvalidInput` with the submodule at fault if it raises."""
    with foreign_code(f"{what} does not run on inputs of shape {tuple(x.shape)}", model):
        result: Tensor = model(x.clone())
    return result


def _check_kind(logits: Any, batch: int, what: str) -> None:
    if not isinstance(logits, Tensor):
        todo = ""
        if isinstance(getattr(logits, "logits", None), Tensor):  # as transformers' models do
            todo = ": give a module that holds it, and whose forward returns model(x).logits"
        raise InvalidInput(
            f"{what} gives a {type(logits).__name__}; it must give one tensor of logits [B, classes]{todo}"
        )
    if logits.dtype != torch.float32 or logits.dim() != 2 or len(logits) != batch:
        raise InvalidInput(
            f"{what} gives {logits.dtype} {tuple(logits.shape)} for a batch of {batch}; "
            "it must give torch.float32 logits [B, classes]"
        )
    if not torch.isfinite(logits).all():
        raise InvalidInput(f"{what} gives logits that are not finite for normalised random images; check its weights")


def _check_no_probabilities(logits: Tensor, sigmoid: Tensor | None, what: str) -> None:
    """Logarithms of probabilities are logits too: their softmax gives the probabilities back."""
    several = logits.shape[1] > 1
    if several and bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
        found = "each row sums to 1, as after softmax"
    elif sigmoid is not None and logits.untyped_storage().data_ptr() == sigmoid.untyped_storage().data_ptr():
        found = "it ends in a sigmoid"
    else:
        return
    raise InvalidInput(
        f"{what} gives probabilities ({found}), which would be taken for logits; leave its last activation out, or "
        "put nn.Identity() in its place"
    )


class _LastSigmoid(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers what the last sigmoid gave, wherever in the model it was called."""

    last: Tensor | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name in _SIGMOIDS:
            self.last = result
        return result


def _near(a: Tensor, b: Tensor) -> bool:
    """Equal in shape, and in value but for rounding."""
    return a.shape == b.shape and bool((a - b).abs().max() <= TOLERANCE * b.abs().max().clamp_min(1e-12))


def _first_unlike(model: nn.Module, one: Callable[[], object], other: Callable[[], object]) -> str:
    """In words: the first submodule without children that gives another first row in *other* than in *one*."""
    first, second = (_rows(model, call) for call in (one, other))
    for (name, row), (_, twin) in zip(first, second, strict=False):
        if not _near(twin, row):
            return f", first in what submodule {name!r} gives" if name else ""
    return ""


def _rows(model: nn.Module, call: Callable[[], object]) -> list[tuple[str, Tensor]]:
    """The first row of what each submodule without children gives, in order, while *call* runs *model*."""
    rows: list[tuple[str, Tensor]] = []

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() and len(output):
            rows.append((name, output[0].detach().clone().float()))

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    hooks = [m.register_forward_hook(lambda _m, _x, output, name=name: note(name, output)) for name, m in leaves]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return rows
