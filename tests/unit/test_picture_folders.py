"""Which pictures there are at a path, of which class, and how they become pixels."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import picture_files
import pytest
from picture_folders import CLASSES, pictures, write_classes, write_csv, write_parquet, write_tar
from PIL import Image

from branchynet.data.image_folder import decoding, digests
from branchynet.data.image_folder.listing import find_pictures
from branchynet.data.image_folder.own_images import OwnImages
from branchynet.data.preprocessing import Preprocessing
from branchynet.errors import DamagedData, InvalidInput

SHAPE = (3, 32, 32)
EXPECTED = sorted((label, content) for _, label, content in pictures(0, 4))

LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "class folders": lambda folder: write_classes(folder, 0, 4),
    "class folders of a split": lambda folder: write_classes(folder / "test", 0, 4).parent,
    "labels.csv": lambda folder: write_csv(folder, 0, 4),
    "a table without a head": lambda folder: write_csv(folder, 0, 4, head="") / "labels.csv",
    "a tar": lambda folder: write_tar(folder / "shard-0.tar", 0, 4),
    "a folder of tars": lambda folder: write_tar(folder / "shard-0.tar", 0, 4).parent,
    "Parquet": lambda folder: write_parquet(folder / "shard-0.parquet", 0, 4).parent,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "branchynet" / "pictures"


def own(where: Path, split: str = "test", labels: tuple[str, ...] | None = None) -> OwnImages:
    return OwnImages.at(where, split, SHAPE, Preprocessing(), labels)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_labelled_pictures(layout: str, tmp_path: Path) -> None:
    where = LAYOUTS[layout](tmp_path / "photos")
    found = find_pictures(where, "test")
    assert found.classes == tuple(CLASSES)
    assert sorted((str(one.label), one.read()) for one in found.pictures) == EXPECTED
    dataset = own(where).dataset("test")
    assert dataset.images.shape == (12, *SHAPE)
    assert [dataset.classes[label] for label in dataset.labels] == [one.label for one in found.pictures]


def test_the_split_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    write_classes(tmp_path / "photos" / "train", 0, 4)
    write_classes(tmp_path / "photos" / "val", 4, 6)
    assert len(find_pictures(tmp_path / "photos", "train").pictures) == 12
    assert len(find_pictures(tmp_path / "photos", "test").pictures) == 6
    write_classes(tmp_path / "photos" / "test", 6, 7)
    assert len(find_pictures(tmp_path / "photos", "test").pictures) == 3
    write_tar(tmp_path / "shards" / "train-0.tar", 0, 4)
    write_tar(tmp_path / "shards" / "test-0.tar", 4, 5)
    assert len(find_pictures(tmp_path / "shards", "train").pictures) == 12
    assert len(find_pictures(tmp_path / "shards", "test").pictures) == 3


def test_what_is_no_picture_is_passed_over_and_links_do_not_turn_in_a_circle(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "photos", 0, 2)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "0.png").write_bytes(b"")
    (folder / "bag" / ".0.png").write_bytes(b"")
    (folder / "bag" / "Thumbs.db").write_bytes(b"")
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_text("no class")
    (folder / "bag" / "deeper").mkdir()
    (folder / "bag" / "deeper" / "again").symlink_to(folder / "bag", target_is_directory=True)
    (folder / "bag" / "elsewhere").symlink_to(write_classes(tmp_path / "other", 5, 6) / "bag")
    found = find_pictures(folder, "test")
    assert found.classes == tuple(CLASSES)
    assert [one.name for one in found.pictures if one.label == "bag"] == [
        "bag/0.jpeg",
        "bag/1.png",
        "bag/elsewhere/5.png",
    ]


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda folder: None, "holds no pictures; looked for class folders"),
    "no column": (lambda folder: (folder / "labels.csv").write_text("a,b\n1,2\n"), "has the columns a, b"),
    "no label": (lambda folder: (folder / "labels.csv").write_text("path,label\nx.png,\n"), "line 2"),
    "no text": (lambda folder: (folder / "labels.csv").write_bytes(b"\xff\xfe\x00"), "is not UTF-8"),
    "no tar": (lambda folder: (folder / "a.tar").write_bytes(b"nothing"), "is not a sound tar archive"),
    "no Parquet": (lambda folder: (folder / "a.parquet").write_bytes(b"nothing"), "is not a sound Parquet file"),
    "a class beside splits": (
        lambda folder: [write_classes(folder / name, 0, 1) for name in ("train", "test", "more")],
        "name the one to use",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_set_of_pictures_is_refused(mistake: str, tmp_path: Path) -> None:
    make, words = MISTAKES[mistake]
    make(tmp_path)
    with pytest.raises((InvalidInput, DamagedData), match=words):
        find_pictures(tmp_path, "test")


def test_odd_files_are_read_right_and_damaged_ones_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grey = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    folder = tmp_path / "photos" / "all"
    folder.mkdir(parents=True)
    for name, content in {
        "16-bit.png": picture_files.deep_png(grey, 3),
        "alpha.png": picture_files.deep_png(grey, 2),
        "cmyk.tiff": picture_files.saved(Image.fromarray(grey).convert("RGB").convert("CMYK"), "TIFF"),
        "grey.png": picture_files.saved(Image.fromarray(grey), "PNG"),
        "lying.png": picture_files.lying(grey, 6, "PNG"),
    }.items():
        (folder / name).write_bytes(content)
    (folder / "tiny.png").write_bytes(picture_files.saved(Image.new("RGB", (1, 1)), "PNG"))
    half = picture_files.saved(Image.fromarray(grey), "JPEG")
    (folder / "half.jpg").write_bytes(half[: len(half) // 2])
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    with caplog.at_level(logging.WARNING):
        dataset = own(folder, labels=("any",)).dataset("test", labelled=False)
    np.testing.assert_allclose(dataset.images[:5].astype(int), np.broadcast_to(grey, (5, 3, 32, 32)), atol=1)
    assert (dataset.images[5:] == 0).all()
    assert len(dataset) == 6
    told = " ".join(caplog.messages)
    assert "2 pictures are skipped" in told
    assert "1 picture is skipped: gone.png cannot be opened" in told
    assert "half.jpg" in told
    assert "phone.heic" in told


def test_if_nothing_can_be_read_it_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        (folder / name / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(DamagedData, match="none of 3 pictures can be read"):
        own(folder).dataset("test")


def test_a_large_set_lies_in_a_file_and_is_not_decoded_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_classes(tmp_path / "photos", 0, 4)
    (folder / "bag" / "broken.jpg").write_bytes(b"nothing")
    in_memory = own(folder).dataset("test")
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1000)
    first = own(folder).dataset("test")
    [file] = cache.glob("*.npy")
    assert file.stat().st_size == 13 * 3 * 32 * 32

    def never(*arguments: object) -> None:
        raise AssertionError("it was decoded again")

    monkeypatch.setattr(decoding, "read_image", never)
    again = own(folder).dataset("test")
    for mapped in (first, again):
        np.testing.assert_array_equal(mapped.images, in_memory.images)
        np.testing.assert_array_equal(mapped.labels, in_memory.labels)
        assert mapped.source == in_memory.source
    again.images[:] = 0  # nobody's file changes by it
    np.testing.assert_array_equal(own(folder).dataset("test").images, in_memory.images)


def test_without_a_place_to_keep_them_pictures_are_decoded_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_classes(tmp_path / "photos", 0, 2)
    in_memory = own(folder).dataset("test")
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 1000)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(decoding, "cache_folder", lambda: tmp_path / "file")
    np.testing.assert_array_equal(own(folder).dataset("test").images, in_memory.images)


def test_a_file_is_read_for_its_digest_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_classes(tmp_path / "photos", 0, 2)
    before = own(folder).digests
    read: list[str] = []
    original = digests.Picture.read
    monkeypatch.setattr(digests.Picture, "read", lambda self: (read.append(self.name), original(self))[1])
    assert own(folder).digests == before
    assert not read
    (folder / "boot" / "0.jpeg").write_bytes(b"another picture")
    assert sum(one != other for one, other in zip(own(folder).digests, before, strict=True)) == 1
    assert read == ["boot/0.jpeg"]


def test_numbers_as_classes_are_sorted_as_numbers_and_members_without_a_label_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    content = next(iter(pictures(0, 1)))[2]
    with tarfile.open(path, "w") as tar:
        for key in ("10", "9", "2"):
            for member, data in ((f"{key}.jpg", content), (f"{key}.json", b'{"label": %s}' % key.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    assert find_pictures(path, "test").classes == ("2", "9", "10")
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("without.jpg")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(InvalidInput, match=r"1 pictures have no label, the first is without\.jpg"):
        find_pictures(path, "test")
