"""Data sets as they lie on disks: by content whatever the files are called, by name where they usually lie; misses."""

import gzip
import hashlib
import io
import lzma
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    CIFAR_BINARY,
    CIFAR_PYTHON,
    FASHION,
    IDX,
    MNIST,
    OWN,
    PACK,
    cifar_archive,
    is_set,
    isolate,
    know_originals,
    write,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from branchynet.data import datasets, formats, search
from branchynet.data.datasets import load
from branchynet.errors import DamagedData, Unavailable

IMAGES, LABELS = IDX["test"]
KEPT = [  # how unpackers, browsers and Kaggle leave them: path of the images, path of the labels
    ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
    (f"{IMAGES}/{IMAGES}", f"{LABELS}/{LABELS}"),
    (f"{IMAGES}/t10k-images.idx3-ubyte", f"{LABELS}/t10k-labels.idx1-ubyte"),
    ("T10K-Images-IDX3-ubyte.GZ", "T10K-Labels-IDX1-ubyte.GZ"),
    (f"MNIST/raw/{IMAGES}.gz", f"MNIST/raw/{LABELS}.gz"),
    (f"mnist/{IMAGES}.gz", f"mnist/{LABELS}"),
]
HIDDEN = [  # where no name tells anything
    ("a", "b"),
    ("archive (1)/deep/er/images.bin", "labels"),
    ("KMNIST/raw/x.idx", "elsewhere/y.idx"),
]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    return isolate(monkeypatch, tmp_path)


@pytest.fixture
def originals(monkeypatch):
    know_originals(monkeypatch)
    monkeypatch.setattr(search, "ORIGINAL_BYTES", {file: len(content) for file, content in MNIST.items()})


def put(folder: Path, paths, contents, packed=bytes) -> Path:
    for path, content in zip(paths, contents, strict=True):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(packed(content))
    return folder


def npz(path: Path, **arrays) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def keras(files, split="test"):
    images, labels = (formats.parse_idx(content, "made") for content in files.values())
    return {f"x_{split}": images, f"y_{split}": labels}


@pytest.mark.parametrize("packed", PACK.values(), ids=["plain", "gzip", "xz"])
@pytest.mark.parametrize("paths", [*KEPT, *HIDDEN])
def test_originals_are_found_whatever_they_are_called(tmp_path, originals, paths, packed):
    folder = put(tmp_path / "data", paths, MNIST.values(), packed)
    put(folder, ("fashion/1", "fashion/2"), FASHION.values())
    dataset = load("mnist", "test", folder)
    assert is_set(dataset, MNIST)
    assert "(original files)" in dataset.source
    assert is_set(load("fashion-mnist", "test", folder), FASHION)


@pytest.mark.parametrize("paths", KEPT)
def test_what_is_no_original_is_found_by_its_name_where_it_usually_lies(tmp_path, paths):
    dataset = load("mnist", "test", put(tmp_path / "data", paths, OWN.values()))
    assert is_set(dataset, OWN)
    assert "NOT the original" in dataset.source
    fashion = put(tmp_path / "more" / "fashion", paths, OWN.values())
    if "mnist" not in paths[0].lower():
        assert is_set(load("fashion-mnist", "test", fashion), OWN)
        assert is_set(load("fashion-mnist", "test", tmp_path / "more"), OWN)


@pytest.mark.parametrize("place", ["KMNIST/raw", "emnist", "fashion"])
def test_another_data_set_with_the_same_names_is_none(tmp_path, place):
    folder = put(tmp_path / "data", [f"{place}/t10k-images.idx3-ubyte", f"{place}/{LABELS}"], OWN.values())
    with pytest.raises(Unavailable, match="mnist test was not found"):
        load("mnist", "test", folder)


@pytest.mark.parametrize("written", ["mnist.npz", "keras/datasets/mnist.NPZ"])
def test_the_arrays_of_keras_are_the_originals(tmp_path, originals, written):
    path = npz(tmp_path / "data" / "mnist.npz", **keras(MNIST))
    target = tmp_path / "data" / written
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    dataset = load("mnist", "test", tmp_path / "data")
    assert is_set(dataset, MNIST)
    assert "(original files)" in dataset.source
    assert dataset.images.flags.writeable
    with pytest.raises(Unavailable, match=r"mnist\.\w+ has no images and labels for train"):
        load("mnist", "train", tmp_path / "data")
    npz(tmp_path / "own" / "own.npz", **keras(OWN))
    with pytest.raises(Unavailable, match=r"own\.npz holds images and labels for test, but not those of mnist"):
        load("mnist", "test", tmp_path / "own")


class TestCifar:
    @pytest.fixture(autouse=True)
    def known(self, monkeypatch):
        files = CIFAR_PYTHON | CIFAR_BINARY
        digests = {hashlib.sha256(content).hexdigest(): ("cifar10", file) for file, content in files.items()}
        monkeypatch.setattr(datasets, "_FILE_OF_DIGEST", digests)
        monkeypatch.setattr(search, "ORIGINAL_BYTES", {file: len(content) for file, content in files.items()})

    @pytest.mark.parametrize("files", [CIFAR_PYTHON, CIFAR_BINARY], ids=["python", "binary"])
    @pytest.mark.parametrize("suffix", PACK)
    @pytest.mark.parametrize("place", ["cifar-10-python/cifar-10-batches-py", "cifar10/cifar-10-batches-bin", "a/b/c"])
    def test_batches_in_folders_in_folders(self, tmp_path, place, suffix, files):
        write(tmp_path / place, files, suffix)
        train = load("cifar10", "train", tmp_path)
        assert train.labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
        assert "(original files)" in train.source

    def test_batches_without_a_name(self, tmp_path):
        put(tmp_path, map(str, range(6)), CIFAR_PYTHON.values())
        assert load("cifar10", "test", tmp_path).labels.tolist() == [0, 9]
        assert load("cifar10", "train", tmp_path).images[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]

    @pytest.mark.parametrize("packed", [bytes, gzip.decompress], ids=["packed", "unpacked on the way"])
    @pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "sets/CIFAR-10-python.tar"])
    def test_the_archive(self, tmp_path, name, packed):
        put(tmp_path, [name], [cifar_archive()], packed)
        assert load("cifar10", "test", tmp_path).labels.tolist() == [0, 9]

    def test_a_batch_that_is_missing_is_named(self, tmp_path):
        write(tmp_path / "x", {file: CIFAR_PYTHON[file] for file in CIFAR_PYTHON if file != "data_batch_4"})
        with pytest.raises(Unavailable, match=r"found .*data_batch_5 but no data_batch_4\. Put"):
            load("cifar10", "train", tmp_path)


def not_found(folder: Path, name="mnist", split="test") -> str:
    with pytest.raises(Unavailable, match=f"{name} {split} was not found") as refused:
        load(name, split, folder)
    return str(refused.value)


def test_the_nearest_misses_are_named(tmp_path, originals):
    folder = tmp_path / "data"
    put(folder, ["x/t10k-images.idx3-ubyte"], [OWN[IMAGES]])
    digest = hashlib.sha256(OWN[IMAGES]).hexdigest()
    known = hashlib.sha256(MNIST[IMAGES]).hexdigest()
    assert (
        f"{folder}/x/t10k-images.idx3-ubyte is there, but its SHA-256 is {digest}, that of the original {IMAGES} is "
        f"{known}" in not_found(folder)
    )
    (folder / "images").write_bytes(MNIST[IMAGES])
    assert f"found {folder}/images but no {LABELS}" in not_found(folder)
    (folder / "archive.zip").write_bytes(b"PK\x03\x04" + bytes(40))
    assert f"{folder}/archive.zip is a ZIP archive: unpack it" in not_found(folder)
    (folder / "labels").write_bytes(FASHION[LABELS])
    assert f"{folder}/labels is {LABELS} of fashion-mnist" in not_found(folder)
    (folder / f"{LABELS}.gz").write_bytes(gzip.compress(MNIST[LABELS])[:-3])
    with pytest.raises(DamagedData, match=rf"{folder}/{LABELS}\.gz is truncated"):
        load("mnist", "test", folder)
    (folder / f"{LABELS}.gz").write_bytes(MNIST[LABELS])  # found anew: nothing is remembered
    assert is_set(load("mnist", "test", folder), MNIST)


def test_a_near_miss_of_fashion_is_logged_with_the_sample(tmp_path, originals, caplog):
    put(tmp_path / "data", ["images"], [FASHION[IMAGES]])
    assert load("fashion-mnist", "test", tmp_path / "data").source.startswith("ONLY A SAMPLE")
    assert f"found {tmp_path}/data/images but no {LABELS}" in caplog.text


def test_the_search_is_bounded_in_depth_and_number(tmp_path, originals, monkeypatch):
    folder = put(tmp_path / "data", ["1/2/3/4/a", "1/2/3/4/b"], MNIST.values())
    assert is_set(load("mnist", "test", folder), MNIST)
    monkeypatch.setattr(search, "MAX_DEPTH", 3)
    assert "The nearest" not in not_found(folder)
    monkeypatch.setattr(search, "MAX_DEPTH", 4)
    monkeypatch.setattr(search, "MAX_ENTRIES", 1)
    assert f"only the first 1 files in {folder} were looked at" in not_found(folder)


def test_links_and_what_cannot_be_read_do_no_harm(tmp_path, originals):
    folder = put(tmp_path / "data", ["a"], [MNIST[IMAGES]])
    put(tmp_path / "volume", ["b"], [MNIST[LABELS]])
    (folder / "linked").symlink_to(tmp_path / "volume")
    (folder / "round").symlink_to(folder)
    (folder / "nowhere").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / IMAGES)
    assert is_set(load("mnist", "test", folder), MNIST)


@pytest.mark.parametrize("size", [0, 1, 100, 101, 5_000, 200_000])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_the_unpacked_size_is_known_without_unpacking(tmp_path, size, pack):
    content = np.random.default_rng(0).bytes(size)
    path = tmp_path / "file"
    path.write_bytes(pack(content))
    told = search._unpacked_bytes(path, path.stat().st_size)
    assert told == size


class TestNpz:
    @pytest.mark.parametrize(
        ("arrays", "why"),
        [
            ({"x_test": np.zeros((2, 28, 28))}, "x_test.npy must be uint8 .* it begins .*<f8"),
            ({"x_test": np.zeros((2, 28, 28), np.uint8).T}, "fortran_order': True"),
            ({"x_test": np.zeros((2, 1, 28, 28), np.uint8)}, r"\(2, 1, 28, 28\)"),
            ({"x_test": np.array([{}], dtype=object)}, "descr': '.O"),
            ({"x_train": np.zeros(2, np.uint8)}, "no images and labels for test"),
        ],
    )
    def test_refuses_other_arrays(self, tmp_path, arrays, why):
        path = npz(tmp_path / "a.npz", **arrays, y_test=np.zeros(2, np.uint8))
        with pytest.raises(DamagedData, match=why):
            formats.read_npz_as_idx(path, "test")

    def member(self, path: Path, content: bytes) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x_test.npy", content)
        return path

    def header(self, text: str) -> bytes:
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()

    def test_refuses_shapes_and_nesting_that_claim_too_much(self, tmp_path):
        claims = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"
        deep = "(" * 5_000 + ")" * 4_000
        for text in (claims, deep, "{'descr': '|u1'}\n", "-" * 9_000 + "1"):
            path = self.member(tmp_path / "a.npz", self.header(text))
            with pytest.raises(DamagedData, match=r"a\.npz"):
                formats.read_npz_as_idx(path, "test")

    def test_a_bomb_is_not_unpacked_past_the_limit(self, tmp_path, monkeypatch):
        monkeypatch.setattr(formats, "_NPY_LIMIT", 1_000)
        stream = io.BytesIO()
        np.save(stream, np.zeros(5_000, np.uint8))
        path = self.member(tmp_path / "a.npz", stream.getvalue())
        with pytest.raises(DamagedData, match="in 873 bytes"):
            formats.read_npz_as_idx(path, "test")

    @given(place=st.integers(0, 10**6), byte=st.integers(0, 255), length=st.integers(0, 10**6))
    @example(place=538, byte=2, length=0)  # the directory then claims to begin before the file
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_change_gives_arrays_or_our_error(self, tmp_path, place, byte, length):
        arrays = {"x_test": np.arange(30, dtype=np.uint8), "y_test": np.arange(3, dtype=np.uint8)}
        content = bytearray(npz(tmp_path / "a.npz", **arrays).read_bytes())
        content[place % len(content)] = byte
        del content[len(content) - length % 40 if length % 3 else len(content) :]
        (tmp_path / "a.npz").write_bytes(content)
        try:
            formats.read_npz_as_idx(tmp_path / "a.npz", "test")
        except DamagedData as refused:
            assert "a.npz" in str(refused)


def test_a_name_of_an_original_is_normalised_alike():
    for written in ("t10k-images.idx3-ubyte", "T10K-images-idx3-ubyte.GZ", "t10k_images idx3.ubyte.gz.gz"):
        assert search._plain(written) == IMAGES


REAL = os.environ.get("BRANCHYNET_DATA")


@pytest.mark.skipif(not REAL, reason="BRANCHYNET_DATA names no folder with the full data sets")
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_real_ones_are_found_under_other_names(tmp_path, name):
    source = Path(REAL or "") / name
    files = [path for path in sorted(source.iterdir()) if "t10k" in path.name or "test_batch" in path.name]
    for number, path in enumerate(files):
        (tmp_path / "odd" / str(number)).mkdir(parents=True)
        (tmp_path / "odd" / str(number) / "download").symlink_to(path)
    dataset = load(name, "test", tmp_path / "odd")
    assert len(dataset) == 10_000
    assert "(original files)" in dataset.source
