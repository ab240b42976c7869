"""Pictures to one array of pixels, in memory or, if it is large, in a file that later commands find again."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from branchynet.data.cache import cache_folder
from branchynet.data.image_files import read_image
from branchynet.data.image_folder.digests import advance_each, counting, on_threads
from branchynet.data.image_folder.found import Picture
from branchynet.data.preprocessing import Preprocessing
from branchynet.errors import InvalidInput
from branchynet.files import replacing, write_json
from branchynet.system import reserve_room

__all__ = ["Decoded", "decode"]

# Larger sets lie in a file that is mapped: memory stays flat, and the next command finds them decoded.
IN_MEMORY_BYTES = 16 * 2**20
# To be raised when `read_image` makes other pixels of a file than before.
_READER = 1

Pixels = NDArray[np.uint8]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Decoded:
    """*pixels* uint8 [N, C, H, W] of the pictures *kept*, by number, in order; *skipped*: name and reason of others.

    The pixels may lie in a file; writing to them changes this process's copy alone.
    """

    pixels: Pixels
    kept: list[int]
    skipped: list[tuple[str, str]]


def decode(
    pictures: Sequence[Picture],
    digests: Sequence[str],
    input_shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    *,
    progress: bool = False,
) -> Decoded:
    """Bring *pictures*, whose bytes have *digests*, to *input_shape* [C, H, W] as *preprocessing* says.

    What is no readable picture is skipped.
    """
    shape = (len(pictures), *input_shape)
    if int(np.prod(shape)) <= IN_MEMORY_BYTES:
        pixels = np.empty(shape, np.uint8)
        return _filled(pixels, pictures, preprocessing, progress=progress)
    what = [_READER, list(input_shape), preprocessing.to_json(), list(digests)]
    path = cache_folder() / "pictures" / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]}.npy"
    if (found := _found(path, shape)) is not None:
        return found
    return _into_file(path, shape, pictures, preprocessing, progress=progress)


def _filled(pixels: Pixels, pictures: Sequence[Picture], preprocessing: Preprocessing, *, progress: bool) -> Decoded:
    """Decode *pictures* into the first rows of *pixels*, without gaps."""
    shape = pixels.shape[1:]
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []

    def read(picture: Picture) -> Pixels | str:
        try:
            return _read(picture, shape, preprocessing)
        except (InvalidInput, OSError) as error:
            return str(error)

    with counting("decoding pictures", len(pictures), shown=progress) as advance:
        for number, made in enumerate(advance_each(on_threads(read, pictures), advance)):
            if isinstance(made, str):
                name = pictures[number].name
                skipped.append((name, made.removeprefix(name).lstrip(": ")))
            else:
                pixels[len(kept)] = made
                kept.append(number)
    return Decoded(pixels[: len(kept)], kept, skipped)


def _read(picture: Picture, shape: tuple[int, ...], preprocessing: Preprocessing) -> Pixels:
    from PIL import Image as PilImages
    from PIL import UnidentifiedImageError

    try:
        opened = PilImages.open(io.BytesIO(picture.read()))
    except UnidentifiedImageError:
        raise InvalidInput(f"{picture.name} is no image of a kind that can be read") from None
    except Exception as error:  # as in `read_image`: readers raise what they like
        raise InvalidInput(f"{picture.name} is not an image that can be read: {error}") from None
    with opened:
        return read_image(opened, shape, preprocessing, picture.name)


def _into_file(
    path: Path, shape: tuple[int, ...], pictures: Sequence[Picture], preprocessing: Preprocessing, *, progress: bool
) -> Decoded:
    """Decode into *path*, which is there when all is done; into a file without a name where that is not possible."""
    try:
        with replacing(path) as file:
            done = _filled(_mapped(file, shape), pictures, preprocessing, progress=progress)
        write_json(_beside(path), {"kept": done.kept, "skipped": done.skipped})
    except OSError as error:
        _log.warning("decoded pictures are not kept in %s: %s", path.parent, error)
        with tempfile.TemporaryFile() as file:
            return _filled(_mapped(file, shape), pictures, preprocessing, progress=progress)
    return _found(path, shape) or done


def _mapped(file: IO[bytes], shape: tuple[int, ...]) -> Pixels:
    """An array that lies in *file*; raises `OSError` if the disk has no room for it."""
    # All of it is taken at once: a disk that runs full under a mapping kills the process.
    reserve_room(file.fileno(), int(np.prod(shape)))
    # A file with a name may be open for writing only, which no mapping will do with.
    return np.memmap(file.name if isinstance(file.name, str | Path) else file, np.uint8, "r+", shape=shape)


def _found(path: Path, shape: tuple[int, ...]) -> Decoded | None:
    """What an earlier command decoded into *path*; None if there is nothing, or not all of it."""
    try:
        told = json.loads(_beside(path).read_text())
        if path.stat().st_size != np.prod(shape):
            return None
        mapped = np.memmap(path, np.uint8, "c", shape=shape)
        return Decoded(mapped[: len(told["kept"])], told["kept"], [tuple(pair) for pair in told["skipped"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")
