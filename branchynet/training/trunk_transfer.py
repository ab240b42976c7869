"""Hand a trained trunk on: to a network that branches off it elsewhere, or to a deeper one that grows from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from branchynet.errors import InvalidInput
from branchynet.training import checkpoints
from branchynet.training.checkpoints import State

__all__ = ["finished_trunk", "trunk_entries", "with_trunk"]

# The end of a residual branch: with its scale and shift at zero the block is its shortcut.
_BRANCH_END = "norm2"


def trunk_entries(state: State) -> State:
    """The entries of the trunk and the final exit's head, in the order of the layers."""
    last = max((int(name.split(".")[1]) for name in state), default=0)
    final = f"stages.{last}.head."
    return {name: tensor for name, tensor in state.items() if ".trunk." in name or name.startswith(final)}


def with_trunk(fresh: State, trunk: State, folder: Path) -> State:
    """*fresh* with the weights of *trunk*, which *folder* holds: layer by layer, wherever either of them is cut.

    Where *fresh* has more equal residual blocks in a row than *trunk*, each trained block is followed by copies of
    itself whose residual branch is switched off: the deeper network starts by answering what the shallower one does
    (Chen et al. 2016, "Net2Net"; Chang et al. 2018 train residual networks this way). Raises `InvalidInput` for a
    trunk of other layers.
    """
    ours, theirs = _runs(trunk_entries(fresh)), _runs(trunk_entries(trunk))
    if [run[0].kind for run in ours] != [run[0].kind for run in theirs]:
        raise InvalidInput(f"the trunk in {folder} has other layers than the recipe's network")
    result = dict(fresh)
    for layers, trained in zip(ours, theirs, strict=True):
        if len(layers) < len(trained) or (len(layers) > len(trained) and not trained[0].is_residual):
            raise InvalidInput(
                f"the trunk in {folder} has {len(trained)} layers {trained[0].kind} in a row, "
                f"the recipe's network {len(layers)}"
            )
        for layer, values in zip(layers, _spread(trained, len(layers)), strict=True):
            result.update({name: values[part].clone() for part, name in layer.names.items()})
    return result


def finished_trunk(folder: Path) -> State:
    """The trunk that a run made in *folder*; `InvalidInput` if it has none or has not finished it.

    A run that took its own trunk from elsewhere has none but its baseline, so that a network may be trained on in
    several runs.
    """
    handed_on = checkpoints.exists(folder, "baseline") and not checkpoints.exists(folder, "trunk")
    checkpoint, epochs = checkpoints.read_any(folder, "baseline" if handed_on else "trunk")
    if checkpoint.epoch < epochs:
        raise InvalidInput(f"the trunk in {folder} has had {checkpoint.epoch} of {epochs} epochs")
    return checkpoint.result


@dataclass(frozen=True)
class _Layer:
    """One layer's entries: their full *names* and their *values*, by the part of the name that follows its place."""

    names: dict[str, str]
    values: State

    @property
    def kind(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What two layers must have in common to take each other's weights."""
        return tuple((part, tuple(tensor.shape)) for part, tensor in self.values.items())

    @property
    def is_residual(self) -> bool:
        return any(part.startswith(_BRANCH_END) for part in self.values)

    def switched_off(self) -> State:
        """The weights of a residual block that only passes its input on."""
        off = (f"{_BRANCH_END}.weight", f"{_BRANCH_END}.bias")
        return {part: torch.zeros_like(v) if part in off else v for part, v in self.values.items()}


def _runs(entries: State) -> list[list[_Layer]]:
    """The layers in their order, equal ones in a row together."""
    layers: dict[str, _Layer] = {}
    for name, tensor in entries.items():
        # A layer's place is "stages.1.trunk.4"; a head that is one layer has no number of its own.
        parts = name.split(".")
        place = 4 if parts[3].isdigit() else 3
        layer = layers.setdefault(".".join(parts[:place]), _Layer({}, {}))
        layer.names[".".join(parts[place:])] = name
        layer.values[".".join(parts[place:])] = tensor
    return [list(run) for _, run in groupby(layers.values(), key=lambda layer: layer.kind)]


def _spread(trained: list[_Layer], places: int) -> list[State]:
    """The weights for *places* layers: each trained one, and behind it its share of switched-off copies."""
    ends = [(index + 1) * places // len(trained) for index in range(len(trained))]
    starts = [0, *ends[:-1]]
    spread: list[State] = []
    for layer, start, end in zip(trained, starts, ends, strict=True):
        spread += [layer.values, *[layer.switched_off()] * (end - start - 1)]
    return spread
