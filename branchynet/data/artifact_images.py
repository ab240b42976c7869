"""The images that an artifact is measured, calibrated and trained on: of a known data set, or its user's own.

The one way by which commands get them: `Artifact.images`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from branchynet.data import datasets
from branchynet.data.datasets import DATASETS, Dataset
from branchynet.data.image_folder.content_split import HeldOut
from branchynet.data.image_folder.listing import find_pictures
from branchynet.data.image_folder.own_images import OwnImages, has_classes
from branchynet.data.preprocessing import Preprocessing
from branchynet.errors import DamagedData, InvalidInput

__all__ = ["ArtifactImages"]


@dataclass(frozen=True)
class ArtifactImages:
    """What the manifest of artifact *name* says of images: their data set, classes, shape, preprocessing and recipe."""

    name: str
    dataset: str
    labels: tuple[str, ...]
    input_shape: tuple[int, ...]
    preprocessing: Preprocessing
    recipe: Mapping[str, Any]

    @property
    def known(self) -> bool:
        """Whether it was trained on one of `DATASETS`."""
        return self.dataset in DATASETS

    def has_own(self, data: Path | None) -> bool:
        """Whether *data* holds pictures of its classes, or without labels."""
        return has_classes(data, self.labels) or (data is not None and self.unlabelled(data) is not None)

    def own(self, data: Path | None, split: str = "test") -> OwnImages:
        """The pictures at *data*, a folder, table or archive, as this artifact takes them, labelled or not.

        Raises `InvalidInput` without *data*, and if there are none.
        """
        if data is None:
            raise InvalidInput(
                f"{self.name} takes images of {self.dataset}, which are its user's own: name their folder with --data"
            )
        return OwnImages.at(data, split, self.input_shape, self.preprocessing, self.labels, progress=True)

    def test(self, data: Path | None) -> Dataset:
        """Labelled images to measure on: pictures at *data* of its classes, else the test split of its known data set.

        Raises what `datasets.load` raises for a known set, and `InvalidInput` for pictures of other classes or without
        labels. Where *data* holds nothing but the pictures it was trained on, those held out are handed out, as the
        split 'calibration'.
        """
        if self.known and not has_classes(data, self.labels):
            return datasets.load(self.dataset, "test", data, progress=True)
        return self.own(data).test_images(HeldOut.from_recipe(self.recipe))

    def unlabelled(self, data: Path | None) -> OwnImages | None:
        """The pictures at *data* if there are some without labels that this artifact knows; else None.

        A known set's folder may hold other folders beside it, so there the pictures must lie in *data* itself.
        """
        if data is None:
            return None
        try:
            classes = set(find_pictures(data, "test").classes)
        except (InvalidInput, DamagedData):
            if self.known:
                return None
            raise
        strange = not self.known and not classes & set(self.labels)
        return self.own(data) if strange or not classes else None

    def calibration_split(self, data: Path | None) -> tuple[Dataset, Dataset]:
        """The images that it was trained on, and those that were held out then.

        Raises `InvalidInput` if its recipe does not say which, or if pictures that were held out are not at *data*;
        `Unavailable` if the training images of a known set are not here.
        """
        if (held := HeldOut.from_recipe(self.recipe)) is not None:
            return self.own(data, "train").split_again(held, self.name)
        count, seed = self.recipe.get("calibration_images"), self.recipe.get("seed")
        if not isinstance(count, int) or not isinstance(seed, int):
            raise InvalidInput(f"{self.name} does not say which images were held out: its recipe is {self.recipe!r}")
        whole = datasets.load(self.dataset, "train", data, progress=True)
        return datasets.split_calibration(whole, count, seed)
