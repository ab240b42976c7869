"""Folders of pictures made of the shipped sample, in every layout that is read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from branchynet.data.datasets import load_sample

# The class folders, and the sample's label of what is in them.
CLASSES = {"bag": 8, "boot": 9, "shirt": 0}

Pictures = list[tuple[str, str, bytes]]  # file name, class, content


def pictures(first: int, last: int) -> Iterator[tuple[str, str, bytes]]:
    """Pictures [*first*, *last*) of each class: JPEG and PNG in turn."""
    sample = load_sample()
    for name, label in CLASSES.items():
        for number, index in enumerate(np.flatnonzero(sample.labels == label)[first:last], start=first):
            kind = "PNG" if number % 2 else "JPEG"
            file = io.BytesIO()
            Image.fromarray(sample.images[index, 0]).convert("RGB").save(file, kind)
            yield f"{number}.{kind.lower()}", name, file.getvalue()


def write_classes(folder: Path, first: int, last: int) -> Path:
    """Class folders in *folder*, which is returned."""
    for name, label, content in pictures(first, last):
        path = folder / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_csv(folder: Path, first: int, last: int, head: str = "path,label\n") -> Path:
    """`labels.csv` beside pictures that lie in one folder."""
    (folder / "all").mkdir(parents=True)
    lines = []
    for name, label, content in pictures(first, last):
        (folder / "all" / f"{label}-{name}").write_bytes(content)
        lines.append(f"all/{label}-{name},{label}\n")
    (folder / "labels.csv").write_text(head + "".join(lines))
    return folder


def write_tar(path: Path, first: int, last: int) -> Path:
    """A tar in WebDataset's style."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, label, content in pictures(first, last):
            stem, _, ending = name.partition(".")
            for member, data in ((f"{label}{stem}.{ending}", content), (f"{label}{stem}.cls", label.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def write_parquet(path: Path, first: int, last: int) -> Path:
    """A table as Hugging Face writes one: labels are numbers, their names stand in its description."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, names = list(pictures(first, last)), list(CLASSES)
    table = pa.table(
        {
            "image": [{"bytes": content, "path": name} for name, _, content in rows],
            "label": [names.index(label) for _, label, _ in rows],
        }
    )
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    return path
