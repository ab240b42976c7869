"""Files of data sets, made by the tests that read them: their contents, and folders of them."""

import gzip
import hashlib
import io
import lzma
import tarfile

import numpy as np

from branchynet.data import datasets, sources
from branchynet.data.formats import write_idx

IDX = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def isolate(monkeypatch, tmp_path):
    """Hide this machine's data, cache, proxy and network; return the empty cache folder to be used."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("BRANCHYNET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    monkeypatch.setattr(sources, "SYSTEM_FOLDERS", {})
    monkeypatch.setattr(sources, "remotes", lambda name, split: (sources.Remote("none", 1, "0" * 64, ()),))
    return tmp_path / "cache-home" / "branchynet"


def write(folder, files, suffix=""):
    """Write *files* (name to content) into *folder*, packed by *suffix*; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}{suffix}").write_bytes(PACK[suffix](content))
    return folder


def idx_files(seed, split="test"):
    """The two IDX files of a set of 20 images, two of each class: file name to content."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = generator.permutation(np.arange(20, dtype=np.uint8) % 10)
    return dict(zip(IDX[split], (write_idx(pixels), write_idx(labels)), strict=True))


MNIST, FASHION, OWN = idx_files(seed=1), idx_files(seed=2), idx_files(seed=3)


def know_originals(monkeypatch):
    """Make MNIST and FASHION above the known originals, as the real ones are known."""
    known = {
        hashlib.sha256(content).hexdigest(): (name, file)
        for name, files in (("mnist", MNIST), ("fashion-mnist", FASHION))
        for file, content in files.items()
    }
    monkeypatch.setattr(datasets, "_FILE_OF_DIGEST", known)


def is_set(dataset, files):
    """Whether *dataset* holds just what the IDX *files* hold."""
    images, labels = files.values()
    return dataset.images.tobytes() == images[16:] and dataset.labels.astype(np.uint8).tobytes() == labels[8:]


def python_batch(pixels, labels):
    """A CIFAR-10 batch as Python 2 wrote them: protocol 2, byte strings, old names in numpy."""
    return b"".join(
        (
            b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(",
            *(b"K" + bytes([label]) for label in labels),
            b"eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06",
            b"K\x00\x85U\x01b\x87Rq\x07(K\x01M" + len(labels).to_bytes(2, "little") + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + len(pixels).to_bytes(4, "little") + pixels + b"tbu.",
        )
    )


# Six batches of two images each, filled with the number of the batch; labels: that number, and 9.
CIFAR_NUMBERS = {"test_batch": 0} | {f"data_batch_{number}": number for number in range(1, 6)}
CIFAR_PYTHON = {name: python_batch(bytes([number]) * 6144, [number, 9]) for name, number in CIFAR_NUMBERS.items()}
CIFAR_BINARY = {
    f"{name}.bin": b"".join(bytes([label]) + bytes([number]) * 3072 for label in (number, 9))
    for name, number in CIFAR_NUMBERS.items()
}


def cifar_archive():
    """The six python batches in a packed tar, under the names of the original."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in CIFAR_PYTHON.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()
