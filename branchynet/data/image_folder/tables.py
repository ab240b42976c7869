"""Tables of labelled pictures: CSV with paths, Parquet with the pictures themselves (as Hugging Face writes it)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from branchynet.data.image_folder.found import Picture, is_picture
from branchynet.errors import DamagedData, InvalidInput, need

__all__ = ["read_csv", "read_parquet"]

_PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "img")
_LABELS = ("label", "class", "labels", "category", "target", "cls")
_DELIMITERS = ",;\t"

Table = tuple[list[Picture], tuple[str, ...] | None]


def read_csv(path: Path) -> Table:
    """The pictures that the table *path* names, relative to its folder, with their labels.

    The first line names the columns (path, file, image …; label, class …), or there are two of them. A table of paths
    alone has no labels. Raises `InvalidInput` for other tables, and for a line without a path or a label.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text: {error}") from None
    head = text.split("\n", 1)[0]
    rows = list(csv.reader(text.splitlines(), delimiter=max(_DELIMITERS, key=head.count)))
    if not rows:
        raise InvalidInput(f"{path} is empty; it must have a column of paths and one of labels")
    names = [cell.strip().lower() for cell in rows[0]]
    at = next((names.index(name) for name in _PATHS if name in names), None)
    label_at = next((names.index(name) for name in _LABELS if name in names), None)
    first = 1
    if at is None and len(names) in (1, 2) and is_picture(Path(rows[0][0].strip()).name):
        at, label_at, first = 0, (1 if len(names) == 2 else None), 0
    if at is None:
        raise InvalidInput(
            f"{path} has the columns {', '.join(names)}; one must be called {', '.join(_PATHS)}, and one "
            f"{', '.join(_LABELS)}"
        )
    pictures = []
    for number, row in enumerate(rows[first:], start=first + 1):
        if not any(cell.strip() for cell in row):
            continue
        cells = [row[column].strip() if column < len(row) else "" for column in (at, label_at) if column is not None]
        if not all(cells):
            raise InvalidInput(f"{path}, line {number}: {row} lacks its path or its label")
        pictures.append(Picture(cells[0], cells[1] if len(cells) > 1 else None, path.parent / cells[0]))
    return pictures, None


def read_parquet(path: Path) -> Table:
    """The pictures in the table *path*: a column of bytes, or of {bytes, path}, and one of labels, if there is one.

    The class names are those of the table's own description, as `datasets` of Hugging Face writes it, if it has one.
    All files are held in memory as they are packed. Needs pyarrow. Raises `DamagedData` for what is no Parquet, and
    `InvalidInput` for one without pictures.
    """
    need("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DamagedData(f"{path} is not a sound Parquet file: {error}") from None
    images = next((field.name for field in table.schema if _is_binary(field.type)), None)
    label = next((name for name in _LABELS if name in table.column_names), None)
    if images is None:
        raise InvalidInput(f"{path} has no column of pictures: {', '.join(table.column_names)}")
    names = _described_names(table.schema.metadata or {}, label)
    pictures = []
    for number in range(len(table)):
        value = table[images][number].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        given = None if label is None else table[label][number].as_py()
        word = names[given] if names and isinstance(given, int) and 0 <= given < len(names) else given
        # Without bytes it is counted as unreadable.
        pictures.append(
            Picture(f"{path.name} row {number}", None if word is None else str(word), path, data=data or b"")
        )
    return pictures, names


def _is_binary(kind: Any) -> bool:
    """Whether a column of that type can hold pictures."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _described_names(metadata: dict[bytes, bytes], label: str | None) -> tuple[str, ...] | None:
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None
