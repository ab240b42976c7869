"""What is in each image file, as a digest; files that are as they were are not read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from branchynet.data.cache import cache_folder
from branchynet.data.image_folder.found import Picture
from branchynet.files import write_text

__all__ = ["advance_each", "counting", "digests_of", "on_threads"]

# Reading and decoding wait for the disk, and Pillow leaves the interpreter to others while it decodes.
THREADS = 4
_Known = dict[str, tuple[int, int, str]]
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def digests_of(pictures: Sequence[Picture], where: Path, *, progress: bool = False) -> list[str | None]:
    """SHA-256 (hex) of each picture's bytes; None for one that cannot be read.

    What was found is kept in the cache folder, by the files' paths, sizes and times.
    """
    path = cache_folder() / "pictures" / f"{hashlib.sha256(os.fsencode(where.resolve())).hexdigest()[:24]}.json"
    known, found = _read(path), {}

    def digest(picture: Picture) -> str | None:
        key = f"{picture.path.absolute()}:{picture.offset}"
        try:
            if picture.data is not None:
                return hashlib.sha256(picture.data).hexdigest() if picture.data else None
            status = picture.path.stat()
            stamp = (status.st_size, status.st_mtime_ns)
            if (before := known.get(key)) is not None and tuple(before[:2]) == stamp:
                found[key] = before
                return before[2]
            value = hashlib.sha256(picture.read()).hexdigest()
        except OSError:
            return None
        found[key] = (*stamp, value)
        return value

    with counting("reading pictures", len(pictures), shown=progress) as advance:
        digests = list(advance_each(on_threads(digest, pictures), advance))
    if found != known:
        _write(path, found)
    return digests


def _read(path: Path) -> _Known:
    try:
        return {key: tuple(value) for key, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # it is only there to save time


def _write(path: Path, known: _Known) -> None:
    # A full or read-only disk costs time only.
    with contextlib.suppress(OSError):
        write_text(path, json.dumps(known))


def on_threads(make: Callable[[_Item], _Made], items: Iterable[_Item], ahead: int = 64) -> Iterator[_Made]:
    """What *make* makes of each item, in order, by a few threads that are never more than *ahead* items ahead."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) >= ahead:
                yield waiting.pop(0).result()
        for one in waiting:
            yield one.result()


def advance_each(items: Iterable[_Made], advance: Callable[[], None]) -> Iterator[_Made]:
    """*items*, with a step of the bar for each."""
    for item in items:
        yield item
        advance()


@contextmanager
def counting(what: str, total: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar on stderr while the block runs, and what moves it on by one."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    # In a log a bar would leave empty lines.
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
