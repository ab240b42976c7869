"""Text as it lies on disks: with or without a byte-order mark, in UTF-8 or what Windows calls Unicode, any line ends.

Documents, TOML or JSON, are checked to be nested no deeper than ours are: what walks, prints or compares them later
needs the stack for it.
"""

from __future__ import annotations

import codecs
import json
import tomllib
from pathlib import Path
from typing import Any

__all__ = ["MOST_NESTED", "encoding_of", "read_json", "read_text", "read_toml"]

MOST_NESTED = 64


def encoding_of(raw: bytes) -> str:
    """The encoding that the byte-order mark of *raw* names, which decoding then leaves out; UTF-8 if it has none."""
    return "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def read_text(path: Path) -> str:
    """The text in the file at *path*, its lines ended by a line feed.

    Raises ValueError for bytes that are no such text, and OSError if it cannot be read.
    """
    raw = path.read_bytes()
    return raw.decode(encoding_of(raw)).replace("\r\n", "\n").replace("\r", "\n")


def read_toml(path: Path) -> dict[str, Any]:
    """The TOML document in the file at *path*; ValueError, with the reason, for any other, OSError as `read_text`."""
    try:
        document = tomllib.loads(read_text(path))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check_depth(document)
    return document


def read_json(path: Path) -> Any:
    """What the JSON file at *path* holds; ValueError, with the reason, if it is none, OSError as `read_text`."""
    try:
        document = json.loads(read_text(path))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check_depth(document)
    return document


def _check_depth(document: Any) -> None:
    """Raise ValueError for more than `MOST_NESTED` levels; goes down level by level, without the stack."""
    level = [document]
    for _ in range(MOST_NESTED + 1):
        containers = [part for part in level if isinstance(part, dict | list)]
        if not containers:
            return
        level = [value for part in containers for value in (part.values() if isinstance(part, dict) else part)]
    raise ValueError(f"it is nested more than {MOST_NESTED} levels deep")
