"""An artifact's files: read and compared with their SHA-256, replaced all or none, shared between copies.

The manifest names each file by its digest, and is replaced last. New files wait for that under names with the digest in
them, where a reader of the new manifest finds them; only then do they take the place of the old ones. So whenever a
save is broken off, by a full disk or by a crash, the folder is the old artifact or the new one.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from branchynet.errors import DamagedData, UnknownModel
from branchynet.files import write_bytes

__all__ = ["digest_of", "found_file", "read_file", "replace_files"]

_WAITING = "new"


def digest_of(blob: bytes) -> str:
    """SHA-256 (hex) of *blob*."""
    return hashlib.sha256(blob).hexdigest()


def read_file(path: Path, expected: str | None, artifact: str) -> bytes:
    """The file of *artifact* at *path*, which must have the digest *expected*.

    Raises `UnknownModel` if it is not there, `DamagedData` if it is not what was written.
    """
    digest = None
    # Once more at the end, for it may take its name while we look.
    for place in (path, _waiting(path, expected), path):
        with contextlib.suppress(FileNotFoundError):
            blob = place.read_bytes()
            digest = digest_of(blob)
            if digest == expected:
                return blob
    if digest is None:
        raise UnknownModel(f"{path.parent} does not hold {path.name}; this half of {artifact} is not here")
    raise DamagedData(f"{path} has SHA-256 {digest}, the manifest says {expected}")


def found_file(path: Path, expected: str) -> Path | None:
    """Where the file of *path* with the digest *expected* lies; None if it is not here."""
    return next((place for place in (_waiting(path, expected), path) if place.exists()), None)


def replace_files(
    folder: Path, files: Mapping[str, bytes | Path], digests: Mapping[str, str], last: tuple[str, bytes]
) -> None:
    """Write *files*, by name, into *folder* and the manifest *last* (name, content): all or, if that fails, none.

    A path is a file to share: a link to the same data, or a copy where there can be no link. *digests*: those of all
    files that the manifest names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest, content = folder / last[0], last[1]
    moves: list[tuple[Path, Path]] = []
    try:
        for name, file in files.items():
            final = folder / name
            if isinstance(file, Path) and final.exists() and final.samefile(file):
                continue
            moves.append((_waiting(final, digests[name]), final))
            _put(file, moves[-1][0])
        write_bytes(manifest, content)
    except BaseException:
        if not (manifest.exists() and manifest.read_bytes() == content):
            for new, _ in moves:
                new.unlink(missing_ok=True)
        raise
    for new, final in moves:
        new.replace(final)
    # What an earlier save left that was broken off, and names of a file that had the final one already.
    for name in digests:
        for waiting in folder.glob(f"{glob.escape(name)}.*.{_WAITING}"):
            waiting.unlink(missing_ok=True)


def _waiting(path: Path, digest: str | None) -> Path:
    return path.with_name(f"{path.name}.{(digest or '')[:16]}.{_WAITING}")


def _put(file: bytes | Path, target: Path) -> None:
    """Write or share *file* as *target*, under a new inode: the old one may belong to other copies too."""
    if isinstance(file, bytes):
        write_bytes(target, file)
    elif not (target.exists() and target.samefile(file)):
        target.unlink(missing_ok=True)
        try:
            os.link(file, target)
        except OSError:  # another device, or a file of another owner
            shutil.copyfile(file, target)
