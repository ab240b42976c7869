"""The user's cache folder."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["cache_folder", "cache_folders"]

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where downloads and exported graphs are kept: ``$XDG_CACHE_HOME/branchynet``, else ``~/.cache/branchynet``.

    Where there is no home, or nothing can be written to it, a temporary folder, which is logged once. The folder is
    made. Raises `OSError` if there is none either.
    """
    usual = _usual()
    try:
        if usual is not None:
            usual.mkdir(parents=True, exist_ok=True)
            if os.access(usual, os.W_OK | os.X_OK):
                return usual
        reason = "the user has no home folder" if usual is None else f"nothing can be written to {usual}"
    except OSError as error:
        reason = str(error)
    return _temporary(reason)


def cache_folders() -> tuple[Path, ...]:
    """Where to look for what was kept: the usual folder also where it is read-only, and the temporary one if used."""
    places = (_usual(), _shared_temporary())
    return tuple(place for place in places if place is not None)


def _usual() -> Path | None:
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says that a relative path there is to be ignored.
    if base.is_absolute():
        return base / "branchynet"
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry for the user's number, as in some containers
        return None
    return home / ".cache" / "branchynet" if home.is_absolute() else None


@functools.cache
def _temporary(reason: str) -> Path:
    folder = _name()
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if _shared_temporary() is None:
        folder = Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
    _log.warning("%s: downloads and graphs are kept in %s; XDG_CACHE_HOME names another folder", reason, folder)
    return folder


def _shared_temporary() -> Path | None:
    """The temporary folder of this user's other runs; None if it is not there, or somebody else may write to it."""
    try:
        there = _name().lstat()
    except OSError:
        return None
    ours = stat.S_ISDIR(there.st_mode) and there.st_uid == os.getuid() and not there.st_mode & 0o077
    return _name() if ours else None


def _name() -> Path:
    return Path(tempfile.gettempdir()) / f"branchynet-cache-{os.getuid()}"
