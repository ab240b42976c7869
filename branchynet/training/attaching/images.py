"""What exits on a model of somebody else's are trained on: a known data set, or the user's own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from branchynet.data import datasets
from branchynet.data.datasets import DATASETS, Dataset
from branchynet.data.image_folder.own_images import OwnImages
from branchynet.data.preprocessing import Preprocessing
from branchynet.errors import InvalidInput, UnknownModel

__all__ = ["input_shape", "training_images"]

# What most classifiers of photos take.
SIDE = 224
HELD_OUT = 5_000
HELD_OUT_SHARE = 0.2
_SHAPES = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


def input_shape(dataset: str | None, size: str | None) -> tuple[int, int, int]:
    """Channels, height and width of the known *dataset*, or of pictures in RGB of *size* ("224", or "HxW").

    Raises `UnknownModel` for another data set, `InvalidInput` for a size that is none, or beside a data set.
    """
    if dataset is not None:
        if dataset not in DATASETS:
            raise UnknownModel(f"there is no data set {dataset!r}; known are {', '.join(DATASETS)}")
        if size is not None:
            raise InvalidInput(f"--size {size} is for pictures of your own; {dataset} has its own size")
        return _SHAPES[dataset]
    sides = str(SIDE if size is None else size).lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and 0 < int(side) <= 8192 for side in sides):
        raise InvalidInput(f"--size is {size!r}; it must be pixels, as 224 or, height first, 224x320")
    return 3, int(sides[0]), int(sides[-1])


def training_images(
    dataset: str | None,
    data: Path | None,
    size: str | None,
    preprocessing: Preprocessing,
    held_out: int | None,
    seed: int,
) -> tuple[Dataset, Dataset, dict[str, Any]]:
    """Images to train on, those held out, and what the recipe tells of the split besides their number and *seed*.

    Without *dataset* they are the pictures at *data*, of the classes found there; about *held_out* of them are held
    out, a fifth unless given, by what is in them. Raises what `OwnImages` and `datasets` raise.
    """
    shape = input_shape(dataset, size)
    if dataset is not None:
        whole = datasets.load(dataset, "train", data, progress=True)
        return *datasets.split_calibration(whole, HELD_OUT if held_out is None else held_out, seed), {}
    if data is None:
        raise InvalidInput("name the folder of your own pictures with --data, or a known data set with --dataset")
    try:
        own = OwnImages.at(data, "train", shape, preprocessing, progress=True)
    except InvalidInput as error:
        raise InvalidInput(f"{error}; --dataset names a known data set: {', '.join(DATASETS)}") from None
    return own.draw_held_out(held_out, HELD_OUT_SHARE, seed)
