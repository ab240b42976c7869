"""Tar archives of pictures as WebDataset writes them: `key.jpg` beside `key.cls`, `key.txt` or `key.json`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from branchynet.data.image_folder.found import SUFFIXES, Picture
from branchynet.errors import DamagedData

__all__ = ["read_tar"]

_LABEL_SUFFIXES = (".cls", ".txt", ".json")
_KEYS = ("label", "class", "cls")
_LABEL_BYTES = 2**16


def read_tar(path: Path) -> tuple[list[Picture], tuple[str, ...] | None]:
    """The pictures in the archive *path*, in its order, with the label that lies beside each, if one does.

    Pictures stay in the archive until they are read; links, and files with holes, are passed over. A key is a member's
    name up to the first dot of its last part. Raises `DamagedData` for what is no tar archive that is not packed.
    """
    found: list[tuple[str, Picture]] = []
    labels: dict[str, str] = {}
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, dot, ending = name.partition(".")
                if not member.isreg() or member.issparse() or not (stem and dot):
                    continue
                key, suffix = f"{folder}/{stem}", f".{ending.rpartition('.')[2].lower()}"
                if suffix in SUFFIXES:
                    found.append((key, Picture(member.name, None, path, member.offset_data, member.size)))
                elif suffix in _LABEL_SUFFIXES and member.size <= _LABEL_BYTES:
                    file = tar.extractfile(member)
                    assert file is not None, "it is a regular file"
                    if (label := _label(file.read(), suffix)) is not None:
                        labels.setdefault(key, label)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise DamagedData(f"{path} is not a sound tar archive: {error}") from None
    pictures = [Picture(one.name, labels.get(key), one.path, one.offset, one.size) for key, one in found]
    return pictures, None


def _label(content: bytes, suffix: str) -> str | None:
    text = content.decode("utf-8", errors="replace").strip()
    if suffix != ".json":
        return text or None
    described = json.loads(text)
    given = next((described[key] for key in _KEYS if key in described), None) if isinstance(described, dict) else None
    return None if given is None else str(given)
