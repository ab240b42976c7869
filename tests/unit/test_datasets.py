"""`Dataset`, the calibration split, the shipped sample, and the full data sets where there are any."""

import gzip
import os
import runpy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dataset_files import IDX, write
from hypothesis import given
from hypothesis import strategies as st

from branchynet.data import datasets
from branchynet.data.datasets import DATASETS, Dataset, load, load_sample, split_calibration
from branchynet.data.formats import write_idx
from branchynet.errors import InvalidInput, Unavailable

ROOT = Path(__file__).parents[2]


def made(labels, classes=3, split="train"):
    """A data set of 1x2x2 images, each filled with its own index, so that a row can be recognised."""
    labels = np.asarray(labels, dtype=np.int64)
    images = np.zeros((len(labels), 1, 2, 2), dtype=np.uint8)
    images += np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return Dataset("made", images, labels, tuple("abcdefghij"[:classes]), split, "a test")


class TestDataset:
    def test_has_a_length_and_rows(self):
        dataset = made([0, 1, 2, 1])
        assert len(dataset) == 4
        part = dataset.take([3, 0, 0])
        assert part.labels.tolist() == [1, 0, 0]
        assert part.images[:, 0, 0, 0].tolist() == [3, 0, 0]
        assert (part.name, part.split, part.source, part.classes) == (
            "made",
            "train",
            "a test",
            ("a", "b", "c"),
        )

    def test_taken_rows_are_copies(self):
        dataset = made([0, 1])
        dataset.take(np.array([0])).images[:] = 99
        assert dataset.images[0].max() == 0

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"images": np.zeros((2, 1, 2, 2), np.float32)}, r"float32 of shape \(2, 1, 2, 2\)"),
            ({"images": np.zeros((2, 2, 2), np.uint8)}, r"uint8 of shape \(2, 2, 2\)"),
            ({"labels": np.zeros(2, np.int32)}, r"int64 of shape \(2,\).* not int32"),
            ({"labels": np.zeros(3, np.int64)}, r"not int64 of shape \(3,\)"),
            ({"labels": np.zeros((2, 1), np.int64)}, r"not int64 of shape \(2, 1\)"),
            ({"labels": np.array([0, 3])}, "from 0 to 3; legal is 0 to 2"),
            ({"labels": np.array([-1, 2])}, "from -1 to 2; legal is 0 to 2"),
            ({"images": np.zeros((0, 1, 2, 2), np.uint8), "labels": np.zeros(0, np.int64)}, "no images"),
            ({"images": np.zeros((2, 1, 0, 2), np.uint8)}, r"no images: shape \(2, 1, 0, 2\)"),
            ({"split": "validation"}, "'validation' is none of train, test, calibration"),
        ],
    )
    def test_refuses_what_is_not_labelled_images(self, change, why):
        whole = {
            "name": "made",
            "images": np.zeros((2, 1, 2, 2), np.uint8),
            "labels": np.array([0, 2]),
            "classes": ("a", "b", "c"),
            "split": "train",
            "source": "a test",
        }
        Dataset(**whole)
        with pytest.raises(InvalidInput, match=why):
            Dataset(**(whole | change))

    @pytest.mark.parametrize(
        ("indices", "why"),
        [
            ([], "K > 0"),
            ([[0]], r"shape \(1, 1\)"),
            ([0.0], "float64"),
            ([True, False], "bool"),
            ([2], "from 2 to 2; legal is 0 to 1"),
            ([0, -1], "from -1 to 0; legal is 0 to 1"),
        ],
    )
    def test_take_refuses_what_is_not_an_index(self, indices, why):
        with pytest.raises(InvalidInput, match=why):
            made([0, 1]).take(indices)


class TestCalibrationSplit:
    @given(
        labels=st.lists(st.integers(0, 2), min_size=6, max_size=60),
        share=st.floats(0, 1),
        seed=st.integers(0, 2**32),
    )
    def test_parts_the_set_in_two_by_class(self, labels, share, seed):
        dataset = made(labels)
        wanted = 3 + round(share * (len(labels) - 6))
        training, calibration = split_calibration(dataset, wanted, seed)
        assert len(calibration) == wanted
        assert (training.split, calibration.split) == ("train", "calibration")
        rows = [part.images[:, 0, 0, 0].tolist() for part in (training, calibration)]
        assert sorted(rows[0] + rows[1]) == list(range(len(labels))), "each image is in one part, once"
        assert rows == [sorted(part) for part in rows], "the order is kept"
        assert [labels[row] for row in rows[1]] == calibration.labels.tolist()
        counts, held = Counter(labels), Counter(calibration.labels.tolist())
        for label, count in counts.items():
            assert abs(held[label] - count * wanted / len(labels)) < 1

    def test_the_seed_decides(self):
        dataset = made([0, 1, 2] * 20)
        first, again, other = (split_calibration(dataset, 9, seed)[1] for seed in (7, 7, 8))
        assert np.array_equal(first.images, again.images)
        assert not np.array_equal(first.images, other.images)
        assert "seed 7" in first.source

    def test_balanced_stays_balanced(self):
        training, calibration = split_calibration(made([0, 1, 2] * 20), 30, seed=0)
        assert np.bincount(calibration.labels).tolist() == [10, 10, 10]
        assert np.bincount(training.labels).tolist() == [10, 10, 10]

    @pytest.mark.parametrize("split", ["test", "calibration"])
    def test_never_from_another_split(self, split):
        with pytest.raises(InvalidInput, match=f"not from '{split}'"):
            split_calibration(made([0, 1, 2] * 5, split=split), 3, seed=0)

    @pytest.mark.parametrize("wanted", [-1, 0, 2, 13, 15, 10**9])
    def test_each_part_can_have_every_class(self, wanted):
        with pytest.raises(InvalidInput, match=f"is {wanted}; legal is 3 to 12"):
            split_calibration(made([0, 1, 2] * 5), wanted, seed=0)

    def test_refuses_a_negative_seed(self):
        with pytest.raises(InvalidInput, match="seed is -1"):
            split_calibration(made([0, 1, 2] * 5), 3, seed=-1)


def make_sample(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["make_sample.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "scripts" / "make_sample.py"), run_name="__main__")


class TestSample:
    def test_is_a_balanced_thousand(self):
        sample = load_sample()
        assert sample.images.shape == (1000, 1, 28, 28)
        assert np.bincount(sample.labels).tolist() == [100] * 10
        assert (sample.name, sample.split) == ("fashion-mnist", "test")
        assert sample.classes[9] == "Ankle boot"
        assert "shipped" in sample.source

    def test_looks_like_fashion(self):
        """Mean and spread of the pixels as in the full set, where they are 73.1 and 89.9."""
        images = load_sample().images
        assert images.mean() == pytest.approx(73.1, abs=2)
        assert images.std() == pytest.approx(89.9, abs=2)

    def test_the_script_takes_the_first_of_each_class_and_repeats_itself(self, tmp_path, monkeypatch, capsys):
        labels = np.repeat(np.arange(10, dtype=np.uint8), 120)
        np.random.default_rng(0).shuffle(labels)
        images = np.random.default_rng(1).integers(0, 256, (1200, 28, 28), dtype=np.uint8)
        contents = (write_idx(images), write_idx(labels))
        data = write(tmp_path / "fashion", dict(zip(IDX["test"], contents, strict=True)))
        outs = [tmp_path / "first", tmp_path / "second"]
        for out in outs:
            out.mkdir()
            make_sample(monkeypatch, "--data", data, "--out", out)
        assert "(1000, 28, 28)" in capsys.readouterr().out
        for file in datasets.SAMPLE_FILES:
            first, second = ((out / file).read_bytes() for out in outs)
            assert first == second
        taken = gzip.decompress((outs[0] / datasets.SAMPLE_FILES[1]).read_bytes())[8:]
        rank = [labels[:place].tolist().count(label) for place, label in enumerate(labels)]
        assert taken == labels[np.array(rank) < 100].tobytes()


REAL = os.environ.get("BRANCHYNET_DATA")


@pytest.mark.skipif(not REAL, reason="BRANCHYNET_DATA names no folder with the full data sets")
class TestFullData:
    def load(self, name, split):
        try:
            return load(name, split, Path(REAL))
        except Unavailable as absent:
            pytest.skip(str(absent))

    @pytest.mark.parametrize("name", DATASETS)
    @pytest.mark.parametrize(("split", "total"), [("train", 60_000), ("test", 10_000)])
    def test_is_whole_and_original(self, name, split, total):
        dataset = self.load(name, split)
        if (name, split) == ("cifar10", "train"):
            total = 50_000
        assert dataset.images.shape == (total, *((3, 32, 32) if name == "cifar10" else (1, 28, 28)))
        assert "(original files)" in dataset.source
        assert dataset.images.flags.writeable
        assert dataset.images.flags.c_contiguous
        counts = np.bincount(dataset.labels)
        if name == "mnist":
            zeros_and_ones = {"train": [5923, 6742], "test": [980, 1135]}
            assert counts[:2].tolist() == zeros_and_ones[split]
        else:
            assert counts.tolist() == [total // 10] * 10
        if (name, split) == ("cifar10", "train"):
            means = dataset.images.mean(axis=(0, 2, 3))
            assert means == pytest.approx([125.31, 122.95, 113.87], abs=0.005)

    def test_the_sample_is_the_first_of_each_class(self, tmp_path, monkeypatch):
        test = self.load("fashion-mnist", "test")
        make_sample(monkeypatch, "--data", REAL, "--out", tmp_path)
        for file in datasets.SAMPLE_FILES:
            made_now = gzip.decompress((tmp_path / file).read_bytes())
            assert made_now == gzip.decompress((ROOT / "branchynet" / "sample" / file).read_bytes())
        sample = load_sample()
        for label in range(10):
            expected = test.images[test.labels == label][:100]
            assert np.array_equal(sample.images[sample.labels == label], expected)
