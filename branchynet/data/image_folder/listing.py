"""Which pictures there are at a path, and of which class: class folders, a table, archives, or no labels at all.

photos/cat/1.jpg, photos/dog/2.png          a folder a class, with any folders below
photos/train/cat/1.jpg, photos/test/cat/…   the same, for each split
photos/labels.csv                           a table of paths and labels
photos/train-0.tar, photos/train.parquet    archives with both
photos/1.jpg                                pictures without labels
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from branchynet.data.image_folder.archives import read_tar
from branchynet.data.image_folder.found import Found, Picture, class_names, is_picture, is_split, split_of
from branchynet.data.image_folder.tables import read_csv, read_parquet
from branchynet.errors import InvalidInput
from branchynet.terminal import shown

__all__ = ["LOOKED_FOR", "find_pictures"]

LOOKED_FOR = (
    "class folders (cat/1.jpg, dog/2.jpg), the same below train/ and test/, a labels.csv of paths and labels, "
    ".tar files of key.jpg and key.cls, or .parquet files"
)
_READERS = {".csv": read_csv, ".tsv": read_csv, ".tar": read_tar, ".parquet": read_parquet}
_OWN_TABLES = ("labels.csv", "metadata.csv")
_DEEPEST = 32


def find_pictures(where: Path, split: str) -> Found:
    """The pictures at *where*, a folder, table or archive; of *split* ('train' or 'test') where it tells them apart.

    Where there is no such split, what is there is handed out: 'test' of a folder with train/ alone is train/. Raises
    `InvalidInput`, saying what was looked for, if there is no picture, and for a table or archive that is none.
    """
    if where.is_file():
        found = _from_files(where, [where])
    elif where.is_dir():
        found = _from_folder(where, split)
    else:
        raise InvalidInput(f"{where} does not exist")
    if not found.pictures:
        raise InvalidInput(f"{where} holds no pictures; looked for {LOOKED_FOR}")
    return found


def _from_folder(where: Path, split: str) -> Found:
    names = sorted(entry.name for entry in where.iterdir() if not entry.name.startswith("."))
    files = [where / name for name in names if not (where / name).is_dir()]
    below = [folder for name in names if (folder := where / name).is_dir() and _holds_data(folder)]
    own = [path for path in files if path.name.lower() in _OWN_TABLES]
    tables = [path for path in files if path.suffix.lower() in _READERS]
    if not own and below and all(is_split(folder.name) for folder in below):
        return _from_folder(_of_split(below, split)[0], split)
    if own:
        return _from_files(where, own[:1])
    if len(below) > 1 or (below and not tables):
        return _class_folders(where, below)
    for suffix in _READERS:
        if those := [path for path in files if path.suffix.lower() == suffix]:
            return _from_files(where, _of_split(those, split) if len(those) > 1 else those)
    pictures = tuple(Picture(path.name, None, path) for path in files if is_picture(path.name))
    return Found(where, pictures, (), "pictures without labels")


def _of_split(paths: list[Path], split: str) -> list[Path]:
    """Those of *paths* that say they are *split*, else those of the other one, else all."""
    said = [path for path in paths if split_of(path.name) == split]
    other = [path for path in paths if split_of(path.name)]
    # val/ beside test/ is not for the final figures.
    tests = [path for path in said if path.name.lower().startswith("test")]
    return tests or said or other or paths


def _class_folders(where: Path, folders: list[Path]) -> Found:
    if len({split_of(folder.name) for folder in folders if is_split(folder.name)}) == 2:
        names = ", ".join(folder.name for folder in folders)
        raise InvalidInput(
            f"{where} has the folders {names}: name the one to use, or leave train/ and test/ alone there"
        )
    pictures = tuple(
        Picture(str(path.relative_to(where)), shown(folder.name), path) for folder in folders for path in _walk(folder)
    )
    # Also an empty folder is a class: that is how a set says that it has no picture of one. Bytes of a name that are
    # no text could not be kept in a manifest.
    return Found(where, pictures, tuple(shown(folder.name) for folder in folders), f"{len(folders)} class folders")


def _from_files(where: Path, paths: list[Path]) -> Found:
    reader = _READERS.get(paths[0].suffix.lower())
    if reader is None:
        raise InvalidInput(f"{where} is no folder of pictures, and none of {', '.join(_READERS)}")
    pictures, classes = [], None
    for path in paths:
        more, names = reader(path)
        pictures += more
        classes = names or classes
    labelled = any(picture.label is not None for picture in pictures)
    known = (classes or class_names(picture.label for picture in pictures)) if labelled else ()
    return Found(where, tuple(pictures), known, ", ".join(path.name for path in paths[:3]))


def _holds_data(folder: Path) -> bool:
    """Whether there is a picture, or a file with some, in *folder* or below; an empty folder may be a class."""
    paths = list(folder.iterdir())
    if not paths:
        return True
    return any(True for _ in _walk(folder)) or any(path.suffix.lower() in _READERS for path in paths)


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The pictures in *folder* and below, sorted; links are followed, but never into a folder they lie in."""
    real = folder.resolve()
    if real in above:
        return
    if len(above) > _DEEPEST:
        raise InvalidInput(f"{folder} lies more than {_DEEPEST} folders deep")
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, (*above, real))
        elif is_picture(path.name):
            yield path
