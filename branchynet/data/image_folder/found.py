"""Values: an image file that was found, wherever its bytes lie, and all that were found in one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from branchynet.errors import InvalidInput

__all__ = ["SUFFIXES", "Found", "Picture", "class_names", "is_picture", "is_split", "split_of"]

# HEIC is listed although Pillow cannot read it: a phone's photos are to be counted as unreadable, not to be missed.
_KINDS = "jpg jpeg jfif png bmp gif webp tif tiff ppm pgm pbm pnm jp2 avif heic heif"
SUFFIXES = frozenset(f".{kind}" for kind in _KINDS.split(" "))
_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
# One picture; a file that says it is larger is none.
_MOST_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file: *name* for messages, *label* the name of its class (None: not known).

    Its bytes are *size* (None: all) of the file *path* from *offset* on, or *data* itself.
    """

    name: str
    label: str | None
    path: Path
    offset: int = 0
    size: int | None = None
    data: bytes | None = None

    def read(self) -> bytes:
        """The bytes of the image file; raises `OSError` if they are not there, or far too many."""
        if self.data is not None:
            return self.data
        if not self.path.is_file():  # a pipe would be waited for
            raise OSError("it is no file, or a link to nowhere")
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(_MOST_BYTES if self.size is None else min(self.size, _MOST_BYTES))
        if len(content) == _MOST_BYTES:
            raise OSError(f"it has {_MOST_BYTES:,} bytes or more")
        return content


@dataclass(frozen=True)
class Found:
    """The *pictures* in *where*, in a stable order; *classes*: all labels there are, in order, none if unlabelled.

    *layout*: words on how they lie there.
    """

    where: Path
    pictures: tuple[Picture, ...]
    classes: tuple[str, ...]
    layout: str

    @property
    def labelled(self) -> bool:
        """Whether every picture has a label."""
        return bool(self.classes)

    def __post_init__(self) -> None:
        if self.classes and (unnamed := [one.name for one in self.pictures if one.label is None]):
            raise InvalidInput(f"{self.where}: {len(unnamed):,} pictures have no label, the first is {unnamed[0]}")


def is_picture(name: str) -> bool:
    """Whether a file of that name is to be read as a picture; hidden files are not."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def is_split(name: str) -> bool:
    """Whether a folder of that *name* is a split, not a class."""
    return name.lower() in (*_TRAIN, *_TEST)


def split_of(name: str) -> str | None:
    """'train' or 'test', where a folder's, table's or archive's *name* begins with it; 'val' is a test split, too."""
    first = name.lower().replace("_", "-").replace(".", "-").split("-", 1)[0]
    return "train" if first in _TRAIN else "test" if first in _TEST else None


def class_names(labels: Iterable[str | None]) -> tuple[str, ...]:
    """The distinct labels in order: whole numbers by their value, words as Python sorts them."""
    names = {label for label in labels if label is not None}
    if names and all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
