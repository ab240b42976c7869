"""Where a training stopped: one file a phase, and the log."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from branchynet.errors import DamagedData, InvalidInput
from branchynet.files import write_bytes
from branchynet.training.recipes import BRANCHES_ONLY, JOINT_ONLY, Recipe

__all__ = ["LOG", "Checkpoint", "State", "append_log", "exists", "read", "read_any", "save", "write"]

LOG = "log.jsonl"

State = dict[str, Tensor]

_DEFAULTS = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}


@dataclass
class Checkpoint:
    """A phase after *epoch* whole epochs: the *network*'s weights, the *optimiser*'s state, the weights' *average*.

    *average* is empty in a phase that keeps none.
    """

    epoch: int
    network: State
    optimiser: dict[str, Any] = field(default_factory=dict)
    average: State = field(default_factory=dict)

    @property
    def result(self) -> State:
        """The weights that the phase would end with now."""
        return self.average or self.network


def exists(folder: Path, phase: str) -> bool:
    """Whether *folder* holds the phase's checkpoint."""
    return _path(folder, phase).exists()


def write(folder: Path, phase: str, recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Replace the phase's file in one step."""
    save(_path(folder, phase), {"recipe": json.dumps(_described(recipe, phase)), **vars(checkpoint)})


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the file at *path* by *state*, which may hold tensors, in one step."""
    # By way of memory: torch hides behind an error of its own why a file cannot be written.
    packed = io.BytesIO()
    torch.save(state, packed)
    write_bytes(path, packed.getbuffer())


def read(folder: Path, phase: str, recipe: Recipe) -> Checkpoint | None:
    """The phase's checkpoint, None if there is none.

    Raises `InvalidInput` if it belongs to another recipe, `DamagedData` if it is no checkpoint.
    """
    path = _path(folder, phase)
    if not path.exists():
        return None
    theirs, checkpoint = _load(path)
    ours = json.loads(json.dumps(_described(recipe, phase)))
    # A checkpoint that is older than a field was trained with what is the field's default now.
    theirs = {**_DEFAULTS, **theirs}
    if changed := [
        f"{key}: {theirs.get(key)!r} there, {ours[key]!r} asked" for key in ours if theirs.get(key) != ours[key]
    ]:
        raise InvalidInput(f"{path} belongs to another recipe ({'; '.join(changed)}); choose another --run folder")
    return checkpoint


def read_any(folder: Path, phase: str) -> tuple[Checkpoint, int]:
    """The phase's checkpoint of whatever recipe, and the number of epochs that recipe gives the phase.

    Raises `InvalidInput` if there is none, `DamagedData` if it is no checkpoint.
    """
    path = _path(folder, phase)
    if not path.exists():
        raise InvalidInput(f"{folder} holds no {path.name}")
    recipe, checkpoint = _load(path)
    return checkpoint, int(recipe["trunk_epochs" if phase == "trunk" else "joint_epochs"])


def append_log(folder: Path, record: Mapping[str, Any]) -> None:
    """Add *record* to the log, one JSON object a line."""
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(record) + "\n")


def _path(folder: Path, phase: str) -> Path:
    return folder / f"{phase}.pt"


def _load(path: Path) -> tuple[dict[str, Any], Checkpoint]:
    try:
        saved = torch.load(path, weights_only=True)
        return json.loads(saved.pop("recipe")), Checkpoint(**saved)
    except (RuntimeError, EOFError, UnpicklingError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise DamagedData(f"{path} is no checkpoint of ours ({error!r}); delete it to start again") from None


def _described(recipe: Recipe, phase: str) -> dict[str, Any]:
    """What decides the phase's outcome; thresholds are chosen after all of them."""
    left_out = ["accuracy_drop_points", "criterion", *{"trunk": JOINT_ONLY, "baseline": BRANCHES_ONLY}.get(phase, ())]
    if phase == "joint" and not recipe.frozen:
        left_out.append("baseline")
    return {key: value for key, value in recipe.to_json().items() if key not in left_out}
