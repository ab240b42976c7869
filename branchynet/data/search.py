"""Originals wherever they lie in a folder, whatever they are called: told by their content, with the nearest misses.

What has the size of an original, unpacked, is compared by SHA-256. What only has the name of one, in any of the ways in
which people write it (`t10k-images.idx3-ubyte`, a folder with the file of the same name in it), counts where such files
usually lie: KMNIST and others call their files the same. How deep and how much is looked at has limits, and nothing is
remembered from one search to the next.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from branchynet.data import formats, sources
from branchynet.errors import DamagedData

__all__ = ["Search", "search"]

MAX_DEPTH = 4
MAX_ENTRIES = 10_000
MAX_MISSES = 6

# Of each original, unpacked; MNIST's and Fashion-MNIST's files are of equal size.
ORIGINAL_BYTES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
    "data_batch_1": 31_035_704,
    "data_batch_2": 31_035_320,
    "data_batch_3": 31_035_999,
    "data_batch_4": 31_035_696,
    "data_batch_5": 31_035_623,
    "test_batch": 31_035_526,
    **dict.fromkeys((*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"), 30_730_000),
}
ARCHIVE_BYTES = 170_498_071
_LIMIT = 64 * 2**20
# Of an xz file: its index, some bytes a block.
_TAIL = 4_096

_USUAL = {
    "mnist": {"mnist"},
    "fashion-mnist": {"fashion", "fashion-mnist", "fashionmnist"},
    "cifar10": {"cifar10", "cifar-10", "cifar-10-python", "cifar-10-binary"}
    | {"cifar-10-batches-py", "cifar-10-batches-bin"},
}


@dataclass
class Search:
    """What a folder holds: *files*, by their names in a layout, or None; and the *misses* that came near, in words."""

    files: dict[str, Path] | None = None
    misses: list[str] = field(default_factory=list)


def search(name: str, split: str, folder: Path, known: Mapping[str, tuple[str, str]]) -> Search:
    """The files with *split* of data set *name* at or under *folder*; *known*: SHA-256 to data set and file."""
    layouts = sources.layouts(name, split)
    wanted = {_plain(file): file for layout in layouts for file in layout}
    sizes = {ORIGINAL_BYTES[file] for file in wanted.values() if file in ORIGINAL_BYTES}
    originals: dict[str, Path] = {}
    named: dict[str, Path] = {}
    found = Search()
    entries = list(_walk(folder))
    for path, size in entries:
        if path.suffix.lower() == ".npz" and name != "cifar10":
            _look_into_npz(path, (name, split), known, originals, found.misses)
            continue
        file = wanted.get(_plain(path.name))
        if size == ARCHIVE_BYTES and name == "cifar10":
            originals.setdefault(sources.CIFAR_ARCHIVE, path)
        elif file == sources.CIFAR_ARCHIVE:
            named.setdefault(file, path)
        elif file is not None or _unpacked_bytes(path, size) in sizes:
            original, miss = _known(path, (name, file), known)
            if original is not None and original[0] == name and original[1] in wanted.values():
                originals.setdefault(original[1], path)
            elif original is None and file is not None and _is_usual(name, folder, path):
                named.setdefault(file, path)
            found.misses += [miss] if miss else []
        elif (kind := _archive(path)) is not None:
            found.misses.append(f"{path} is a {kind} archive: unpack it")
    found.files = _whole(layouts, originals, named, found.misses)
    if len(entries) == MAX_ENTRIES:
        found.misses.append(f"only the first {MAX_ENTRIES:,} files in {folder} were looked at")
    return found


def _whole(
    layouts: tuple[tuple[str, ...], ...], originals: dict[str, Path], named: dict[str, Path], misses: list[str]
) -> dict[str, Path] | None:
    """The first of *layouts* that is all there, of originals if it can be; the parts of others go to *misses*."""
    for there in (originals, named | originals):
        for layout in layouts:
            if all(file in there for file in layout):
                return {file: there[file] for file in layout}
    for layout in layouts:
        there = {file: path for file, path in (named | originals).items() if file in layout}
        if there:
            absent = ", ".join(file for file in layout if file not in there)
            misses.insert(0, f"found {', '.join(map(str, there.values()))} but no {absent}")
    del misses[MAX_MISSES:]
    return None


def _known(
    path: Path, asked: tuple[str, str | None], known: Mapping[str, tuple[str, str]]
) -> tuple[tuple[str, str] | None, str]:
    """Which original *path* is, if any; and, unless it is of the data set that is *asked* for, what it is instead."""
    try:
        digest = hashlib.sha256(formats.read_file(path, _LIMIT)).hexdigest()
    except (DamagedData, OSError) as error:
        return None, str(error)
    original, (name, file) = known.get(digest), asked
    if original is not None:
        other = original[0] != name
        return original, f"{path} is {original[1]} of {original[0]}" if other or file not in (None, original[1]) else ""
    theirs = next((sha for sha, of in known.items() if of == (name, file)), None)
    if theirs is None:
        return None, ""
    return None, f"{path} is there, but its SHA-256 is {digest}, that of the original {file} is {theirs}"


def _look_into_npz(
    path: Path,
    asked: tuple[str, str],
    known: Mapping[str, tuple[str, str]],
    originals: dict[str, Path],
    misses: list[str],
) -> None:
    """Keras keeps MNIST as one file of arrays, which are the originals' if the IDX files made of them are."""
    name, split = asked
    try:
        files = formats.read_npz_as_idx(path, split)
    except (DamagedData, OSError) as error:
        misses.append(str(error))
        return
    layout = sources.layouts(name, split)[0]
    found = [known.get(hashlib.sha256(content).hexdigest()) for content in files]
    if found == [(name, file) for file in layout]:
        for file in layout:
            originals.setdefault(file, path)
    else:
        misses.append(f"{path} holds images and labels for {split}, but not those of {name}")


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    """The files at and under *folder* with their sizes, nearest first; links are followed, hidden ones left out."""
    level, seen, count = [folder], set(), 0
    for _ in range(MAX_DEPTH + 1):
        below = []
        for place in level:
            try:
                entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            except OSError:
                continue
            for entry in entries:
                try:
                    about = entry.stat()
                    is_file, is_folder = entry.is_file(), entry.is_dir()
                except OSError:  # a link that leads nowhere
                    continue
                if entry.name.startswith(".") or (about.st_dev, about.st_ino) in seen:
                    continue
                if is_folder:
                    seen.add((about.st_dev, about.st_ino))
                    below.append(Path(entry.path))
                elif is_file:
                    yield Path(entry.path), about.st_size
                    count += 1
                    if count == MAX_ENTRIES:
                        return
        level = below


def _plain(name: str) -> str:
    """*name* of a file in small letters, without the ending of its packing, and with nothing but dashes in between."""
    return re.sub(r"[._ ]+", "-", re.sub(r"(\.gz|\.xz)+$", "", name.lower()))


def _is_usual(name: str, folder: Path, path: Path) -> bool:
    """Whether *path* lies where files of data set *name* usually do in *folder*."""
    between = [_plain(part) for part in path.parent.relative_to(folder).parts]
    if between and between[-1] == _plain(path.name):
        between.pop()
    own = [_plain(part) for part in sources.own_names(folder)]
    if not between and name == "mnist" and sources.names_fashion(folder):
        return False
    above = "" if not set(own) & _USUAL[name] else "usual"
    for part in between:
        if part not in _USUAL[name] and not (part == "raw" and above):
            return False
        above = "usual"
    return name != "fashion-mnist" or bool(above) or sources.names_fashion(folder)


def _unpacked_bytes(path: Path, size: int) -> int:
    """How many bytes *path* of *size* holds, unpacked, as far as that can be told at little cost; else -1."""
    if size > _LIMIT:
        return size
    try:
        with path.open("rb") as file:
            packing = formats.packing_of(file.read(8))
            if not packing:
                return size
            file.seek(-min(size, _TAIL), os.SEEK_END)
            tail = file.read(_TAIL)
        return int.from_bytes(tail[-4:], "little") if packing == ".gz" else _xz_bytes(tail)
    except OSError:
        return -1


def _xz_bytes(tail: bytes) -> int:
    """What the index at the end of an xz file, in its *tail*, says of the bytes that its blocks hold; -1 for none."""
    start = len(tail) - 12 - 4 * (1 + int.from_bytes(tail[-8:-4], "little"))
    if not tail.endswith(b"YZ") or start < 0 or tail[start]:
        return -1
    numbers, value, shift = [], 0, 0
    for byte in tail[start + 1 : -12]:  # numbers of seven bits a byte, the lowest first
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value, shift = 0, 0
    return sum(numbers[2 : 2 * numbers[0] + 1 : 2]) if numbers else -1  # after their count: packed, unpacked, …


def _archive(path: Path) -> str | None:
    """The kind of archive that *path* is, which may hold what was looked for."""
    try:
        with path.open("rb") as file:
            return formats.archive_of(file.read(8))
    except OSError:
        return None
