"""Files that we write: each takes the place of the old one in one step, or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from branchynet.terminal import shown_lines

__all__ = ["replacing", "write_bytes", "write_figure", "write_json", "write_text"]

# What a write may fail with that says nothing of where.
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO}
# A folder that takes no new file may hold one that can be written.
_NO_NEW_FILE = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file open for writing, which becomes *path* when the block ends; the old one stays if the block fails.

    The folder is made. Permissions are those of the old file, or of any new one; a link goes on pointing where it did.
    What is no plain file (`/dev/stdout`, a pipe) is written to directly. Raises `OSError`, which names *path*.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            stream = _stream(path)
            yield stack.enter_context(_new_file(path) if stream is None else stream)
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            error.filename = str(path)
        raise


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Replace *path* by *content*, by `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Replace *path* by *text* in UTF-8, by `replacing`; bytes of a file name that are none become `\\udcXX`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any, *, indent: int = 2) -> None:
    """Replace *path* by *value* as JSON, by `replacing`."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def write_figure(path: Path, figure: Any, *, dpi: int) -> None:
    """Replace *path* by a matplotlib *figure*, by `replacing`; PNG unless the name's ending says otherwise."""
    _plain_texts(figure)
    drawn, kind = io.BytesIO(), path.suffix[1:].lower() or "png"
    # Without a date the same figure makes the same file.
    figure.savefig(drawn, dpi=dpi, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_bytes(path, drawn.getbuffer())


def _plain_texts(figure: Any) -> None:
    """Have names of others in *figure* drawn as they are: they may hold what is no text, or look like a formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # labels of ticks, which are formulas of ours, are empty until they are drawn
        if (written := text.get_text()) and (not written.isprintable() or "$" in written):
            text.set_text(shown_lines(written))
            text.set_parse_math(False)


def _stream(path: Path) -> IO[bytes] | None:
    """What is at *path* if it is no plain file, open for writing."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return None
    for number, ours in ((1, sys.stdout), (2, sys.stderr)):
        # A file that our output goes to must not be replaced below it, and is not emptied: the output would go on
        # behind the gap.
        with contextlib.suppress(OSError):
            if os.path.samestat(there, os.fstat(number)):
                if ours is not None:
                    ours.flush()
                return os.fdopen(os.dup(number), "wb")
    return None if stat.S_ISREG(there.st_mode) else path.open("wb")


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    target = Path(os.path.realpath(path))
    part = target.with_name(f"{target.name[:60]}.{secrets.token_hex(4)}.part")
    try:
        # Not by `tempfile`, whose files are their owner's alone.
        file = part.open("xb")
    except OSError as error:
        if error.errno not in _NO_NEW_FILE or not os.access(target, os.W_OK):
            raise OSError(error.errno, error.strerror, str(path)) from None
        with target.open("wb") as file:
            yield file
        return
    try:
        with file:
            with contextlib.suppress(OSError):
                _take_after(target, file.fileno())
            yield file
            # On disk before it gets its name: a crash in between must not leave an empty file under it.
            file.flush()
            os.fsync(file.fileno())
        _rename(part, target)
    finally:
        part.unlink(missing_ok=True)


def _take_after(target: Path, descriptor: int) -> None:
    """Give the open file the permissions, and if we may the owner, of *target*, if there is one."""
    old, new = target.stat(), os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _rename(part: Path, target: Path) -> None:
    try:
        part.replace(target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        shutil.copyfile(part, target)  # a single file that is mounted into a container cannot be replaced
