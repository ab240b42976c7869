"""The user's cache folder, and how a file comes into it: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["cache_folder", "writing"]


def cache_folder() -> Path:
    """Where downloads and exported graphs are kept: ``$XDG_CACHE_HOME/branchynet``, else ``~/.cache/branchynet``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says that a relative path there is to be ignored.
    return (base if base.is_absolute() else Path.home() / ".cache") / "branchynet"


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets the name *path* when the block ends without an error, and is gone if it does not."""
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            # On disk before it gets its name: a crash in between must not leave an empty file under it.
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
    finally:
        Path(part).unlink(missing_ok=True)
