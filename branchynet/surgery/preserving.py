"""A model is run, recorded and looked at, and is afterwards what it was before, also if something was raised.

What is put back: parameters and buffers with their values and gradient flags, every other attribute of a submodule
(counters, lists that it collects in, hooks, its mode), and the state of the random generators.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from branchynet.errors import InvalidInput
from branchynet.network.foreign_code import in_words

__all__ = ["Kept", "evaluating"]

_CONTAINERS = (list, set, deque, dict)


class Kept:
    """What *model* and the random generators are now; `put_back` makes them so again."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._attributes: list[tuple[Any, Any]] = [(vars(module), dict(vars(module))) for module in modules]
        values = [value for _, attributes in self._attributes for value in attributes.values()]
        self._containers: list[tuple[Any, Any]] = [
            (value, value.copy()) for value in values if isinstance(value, _CONTAINERS)
        ]
        inside = [part for held, _ in self._containers for part in (held.values() if isinstance(held, dict) else held)]
        tensors = {id(value): value for value in [*values, *inside] if isinstance(value, Tensor) and _has_values(value)}
        self._tensors = [(tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in tensors.values()]
        self._generators = torch.get_rng_state(), random.getstate(), np.random.get_state()

    def put_back(self) -> None:
        """Undo whatever happened since; what did not change is not written to."""
        for container, held in [*self._attributes, *self._containers]:
            if not _same(container, held):
                container.clear()
                (container.extend if isinstance(container, list | deque) else container.update)(held)
        for tensor, values, with_gradient in self._tensors:
            if tensor.shape != values.shape:
                tensor.data = values.clone()
            elif not torch.equal(tensor, values):
                tensor.detach().copy_(values)
            if tensor.is_leaf and tensor.requires_grad != with_gradient:
                tensor.requires_grad_(with_gradient)
        torch.set_rng_state(self._generators[0])
        random.setstate(self._generators[1])
        np.random.set_state(self._generators[2])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """*model* in evaluation mode and without gradients; whatever changes in it is put back at the end.

    Raises `InvalidInput` for a model that has no such mode.
    """
    kept = Kept(model)
    try:
        try:
            model.eval()
        except Exception as error:  # the model's own `train`
            raise InvalidInput(
                f"the model cannot be put in evaluation mode: {in_words(error)}; what torch.export gives is a fixed "
                "graph: give the nn.Module that it was made of, with its weights (load_state_dict)"
            ) from error
        with torch.no_grad():
            yield
    finally:
        kept.put_back()


def _has_values(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta


def _same(now: Any, before: Any) -> bool:
    """Whether two containers hold the same objects, in the same order."""
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        return all(a is b and now[a] is before[b] for a, b in zip(now, before, strict=True))
    return now == before if isinstance(now, set) else all(a is b for a, b in zip(now, before, strict=True))
