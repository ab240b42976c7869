"""Images as callers have them: which are taken, what becomes of them, and how the others are refused."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from branchynet.client.images import Batch
from branchynet.data.preprocessing import Preprocessing, Resize
from branchynet.errors import InvalidInput
from branchynet.exits.rules import ExitRule
from branchynet.serving.prediction import ServedModel

GREY = np.random.default_rng(1).integers(0, 256, (4, 1, 28, 28), dtype=np.uint8)
COLOUR = np.random.default_rng(2).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)


def served(input_shape: tuple[int, ...], preprocessing: Preprocessing | None = None) -> ServedModel:
    rule = ExitRule("entropy", (0.5,))  # type: ignore[arg-type]
    return ServedModel("m", "", (0, 1), 2, input_shape, (), rule, 64, preprocessing or Preprocessing())


GREY_SERVED, COLOUR_SERVED = served(GREY.shape[1:]), served(COLOUR.shape[1:])


def as_pil(image: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def as_file(image: np.ndarray[Any, Any], folder: Path, name: str = "picture.png") -> Path:
    as_pil(image).save(folder / name)
    return folder / name


KINDS: dict[str, Callable[[np.ndarray[Any, Any], Path], Any]] = {
    "array with channels": lambda image, _: image,
    "PIL image": lambda image, _: as_pil(image),
    "path": as_file,
    "path as text": lambda image, folder: str(as_file(image, folder)),
}


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_gives_its_own_pixels(images: np.ndarray[Any, Any], kind: str, tmp_path: Path) -> None:
    given = [KINDS[kind](image, tmp_path) for image in images[:1]]
    array = Batch(given).to_array(served(images.shape[1:]))
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, images[:1])


def test_kinds_may_be_mixed_and_keep_their_order(tmp_path: Path) -> None:
    given = (GREY[0], GREY[1, 0], as_pil(GREY[2]), as_file(GREY[3], tmp_path))
    np.testing.assert_array_equal(Batch(given).to_array(GREY_SERVED), GREY)
    np.testing.assert_array_equal(Batch(image for image in given).to_array(GREY_SERVED), GREY)


def test_a_batch_is_handed_on_as_it_is_and_needs_nothing_served() -> None:
    batch = Batch(GREY)
    assert (len(batch), batch.has_files) == (4, False)
    assert batch.to_array(None) is GREY
    assert not Batch(list(GREY)).has_files
    assert Batch([GREY[0], as_pil(GREY[1])]).has_files


def test_pictures_become_what_is_served_by_its_preprocessing() -> None:
    large = Image.new("RGB", (90, 40), (255, 0, 0))
    colour = Batch([large]).to_array(served((3, 32, 16)))[0]
    assert colour.shape == (3, 32, 16)
    assert [plane.min() for plane in colour] == [plane.max() for plane in colour] == [255, 0, 0]
    grey = Batch([large]).to_array(GREY_SERVED)[0]
    assert grey.shape == (1, 28, 28)
    assert set(grey.ravel()) == {76}  # ITU-R 601: 0.299 of red
    padded = Batch([large]).to_array(served((3, 90, 90), Preprocessing(Resize.PAD, ground=(0, 0, 9))))[0]
    assert tuple(padded[:, 0, 0]) == (0, 0, 9)
    assert tuple(padded[:, 45, 0]) == (255, 0, 0)


def test_pillow_stays_out_of_a_program_that_only_loads_the_client() -> None:
    program = "import sys, branchynet.client; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


REFUSED: dict[str, tuple[Any, str]] = {
    "one image with channels": (GREY[0], r"\(1, 28, 28\).*classify_one"),
    "grey images without channels": (GREY[:, 0], r"\(4, 28, 28\).*\[B, C, H, W\]"),
    "one grey image": (GREY[0, 0], r"\(28, 28\).*classify_one"),
    "floats": (GREY.astype(np.float32), "float32.*uint8"),
    "no images": (GREY[:0], "empty"),
    "an empty list": ([], "empty"),
    "a path as text": ("cat.png", "'cat.png'.*classify_one"),
    "a path": (Path("cat.png"), "cat.png.*classify_one"),
    "a PIL image": (as_pil(GREY[0]), "Image.*classify_one"),
    "encoded bytes": (b"\x89PNG", r"PNG.*\(bytes\)"),
    "nothing": (None, "None"),
    "channels last": ([GREY[0], COLOUR[0].transpose(1, 2, 0)], r"image 1: shape is \(32, 32, 3\).*\[C, H, W\]"),
    "a batch in a list": ([GREY], r"image 0: shape is \(4, 1, 28, 28\)"),
    "floats in a list": ([GREY[0], GREY[1] / 255], "image 1: dtype is float64"),
    "numbers in a list": ([GREY[0], 5], r"image 1 is 5 \(int\)"),
    "a list in a list": ([["cat.png"]], r"image 0 is \['cat.png'\] \(list\)"),
    "something endless": (["x" * 9, "y" * 9, ["z" * 9_000]], r"image 2 is .{80} \(list\)"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_what_is_no_batch_is_refused_by_its_value(mistake: str) -> None:
    images, words = REFUSED[mistake]
    with pytest.raises(InvalidInput, match=words):
        Batch(images)


def test_images_of_different_shapes_are_refused_with_both() -> None:
    with pytest.raises(InvalidInput, match=r"image 1: shape is \(3, 32, 32\), that of image 0 is \(1, 28, 28\)"):
        Batch([GREY[0], COLOUR[0]]).to_array(None)
    with pytest.raises(InvalidInput, match=r"image 1: shape is \(1, 28, 28\), that of image 0 is \(3, 32, 32\)"):
        Batch([as_pil(GREY[0]), GREY[0]]).to_array(COLOUR_SERVED)


def damaged(folder: Path) -> dict[str, Path]:
    picture = io.BytesIO()
    Image.effect_noise((300, 300), 50).save(picture, "png")
    whole = picture.getvalue()
    contents = {
        "text": b"no picture",
        "empty": b"",
        "half": whole[:20_000],
        "broken chunk": whole[:40] + b"\xff" * 4 + whole[44:],
        "huge": whole[:16] + (2**20).to_bytes(4, "big") * 2 + whole[24:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in [*contents, "missing"]} | {"folder": folder}


@pytest.mark.parametrize("kind", ["text", "empty", "half", "broken chunk", "huge", "missing", "folder"])
def test_a_file_that_is_no_picture_is_named(kind: str, tmp_path: Path) -> None:
    path = damaged(tmp_path)[kind]
    with pytest.raises(InvalidInput, match=f"{path} is not an image"):
        Batch([GREY[0], path]).to_array(GREY_SERVED)


def test_a_pil_image_that_cannot_be_read_is_named_by_its_position(tmp_path: Path) -> None:
    closed = Image.open(as_file(GREY[0], tmp_path))
    closed.close()
    with pytest.raises(InvalidInput, match="image 1 is not an image"):
        Batch([GREY[0], closed]).to_array(GREY_SERVED)
