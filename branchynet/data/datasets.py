"""MNIST, Fashion-MNIST and CIFAR-10 as numpy arrays: from a folder, the cache, a mirror or our own sample.

    load("cifar10", "train", Path("data"))   that folder first
    load("mnist", "test")                    the system's or the cache's files, else a download into the cache
    load_sample()                            1,000 images of Fashion-MNIST that come with this package

MNIST and Fashion-MNIST have files of equal names. The SHA-256 of every original file is known here, so neither is
handed out as the other, nor test images as training images, whatever their folder is called.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from branchynet.data import formats, sources
from branchynet.data.cache import cache_folder, cache_folders
from branchynet.data.search import search
from branchynet.errors import DamagedData, InvalidInput, Unavailable, UnknownModel

__all__ = ["DATASETS", "SAMPLE_FILES", "Dataset", "load", "load_sample", "name_of", "split_calibration"]

_log = logging.getLogger(__name__)

DATASETS = ("mnist", "fashion-mnist", "cifar10")
_SPLITS = ("train", "test", "calibration")

_CLASSES: dict[str, tuple[str, ...]] = {
    "mnist": tuple(str(digit) for digit in range(10)),
    "fashion-mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "cifar10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
}

_FILE_OF_DIGEST = {digest: (name, file) for name, files in sources.ORIGINALS.items() for file, digest in files.items()}

# Unpacked, the largest original files have 47,040,016 bytes (IDX), 31,035,999 (batch) and 186 MB (archive).
_IDX_LIMIT = 256 * 2**20
_BATCH_LIMIT = 64 * 2**20
_TAR_LIMIT = 256 * 2**20
_SAMPLE_LIMIT = 2**20

_Images = npt.NDArray[np.uint8]
_Labels = npt.NDArray[np.int64]

SAMPLE_FILES = ("fashion-mnist-test-1000-images.idx.gz", "fashion-mnist-test-1000-labels.idx.gz")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of one split: images uint8 [N, C, H, W] (0 to 255), labels int64 [N], N at least 1.

    Both arrays are writable and in C order. *source* is a sentence on where they came from. The constructor
    raises `InvalidInput` for another dtype or shape, no images, or a label without a class name.
    """

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    split: str
    source: str

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise InvalidInput(
                f"images must be uint8 [N, C, H, W], not {self.images.dtype} of shape {self.images.shape}"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise InvalidInput(
                f"labels must be int64 of shape ({len(self.images)},), one for each image, "
                f"not {self.labels.dtype} of shape {self.labels.shape}"
            )
        if self.images.size == 0:
            raise InvalidInput(f"{self.name} {self.split} has no images: shape {self.images.shape}")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise InvalidInput(f"labels run from {low} to {high}; legal is 0 to {len(self.classes) - 1}")
        if self.split not in _SPLITS:
            raise InvalidInput(f"split {self.split!r} is none of {', '.join(_SPLITS)}")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Dataset:
        """The images and labels at *indices* (1-D, 0 to N - 1, repeats allowed), copied, in that order.

        Raises `InvalidInput` for no index, a mask or fractions, or an index out of range.
        """
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iu":
            raise InvalidInput(f"indices must be whole numbers [K], K > 0, not {chosen.dtype} of shape {chosen.shape}")
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise InvalidInput(f"indices run from {chosen.min()} to {chosen.max()}; legal is 0 to {len(self) - 1}")
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])


def load(name: str, split: Literal["train", "test"], data: Path | None = None, *, progress: bool = False) -> Dataset:
    """Load *split* of the data set *name* (one of `DATASETS`).

    Sources, in this order: the folder *data*, where originals are found whatever they are called; the system's package
    of the data set; the cache; a download into the cache (with a bar on stderr if *progress*); and, for the
    Fashion-MNIST test images alone, the 1,000 that come with this package. `Dataset.source` names them.

    Raises `UnknownModel` for another name, `InvalidInput` for another split or a *data* that is no folder,
    `DamagedData` for files that are broken or of the other data set, `Unavailable` when no source answers.
    """
    if name not in DATASETS:
        raise UnknownModel(f"there is no data set {name!r}; known are {', '.join(DATASETS)}")
    if split not in ("train", "test"):
        raise InvalidInput(f"split {split!r} is neither 'train' nor 'test'")
    if data is not None and not data.is_dir():
        raise InvalidInput(f"the data folder {data} does not exist or is not a folder")
    explicit = () if data is None else (data,)
    folders = (*explicit, *sources.SYSTEM_FOLDERS.get(name, ()), *cache_folders())
    misses: list[str] = []
    for folder in folders:
        if files := sources.find_files(name, split, folder):
            return _read(name, split, files)
        if folder == data:  # only the user's own is worth a look at everything
            found = search(name, split, folder, _FILE_OF_DIGEST)
            if found.files:
                return _read(name, split, found.files)
            misses = found.misses
    return _load_from_afar(name, split, folders, misses, progress=progress)


def _load_from_afar(
    name: str, split: str, searched: Sequence[Path], misses: Sequence[str], *, progress: bool
) -> Dataset:
    """Download into the cache; failing that, the shipped sample if it is of the split asked for.

    *misses*: what was found in its place, for the message if nothing helps.
    """
    nearest = f" The nearest to it: {'; '.join(misses)}." if misses else ""
    try:
        folder = cache_folder() / name
        paths = [sources.fetch(remote, folder, progress=progress) for remote in sources.remotes(name, split)]
    except (Unavailable, OSError) as error:  # the latter where there is not even a temporary folder
        if (name, split) == ("fashion-mnist", "test"):
            sample = load_sample()
            _log.warning("%s; using the shipped sample of %d images instead.%s", error, len(sample), nearest)
            return replace(sample, source=f"ONLY A SAMPLE, because the full test set was not found: {sample.source}")
        places = ", ".join(str(place) for folder in searched for place in sources.search_folders(name, folder))
        looked_for = " or ".join(", ".join(files) for files in sources.layouts(name, split))
        raise Unavailable(
            f"{name} {split} was not found: looked for {looked_for} (plain, .gz or .xz) in {places}; then {error}."
            f"{nearest} Put the files into a folder and name it with --data or BRANCHYNET_DATA"
        ) from error
    return _read(name, split, dict(zip(sources.layouts(name, split)[-1], paths, strict=True)))


def name_of(classes: Sequence[str]) -> str | None:
    """The data set with these *classes* in this order; None if it is none of `DATASETS`."""
    return next((name for name, known in _CLASSES.items() if known == tuple(classes)), None)


def load_sample() -> Dataset:
    """The shipped sample: the first 100 Fashion-MNIST test images of each class, uint8 [1000, 1, 28, 28]."""
    folder = resources.files("branchynet").joinpath("sample")
    images, labels = (
        formats.parse_idx(formats.unpack(folder.joinpath(file).read_bytes(), ".gz", _SAMPLE_LIMIT, file), file)
        for file in SAMPLE_FILES
    )
    return Dataset(
        name="fashion-mnist",
        images=images[:, None],
        labels=labels.astype(np.int64),
        classes=_CLASSES["fashion-mnist"],
        split="test",
        source=f"{len(labels):,} of the 10,000 Fashion-MNIST test images, shipped with this package",
    )


# --- reading the files that were found ----------------------------------------------------------------------


def _read(name: str, split: str, files: dict[str, Path]) -> Dataset:
    """Parse *files* (name in the layout to path, as `sources.find_files` gives them)."""
    folder = next(iter(files.values())).parent
    images, labels, original = _read_cifar(name, split, files) if name == "cifar10" else _read_idx(name, files)
    kind = "original files" if original else "NOT the original files: their SHA-256 is not known"
    return Dataset(name, images, labels, _CLASSES[name], split, f"{name} {split} from {folder} ({kind})")


def _read_idx(name: str, files: dict[str, Path]) -> tuple[_Images, _Labels, bool]:
    contents = _idx_contents(files)
    original = all(_is_original(contents[file], name, file, str(path)) for file, path in files.items())
    images_path, labels_path = files.values()
    if not original and name == "fashion-mnist" and not sources.names_fashion(images_path.parent):
        raise InvalidInput(
            f"the files in {images_path.parent} are not the original {name} files, and the folder does not "
            f"say that they are {name}: if they are, put them into a folder named {name}"
        )
    images, labels = (formats.parse_idx(contents[file], str(path)) for file, path in files.items())
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or not labels.size:
        raise DamagedData(
            f"{images_path} and {labels_path} must hold N > 0 images of 28x28 and N labels, "
            f"not shapes {images.shape} and {labels.shape}"
        )
    wrong = labels[labels >= len(_CLASSES[name])]
    if wrong.size:
        raise DamagedData(f"{labels_path} has label {wrong[0]}, outside 0 to {len(_CLASSES[name]) - 1}")
    return images[:, None], labels.astype(np.int64), original


def _idx_contents(files: dict[str, Path]) -> dict[str, bytes]:
    """What the files hold, by their names in the layout; two of them may be arrays in one .npz file."""
    images, labels = files
    if files[images] != files[labels]:
        return {file: formats.read_file(path, _IDX_LIMIT) for file, path in files.items()}
    split = "train" if images.startswith("train") else "test"
    return dict(zip(files, formats.read_npz_as_idx(files[images], split), strict=True))


def _read_cifar(name: str, split: str, files: dict[str, Path]) -> tuple[_Images, _Labels, bool]:
    images, labels, original = [], [], True
    for file, where, data in _cifar_batches(name, split, files):
        original &= _is_original(data, name, file, where)
        parse = formats.parse_cifar_binary if file.endswith(".bin") else formats.parse_cifar_pickle
        batch_images, batch_labels = parse(data, where)
        images.append(batch_images)
        labels.append(batch_labels)
    return np.concatenate(images), np.concatenate(labels), original


def _cifar_batches(name: str, split: str, files: dict[str, Path]) -> Iterator[tuple[str, str, bytes]]:
    """Each batch as (name in its layout, where it came from, content), one at a time to save memory."""
    archive = files.get(sources.CIFAR_ARCHIVE)
    if archive is None:
        for file, path in files.items():
            yield file, str(path), formats.read_file(path, _BATCH_LIMIT)
        return
    batches = sources.layouts(name, split)[0]
    members = formats.read_tar_members(archive, [f"cifar-10-batches-py/{file}" for file in batches], _TAR_LIMIT)
    for file, (member, data) in zip(batches, members.items(), strict=True):
        yield file, f"{archive}, {member}", data


def _is_original(data: bytes, name: str, file: str, where: str) -> bool:
    """Whether *data* is the original *file* of data set *name*.

    Raises `DamagedData` when it is the original of something else: another data set, or the other split.
    """
    known = _FILE_OF_DIGEST.get(hashlib.sha256(data).hexdigest())
    if known is not None and known != (name, file):
        raise DamagedData(f"{where} should be {file} of {name}, but its content is {known[1]} of {known[0]}")
    return known is not None


def split_calibration(dataset: Dataset, calibration_images: int, seed: int) -> tuple[Dataset, Dataset]:
    """Hold *calibration_images* of a training set back: the rest to train on, and those to calibrate on.

    The draw depends on *seed* alone. Each class gives its share to within one image, and both parts keep the
    order of *dataset*. Raises `InvalidInput` for any split but 'train' (test images must stay unseen), for a
    negative seed, and unless the parts can have one image of each class: C <= calibration_images <= N - C.
    """
    if dataset.split != "train":
        raise InvalidInput(f"calibration images come from the 'train' split, not from {dataset.split!r}")
    least, most = len(dataset.classes), len(dataset) - len(dataset.classes)
    if not least <= calibration_images <= most:
        raise InvalidInput(f"calibration_images is {calibration_images}; legal is {least} to {most}")
    if seed < 0:
        raise InvalidInput(f"seed is {seed}; legal is 0 and up")
    generator = np.random.default_rng(seed)
    held = np.zeros(len(dataset), dtype=bool)
    for label, share in enumerate(_shares(dataset, calibration_images)):
        held[generator.choice(np.flatnonzero(dataset.labels == label), share, replace=False)] = True
    origin = f"{dataset.source}; {calibration_images:,} of {len(dataset):,} held back to calibrate on, seed {seed}"
    training, calibration = dataset.take(np.flatnonzero(~held)), dataset.take(np.flatnonzero(held))
    return replace(training, source=origin), replace(calibration, split="calibration", source=origin)


def _shares(dataset: Dataset, total: int) -> npt.NDArray[np.int64]:
    """How many of *total* each class gives: in proportion, the largest remainders rounded up."""
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    # In whole numbers, so that no rounding of floats decides between two classes.
    shares, remainders = np.divmod(counts * total, len(dataset))
    missing = total - int(shares.sum())
    shares[np.argsort(-remainders, kind="stable")[:missing]] += 1
    return shares
