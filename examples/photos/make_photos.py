"""A folder of photos to try with, for who has none at hand: CIFAR-10 as PNG files, a folder for each class.

    python examples/photos/make_photos.py photos [--train 200] [--test 100] [--data FOLDER]

Writes photos/train/CLASS/NUMBER.png and photos/test/…, so many of each class; 32×32 pixels, as CIFAR-10 has them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from branchynet.data.datasets import load


def write(split: Literal["train", "test"], each: int, data: Path | None, out: Path) -> None:
    """The first *each* images of every class of *split*, below *out*."""
    dataset = load("cifar10", split, data, progress=True)
    for label, name in enumerate(dataset.classes):
        folder = out / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in np.flatnonzero(dataset.labels == label)[:each]:
            Image.fromarray(dataset.images[number].transpose(1, 2, 0)).save(folder / f"{number}.png")


def main() -> None:
    """Read the command line and write both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=200, help="photos of each class to learn from (default 200)")
    parser.add_argument("--test", type=int, default=100, help="photos of each class to measure on (default 100)")
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10; downloaded unless given")
    options = parser.parse_args()
    write("train", options.train, options.data, options.out)
    write("test", options.test, options.data, options.out)


if __name__ == "__main__":
    main()
