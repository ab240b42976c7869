"""Images of one's own as data sets: of the classes of an artifact, in its shape, parted as when it was trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from branchynet.data.datasets import DATASETS, Dataset
from branchynet.data.image_folder.content_split import HeldOut, draw
from branchynet.data.image_folder.decoding import decode
from branchynet.data.image_folder.digests import digests_of
from branchynet.data.image_folder.found import Found, is_split
from branchynet.data.image_folder.listing import LOOKED_FOR, find_pictures
from branchynet.data.preprocessing import Preprocessing
from branchynet.errors import DamagedData, InvalidInput

__all__ = ["OwnImages", "has_classes"]

_log = logging.getLogger(__name__)

_NAMED = 3


@dataclass(frozen=True)
class OwnImages:
    """The pictures in *found* that can be read, with the *digests* of their bytes, as a network takes them.

    *input_shape*: [C, H, W]; *labels*: the names of its classes in its order.
    """

    found: Found
    digests: tuple[str, ...]
    input_shape: tuple[int, int, int]
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    progress: bool = False

    @classmethod
    def at(
        cls,
        where: Path,
        split: str,
        input_shape: tuple[int, ...],
        preprocessing: Preprocessing,
        labels: Sequence[str] | None = None,
        *,
        progress: bool = False,
    ) -> OwnImages:
        """The pictures at *where*, of *split* ('train' or 'test') if there are both; *labels*: those found if None.

        Raises `InvalidInput` if there are none, and for what `find_pictures` refuses.
        """
        channels, height, width = input_shape
        found = find_pictures(where, split)
        digests = digests_of(found.pictures, found.where, progress=progress)
        readable = [number for number, digest in enumerate(digests) if digest is not None]
        _tell_skipped(
            found, [(found.pictures[n].name, "cannot be opened") for n, digest in enumerate(digests) if not digest]
        )
        known = replace(found, pictures=tuple(found.pictures[number] for number in readable))
        return cls(
            known,
            tuple(digest for digest in digests if digest is not None),
            (channels, height, width),
            preprocessing,
            tuple(found.classes if labels is None else labels),
            progress,
        )

    @property
    def name(self) -> str:
        """What the data set is called: as its folder, or the one above where that is a split; never as a known set."""
        where = self.found.where.absolute()
        where = where.parent if is_split(where.name) else where
        name = where.stem if self.found.where.is_file() else where.name
        return f"{name}-pictures" if name in DATASETS else name or "pictures"

    def check_training(self) -> None:
        """Raise `InvalidInput` unless there are pictures of two classes or more."""
        if len(self.found.classes) < 2:
            known = ", ".join(self.found.classes) or "none"
            raise InvalidInput(
                f"{self.found.where} holds {len(self.found.pictures):,} pictures of the classes: {known}; training "
                f"takes two classes or more; looked for {LOOKED_FOR}"
            )

    def numbers(self) -> dict[str, int]:
        """Which output of the network each class found is; `InvalidInput`, with the difference, for others."""
        if not self.found.labelled:
            raise InvalidInput(
                f"{self.found.where} holds {self.found.layout}; looked for {LOOKED_FOR}. Without labels, classify, "
                "profile, plan and study drift will do"
            )
        if strange := [name for name in self.found.classes if name not in self.labels]:
            lacking = [name for name in self.labels if name not in self.found.classes]
            raise InvalidInput(
                f"{self.found.where} has the classes {_few(strange)}, which the network does not know; its own are "
                f"{_few(self.labels)}" + (f", of which {_few(lacking)} are not there" if lacking else "")
            )
        return {name: self.labels.index(name) for name in self.found.classes}

    def dataset(self, split: str, chosen: Sequence[int] | None = None, *, labelled: bool = True) -> Dataset:
        """All pictures, or those *chosen* by number, decoded; without *labelled* every label is 0.

        What cannot be decoded is skipped and told once. Raises `DamagedData` if that is all.
        """
        return self.decoded(split, range(len(self.digests)) if chosen is None else chosen, labelled=labelled)[0]

    def decoded(self, split: str, chosen: Sequence[int], *, labelled: bool = True) -> tuple[Dataset, list[int]]:
        """The same, and the numbers of those that could be decoded."""
        numbers = self.numbers() if labelled else {}
        pictures = [self.found.pictures[number] for number in chosen]
        digests = [self.digests[number] for number in chosen]
        done = decode(pictures, digests, self.input_shape, self.preprocessing, progress=self.progress)
        _tell_skipped(self.found, done.skipped)
        if not done.kept:
            reason = f": {done.skipped[0][1]}" if done.skipped else ""
            raise DamagedData(f"{self.found.where}: none of {len(pictures):,} pictures can be read{reason}")
        labels = np.array([numbers.get(str(pictures[number].label), 0) for number in done.kept], dtype=np.int64)
        skipped = f", {len(done.skipped):,} skipped" if done.skipped else ""
        source = f"{self.found.where} ({self.found.layout}{skipped})"
        made = Dataset(self.name, done.pixels, labels, self.labels, split, source)
        return made, [chosen[number] for number in done.kept]

    def some(self, split: str, count: int) -> Dataset:
        """Up to *count* of them, drawn at random, always the same, without labels (all are 0)."""
        drawn = np.random.default_rng(0).permutation(len(self.digests))[:count]
        return self.dataset(split, sorted(drawn.tolist()), labelled=False)

    # --- training and held-out pictures --------------------------------------------------------------------------

    def draw_held_out(self, count: int | None, share: float, seed: int) -> tuple[Dataset, Dataset, dict[str, Any]]:
        """Those to train on, those held out (about *count* if given, else a *share*), and what a recipe records.

        Raises `InvalidInput` for too few pictures.
        """
        self.check_training()
        if count is not None and count >= len(self.digests):
            raise InvalidInput(f"{count:,} of {len(self.digests):,} pictures cannot be held out")
        share = share if count is None else count / len(self.digests)
        numbers = self.numbers()
        held = draw(self.digests, [numbers[str(one.label)] for one in self.found.pictures], share, seed)
        training, held_out = held.part(self.digests)
        training_images = self.dataset("train", training)
        held_images, kept = self.decoded("calibration", held_out)
        # What cannot be decoded is not missed later.
        recorded = HeldOut.of(share, seed, [self.digests[number] for number in kept])
        return training_images, held_images, recorded.to_recipe()

    def split_again(self, held: HeldOut, name: str) -> tuple[Dataset, Dataset]:
        """The two as they were when artifact *name* was trained, whatever came since, under whatever file names.

        Raises `InvalidInput` if some of those held out are not here.
        """
        if missing := held.missing(self.digests):
            raise InvalidInput(
                f"{missing:,} of the {len(held.beginnings):,} pictures that were held out when {name} was trained are "
                f"not in {self.found.where} as they were; name the folder that it was trained on with --data"
            )
        training, held_out = held.part(self.digests)
        return self.dataset("train", training), self.dataset("calibration", held_out)

    def test_images(self, held: HeldOut | None) -> Dataset:
        """All pictures; where they are those that were trained on, the ones that were *held* out, and it says so."""
        if held is None or held.missing(self.digests):
            return self.dataset("test")
        found = self.dataset("calibration", held.part(self.digests)[1])
        _log.warning(
            "%s is the folder that was trained on, and there is no other split: the %d pictures that were held out "
            "are used, on which thresholds were chosen",
            self.found.where,
            len(found),
        )
        return replace(found, source=f"{found.source}, ONLY THOSE HELD OUT from training")


def has_classes(where: Path | None, labels: Sequence[str]) -> bool:
    """Whether there are pictures at *where* of one of the classes *labels*; no folder, no pictures, no error."""
    try:
        return where is not None and bool(set(find_pictures(where, "test").classes) & set(labels))
    except (InvalidInput, DamagedData):
        return False


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def _tell_skipped(found: Found, skipped: Sequence[tuple[str, str]]) -> None:
    if skipped:
        few = "; ".join(f"{name} {reason}" for name, reason in skipped[:_NAMED])
        more = f"; and {len(skipped) - _NAMED:,} more" if len(skipped) > _NAMED else ""
        what = "1 picture is" if len(skipped) == 1 else f"{len(skipped):,} pictures are"
        _log.warning("%s: %s skipped: %s%s", found.where, what, few, more)
