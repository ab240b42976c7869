"""Data sets in a folder of the user: found where they usually lie, and never one in place of another."""

import hashlib
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
    idx_files,
    is_set,
    isolate,
    know_originals,
    write,
)

from branchynet.data import datasets
from branchynet.data.datasets import load
from branchynet.data.formats import write_idx
from branchynet.errors import DamagedData, InvalidInput, Unavailable, UnknownModel


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    return isolate(monkeypatch, tmp_path)


@pytest.fixture
def originals(monkeypatch):
    know_originals(monkeypatch)


class TestFolder:
    @pytest.mark.parametrize("suffix", PACK)
    @pytest.mark.parametrize("split", ["train", "test"])
    @pytest.mark.parametrize(
        ("name", "place"),
        [
            ("mnist", ""),
            ("mnist", "mnist"),
            ("mnist", "MNIST/raw"),
            ("fashion-mnist", "fashion"),
            ("fashion-mnist", "fashion-mnist"),
            ("fashion-mnist", "FashionMNIST/raw"),
        ],
    )
    def test_finds_idx_files(self, tmp_path, name, place, split, suffix):
        files = idx_files(seed=4, split=split)
        write(tmp_path / "data" / place, files, suffix)
        dataset = load(name, split, tmp_path / "data")
        assert is_set(dataset, files)
        assert dataset.images.shape == (20, 1, 28, 28)
        assert (dataset.name, dataset.split, len(dataset.classes)) == (name, split, 10)
        assert str(tmp_path / "data" / place) in dataset.source
        assert "NOT the original" in dataset.source

    @pytest.mark.parametrize(
        ("name", "given_as"),
        [
            ("mnist", "."),
            ("mnist", "mnist"),
            ("mnist", "my-digits"),
            ("fashion-mnist", "."),
            ("fashion-mnist", "fashion"),
            ("fashion-mnist", "datasets/Fashion-MNIST"),
            ("fashion-mnist", "FashionMNIST/raw"),
            ("fashion-mnist", "my-clothes"),
        ],
    )
    def test_a_user_gets_what_they_mean(self, tmp_path, originals, name, given_as):
        """One folder with all of it: whichever way it is named, the right set comes out."""
        for place in ("mnist", "my-digits"):
            write(tmp_path / place, MNIST)
        for place in ("fashion", "datasets/Fashion-MNIST", "FashionMNIST/raw", "my-clothes"):
            write(tmp_path / place, FASHION)
        dataset = load(name, "test", tmp_path / given_as)
        assert is_set(dataset, MNIST if name == "mnist" else FASHION)
        assert "(original files)" in dataset.source

    def test_the_current_folder_has_a_name_too(self, tmp_path, monkeypatch):
        monkeypatch.chdir(write(tmp_path / "fashion", OWN))
        assert is_set(load("fashion-mnist", "test", Path()), OWN)
        with pytest.raises(Unavailable, match="mnist test was not found"):
            load("mnist", "test", Path())

    def test_a_link_may_name_the_folder(self, tmp_path):
        (tmp_path / "fashion").symlink_to(write(tmp_path / "volume7", OWN))
        assert is_set(load("fashion-mnist", "test", tmp_path / "fashion"), OWN)

    @pytest.mark.parametrize(
        ("name", "files", "place", "error", "why"),
        [
            ("fashion-mnist", MNIST, "data", DamagedData, "content is t10k-images-idx3-ubyte of mnist"),
            (
                "fashion-mnist",
                MNIST,
                "data/fashion",
                DamagedData,
                "content is t10k-images-idx3-ubyte of mnist",
            ),
            ("fashion-mnist", OWN, "data", InvalidInput, "put them into a folder named fashion-mnist"),
            ("mnist", FASHION, "data", DamagedData, "content is t10k-images-idx3-ubyte of fashion-mnist"),
            (
                "mnist",
                FASHION,
                "data/mnist",
                DamagedData,
                "content is t10k-images-idx3-ubyte of fashion-mnist",
            ),
            ("mnist", FASHION, "data/fashion", Unavailable, "mnist test was not found"),
        ],
    )
    def test_neither_passes_for_the_other(self, tmp_path, originals, name, files, place, error, why):
        write(tmp_path / place, files)
        with pytest.raises(error, match=why):
            load(name, "test", tmp_path / "data")

    def test_a_set_named_as_the_other_is_refused_whole(self, tmp_path, originals):
        mixed = dict(zip(IDX["test"], (MNIST[IDX["test"][0]], FASHION[IDX["test"][1]]), strict=True))
        with pytest.raises(DamagedData, match="content is t10k-labels-idx1-ubyte of fashion-mnist"):
            load("mnist", "test", write(tmp_path / "mnist", mixed))

    def test_test_images_do_not_pass_for_training_images(self, tmp_path, originals):
        renamed = dict(zip(IDX["train"], MNIST.values(), strict=True))
        with pytest.raises(DamagedData, match=r"should be train-images.* content is t10k-images"):
            load("mnist", "train", write(tmp_path / "mnist", renamed))

    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
    def test_a_folder_without_it_leads_on_to_the_cache(self, tmp_path, cache, name):
        write(cache / name, OWN)
        (tmp_path / "data").mkdir()
        assert is_set(load(name, "test", tmp_path / "data"), OWN)

    def test_a_folder_of_digits_is_no_source_of_fashion(self, tmp_path, originals):
        write(tmp_path / "data" / "mnist", MNIST)
        assert load("fashion-mnist", "test", tmp_path / "data").source.startswith("ONLY A SAMPLE")

    @pytest.mark.parametrize("name", ["mnist", "cifar10"])
    def test_nowhere_is_an_error_that_says_where_and_what(self, tmp_path, cache, name):
        with pytest.raises(Unavailable) as refusal:
            load(name, "test", tmp_path)
        file = "test_batch.bin" if name == "cifar10" else "t10k-labels-idx1-ubyte"
        for part in (str(tmp_path), str(cache), name, file, "--data"):
            assert part in str(refusal.value)

    @pytest.mark.parametrize("make", [Path.touch, lambda path: None])
    def test_a_folder_that_is_none_is_an_error(self, tmp_path, make):
        make(tmp_path / "data")
        with pytest.raises(InvalidInput, match="does not exist or is not a folder"):
            load("mnist", "test", tmp_path / "data")

    def test_half_a_set_is_not_a_set(self, tmp_path):
        write(tmp_path, OWN)
        (tmp_path / IDX["test"][1]).unlink()
        with pytest.raises(Unavailable, match="mnist test was not found"):
            load("mnist", "test", tmp_path)

    @pytest.mark.parametrize(
        ("images", "labels", "why"),
        [
            (np.zeros((2, 28, 28)), np.zeros(3), r"shapes \(2, 28, 28\) and \(3,\)"),
            (np.zeros((2, 32, 32)), np.zeros(2), r"shapes \(2, 32, 32\) and \(2,\)"),
            (np.zeros((2, 28)), np.zeros(2), r"shapes \(2, 28\) and \(2,\)"),
            (np.zeros((2, 28, 28)), np.zeros((2, 1)), r"shapes \(2, 28, 28\) and \(2, 1\)"),
            (np.zeros((0, 28, 28)), np.zeros(0), r"shapes \(0, 28, 28\) and \(0,\)"),
            (np.zeros((2, 28, 28)), np.array([3, 10]), "t10k-labels-idx1-ubyte has label 10, outside 0 to 9"),
        ],
    )
    def test_refuses_idx_files_that_do_not_fit(self, tmp_path, images, labels, why):
        contents = (write_idx(images.astype(np.uint8)), write_idx(labels.astype(np.uint8)))
        with pytest.raises(DamagedData, match=why):
            load("mnist", "test", write(tmp_path, dict(zip(IDX["test"], contents, strict=True))))

    def test_an_unknown_name_or_split_is_refused_with_the_legal_ones(self):
        with pytest.raises(UnknownModel, match="'cifar100'; known are mnist, fashion-mnist, cifar10"):
            load("cifar100", "test")
        with pytest.raises(InvalidInput, match="'validation' is neither 'train' nor 'test'"):
            load("mnist", "validation")


class TestCifarFolder:
    def check(self, folder):
        train, test = load("cifar10", "train", folder), load("cifar10", "test", folder)
        assert train.images.shape == (10, 3, 32, 32)
        assert train.images[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        assert train.labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
        assert test.labels.tolist() == [0, 9]
        assert test.classes[9] == "truck"

    @pytest.mark.parametrize("suffix", PACK)
    @pytest.mark.parametrize("place", ["", "cifar10", "cifar-10-batches-py", "cifar-10-batches-bin"])
    def test_finds_batches(self, tmp_path, place, suffix):
        write(tmp_path / place, CIFAR_BINARY, suffix)
        self.check(tmp_path)
        write(tmp_path / "other" / place, CIFAR_PYTHON, suffix)
        self.check(tmp_path / "other")

    def test_reads_the_archive_as_it_is(self, tmp_path):
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(cifar_archive())
        self.check(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]

    def test_two_batches_are_not_the_training_set(self, tmp_path):
        write(tmp_path, {name: CIFAR_PYTHON[name] for name in ("data_batch_1", "data_batch_2", "test_batch")})
        with pytest.raises(Unavailable, match="cifar10 train was not found: looked for data_batch_1"):
            load("cifar10", "train", tmp_path)

    def test_a_damaged_batch_is_named(self, tmp_path):
        write(tmp_path, {"test_batch": CIFAR_PYTHON["test_batch"][:-1]})
        with pytest.raises(DamagedData, match=f"{tmp_path}/test_batch is not an original"):
            load("cifar10", "test", tmp_path)

    def test_a_test_batch_does_not_pass_for_a_training_batch(self, tmp_path, monkeypatch):
        digest = hashlib.sha256(CIFAR_PYTHON["test_batch"]).hexdigest()
        monkeypatch.setattr(datasets, "_FILE_OF_DIGEST", {digest: ("cifar10", "test_batch")})
        write(tmp_path, CIFAR_PYTHON | {"data_batch_3": CIFAR_PYTHON["test_batch"]})
        with pytest.raises(DamagedData, match="should be data_batch_3 of cifar10, but its content is test_batch"):
            load("cifar10", "train", tmp_path)
