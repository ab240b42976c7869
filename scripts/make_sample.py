"""Make the sample of Fashion-MNIST that ships in branchynet/sample, byte for byte the same on every run.

    python scripts/make_sample.py --data FOLDER [--out branchynet/sample]

It takes the first 100 test images of each class, in the order of the test set. There is no random draw:
whoever has the data set can see without this script that nothing was picked by hand.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np

from branchynet.data.datasets import SAMPLE_FILES, Dataset, load
from branchynet.data.formats import write_idx

PER_CLASS = 100


def first_of_each_class(dataset: Dataset, per_class: int) -> Dataset:
    """The first *per_class* images of each class, in their original order."""
    firsts = [np.flatnonzero(dataset.labels == label)[:per_class] for label in range(len(dataset.classes))]
    return dataset.take(np.sort(np.concatenate(firsts)))


def main() -> None:
    """Write the two files of the sample."""
    parser = argparse.ArgumentParser(description="Make the Fashion-MNIST sample that ships with branchynet.")
    parser.add_argument("--data", type=Path, required=True, help="folder with the original Fashion-MNIST files")
    parser.add_argument("--out", type=Path, default=Path("branchynet/sample"), help="folder to write to")
    arguments = parser.parse_args()
    sample = first_of_each_class(load("fashion-mnist", "test", arguments.data), PER_CLASS)
    contents = (sample.images[:, 0], sample.labels.astype(np.uint8))
    for file, array in zip(SAMPLE_FILES, contents, strict=True):
        path: Path = arguments.out / file
        # A time stamp in the gzip header would make two runs differ.
        path.write_bytes(gzip.compress(write_idx(array), compresslevel=9, mtime=0))
        print(f"{path}: {array.shape}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
