"""The exits that a caller's function makes: each is tried on what it will look at, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn

from branchynet.errors import InvalidInput
from branchynet.network.foreign_code import foreign_code
from branchynet.surgery.admission import check_model
from branchynet.surgery.answers import check_answers, run
from branchynet.surgery.graphs import Crossing
from branchynet.surgery.preserving import evaluating

__all__ = ["made_head"]


class _First(nn.Module):
    """The first of several packed tensors: values [B, N] to [B, *shape*]."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.narrow(1, 0, prod(self.shape)).reshape(-1, *self.shape)


def made_head(
    make: Callable[[tuple[int, ...]], nn.Module], gives: Crossing, features: Tensor, classes: int, after: str
) -> nn.Module:
    """The head for an exit after submodule *after*, where *gives* crosses; *make* makes it for a tensor's shape.

    *features*: float32 [B, …], an example of what arrives there, B at least 2. Raises `InvalidInput` for a head that
    does not give *classes* logits, and for what `check_model` and `check_answers` refuse.
    """
    what = f"the head after {after!r}"
    with foreign_code(f"{what} cannot be made for a tensor of shape {gives[0].shape}", nn.Identity()):
        head = make(gives[0].shape)
    if not isinstance(head, nn.Module):
        raise InvalidInput(f"{what} is a {type(head).__name__}; it must be a torch.nn.Module")
    exit_ = head if len(gives) == 1 else nn.Sequential(_First(gives[0].shape), head)
    _materialise(exit_, features, what)
    check_model(head, what)
    features = features[:2].clone()
    with evaluating(exit_):
        width = check_answers(exit_, features, what)
        version = features._version
        exit_(features)
    if width != classes:
        raise InvalidInput(f"{what} gives {width} logits, classes is {classes}")
    if features._version != version:
        raise InvalidInput(f"{what} changes its input in place, which goes on to the next stage; use inplace=False")
    return exit_


def _materialise(head: nn.Module, features: Tensor, what: str) -> None:
    """Lazy layers get their parameters in their first call."""
    if any(isinstance(module, nn.modules.lazy.LazyModuleMixin) for module in head.modules()):
        with torch.no_grad():
            run(head, features, what)
