"""Pictures of one's own as an artifact takes them: their classes, those held out, those for testing."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from picture_folders import CLASSES, write_classes
from PIL import Image

from branchynet.data import datasets
from branchynet.data.artifact_images import ArtifactImages
from branchynet.data.image_folder.content_split import HeldOut, draw
from branchynet.data.image_folder.own_images import OwnImages
from branchynet.data.preprocessing import Preprocessing
from branchynet.errors import InvalidInput

SHAPE = (3, 32, 32)
DIGESTS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(1000)]
LABELS = [number % 3 for number in range(1000)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """Twenty pictures of each class."""
    return write_classes(tmp_path / "photos" / "train", 0, 20)


def own(where: Path) -> OwnImages:
    return OwnImages.at(where, "train", SHAPE, Preprocessing())


def artifact(
    recipe: dict[str, object], dataset: str = "photos", labels: tuple[str, ...] = tuple(CLASSES)
) -> ArtifactImages:
    return ArtifactImages("mine", dataset, labels, SHAPE, Preprocessing(), recipe)


def rows(dataset: datasets.Dataset) -> set[bytes]:
    return {image.tobytes() for image in dataset.images}


# --- the draw -------------------------------------------------------------------------------------------------------


def test_about_the_share_is_held_out_and_another_picture_moves_none() -> None:
    held = draw(DIGESTS, LABELS, 0.2, seed=0)
    assert 150 < len(held.part(DIGESTS)[1]) < 250
    fewer = draw(DIGESTS[:500], LABELS[:500], 0.2, seed=0)
    assert fewer.part(DIGESTS[:500])[1] == [number for number in held.part(DIGESTS)[1] if number < 500]
    assert held != draw(DIGESTS, LABELS, 0.2, seed=1)
    assert HeldOut.from_recipe(held.to_recipe()) == held


def test_copies_lie_on_one_side_and_each_class_on_both() -> None:
    training, held = draw(DIGESTS * 2, LABELS * 2, 0.2, seed=0).part(DIGESTS * 2)
    assert {number % 1000 for number in training}.isdisjoint(number % 1000 for number in held)
    for share in (0.001, 0.999):
        training, held = draw(DIGESTS[:6], LABELS[:6], share, seed=0).part(DIGESTS[:6])
        assert {LABELS[number] for number in training} == {LABELS[number] for number in held} == {0, 1, 2}


def test_a_share_that_leaves_nothing_is_refused() -> None:
    for share in (0.0, 1.0):
        with pytest.raises(InvalidInput, match="must be more than 0 and less than 1"):
            draw(DIGESTS, LABELS, share, seed=0)
    with pytest.raises(InvalidInput, match="none can be held out"):
        draw(DIGESTS[:3], LABELS[:3], 0.5, seed=0)


def test_an_altered_record_is_refused() -> None:
    recipe = draw(DIGESTS, LABELS, 0.2, seed=0).to_recipe()
    with pytest.raises(InvalidInput, match="held_out_digest"):
        HeldOut.from_recipe({**recipe, "held_out": recipe["held_out"][8:]})


# --- of an artifact -------------------------------------------------------------------------------------------------


def test_the_split_is_found_again_under_other_names_and_beside_new_pictures(train: Path, tmp_path: Path) -> None:
    training, held_out, told = own(train).draw_held_out(None, 0.25, seed=3)
    assert len(training) + len(held_out) == 60
    moved = tmp_path / "moved"
    shutil.copytree(train, moved)
    for path in sorted(moved.rglob("*.png")):
        path.rename(path.with_name(f"renamed-{path.name}"))
    write_classes(moved, 40, 60)
    again = artifact(told).calibration_split(moved)
    assert rows(again[1]) == rows(held_out)
    assert rows(training) < rows(again[0])
    assert rows(again[0]).isdisjoint(rows(held_out))
    assert again[1].split == "calibration"


def test_pictures_that_were_held_out_and_are_gone_are_counted(train: Path) -> None:
    _, held_out, told = own(train).draw_held_out(20, 0.5, seed=0)
    held = HeldOut.from_recipe(told)
    assert held is not None
    pictures = own(train)
    gone = [pictures.found.pictures[number] for number in held.part(pictures.digests)[1]][:2]
    for picture in gone:
        picture.path.write_bytes(b"changed")
    with pytest.raises(InvalidInput, match=rf"2 of the {len(held_out)} pictures that were held out when mine"):
        artifact(told).calibration_split(train)


def test_test_images_are_the_other_split_or_those_held_out(train: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, held_out, told = own(train).draw_held_out(None, 0.25, seed=0)
    with caplog.at_level(logging.WARNING):
        found = artifact(told).test(train.parent)
    assert rows(found) == rows(held_out)
    assert "ONLY THOSE HELD OUT" in found.source
    assert "is the folder that was trained on" in caplog.text
    write_classes(train.parent / "test", 30, 35)
    found = artifact(told).test(train.parent)
    assert (len(found), found.split, found.name) == (15, "test", "photos")


def test_classes_are_matched_by_name(train: Path, tmp_path: Path) -> None:
    labels = ("shirt", "glove", "boot", "bag")
    found = artifact({}, labels=labels).test(train)
    assert {labels[label] for label in found.labels} == set(CLASSES)
    assert found.classes == labels
    with pytest.raises(
        InvalidInput, match=r"has the classes 'shirt', which the network does not know; .* 'glove' are not there"
    ):
        artifact({}, labels=("bag", "boot", "glove")).test(train)


def test_pictures_for_a_known_data_set_are_used_where_their_classes_are_its_own(
    train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(datasets, "load", lambda *given, **options: loaded.append(given))
    known = artifact({}, dataset="cifar10", labels=("bag", "boot", "shirt"))
    assert len(known.test(train)) == 60
    artifact({}, dataset="cifar10", labels=("plane", "car")).test(train)
    assert loaded == [("cifar10", "test", train)]


def test_without_labels_is_found_out_and_refused_where_labels_are_needed(tmp_path: Path, train: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (8, 8), "red").save(flat / "a.png")
    mine = artifact({})
    assert mine.unlabelled(train) is None
    assert mine.unlabelled(None) is None
    found = mine.unlabelled(flat)
    assert found is not None
    assert len(found.some("test", 5)) == 1
    with pytest.raises(InvalidInput, match="holds pictures without labels"):
        mine.test(flat)
    with pytest.raises(InvalidInput, match="name their folder with --data"):
        mine.test(None)


def test_training_takes_two_classes(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "photos", 0, 3)
    shutil.rmtree(folder / "bag")
    shutil.rmtree(folder / "boot")
    with pytest.raises(InvalidInput, match=r"3 pictures of the classes: shirt; training takes two classes or more"):
        own(folder).draw_held_out(None, 0.2, seed=0)
    with pytest.raises(InvalidInput, match="100 of 9 pictures cannot be held out"):
        own(write_classes(tmp_path / "more", 0, 3)).draw_held_out(100, 0.2, seed=0)


def test_the_name_is_the_folders_but_never_that_of_a_known_set(tmp_path: Path) -> None:
    assert own(write_classes(tmp_path / "cats" / "train", 0, 1)).name == "cats"
    assert own(write_classes(tmp_path / "mnist", 0, 1)).name == "mnist-pictures"


def test_some_are_always_the_same(train: Path) -> None:
    np.testing.assert_array_equal(own(train).some("test", 5).images, own(train).some("test", 5).images)
