"""Image files become what a viewer shows: upright, in 8 bits, on a ground; or they are refused with the reason."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from picture_files import IN_DOUBT, LYING, NEARLY, SAME, SWAPPED, WITHOUT_LOSS, few_bits, lying, saved, strokes
from PIL import Image, ImageOps

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import load_sample
from branchynet.data.image_files import read_image
from branchynet.data.preprocessing import Interpolation, Preprocessing, Resize
from branchynet.errors import InvalidInput

GREY, COLOUR = (1, 28, 28), (3, 24, 32)
PLAIN = Preprocessing()
SAMPLE = load_sample().take(np.arange(0, 1000, 10)).images  # ten of each class


@functools.cache
def runner() -> Any:
    return Artifact.open("lenet-fashion").runner()


def labels(images: NDArray[np.uint8]) -> list[int]:
    rule = Artifact.open("lenet-fashion").manifest.rule
    found: list[int] = runner().resume(images, 0, 2, rule).logits.argmax(axis=1).tolist()
    return found


def read(file: bytes, shape: tuple[int, ...] = GREY, preprocessing: Preprocessing = PLAIN) -> NDArray[np.uint8]:
    return read_image(Image.open(io.BytesIO(file)), shape, preprocessing)


@pytest.mark.parametrize("kind", SAME)
def test_a_file_of_the_same_greys_gives_the_same_pixels(kind: str) -> None:
    found = np.stack([read(SAME[kind](image[0])) for image in SAMPLE])
    np.testing.assert_array_equal(found, SAMPLE)


@pytest.mark.parametrize("kind", NEARLY)
def test_a_file_that_loses_a_little_gets_all_labels_of_the_whole_picture(kind: str) -> None:
    assert labels(np.stack([read(NEARLY[kind](image[0])) for image in SAMPLE])) == labels(SAMPLE)


@pytest.mark.parametrize("kind", WITHOUT_LOSS)
@pytest.mark.parametrize("orientation", LYING)
def test_a_photo_on_its_side_is_turned_upright_once(kind: str, orientation: int) -> None:
    picture = SAMPLE[7, 0][:, :20]
    file = lying(picture, orientation, kind, **WITHOUT_LOSS[kind])
    for image in (Image.open(io.BytesIO(file)), ImageOps.exif_transpose(Image.open(io.BytesIO(file)))):
        np.testing.assert_array_equal(read_image(image, (1, 28, 20), PLAIN)[0], picture)


def test_a_damaged_exif_turns_nothing(tmp_path: Path) -> None:
    picture = SAMPLE[0, 0]
    (tmp_path / "photo.png").write_bytes(saved(Image.fromarray(picture), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\xffnothing"))
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png", GREY, PLAIN)[0], picture)


@pytest.mark.parametrize("kind", IN_DOUBT)
def test_a_file_in_doubt_is_refused_by_its_name_with_the_reason(kind: str, tmp_path: Path) -> None:
    made, reason = IN_DOUBT[kind]
    path = tmp_path / "doubt"
    path.write_bytes(made(SAMPLE[0, 0]))
    with pytest.raises(InvalidInput, match=f"(?s){path} is not an image that can be read: .*{reason}"):
        read_image(path, GREY, PLAIN)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_are_spread_and_their_clear_value_with_them(depth: int) -> None:
    most = 2**depth - 1
    for clear in (None, 0, most):
        file, values = few_bits(SAMPLE[30, 0], depth, clear)
        expected = np.where(values == clear, 8, values * (255 // most))
        np.testing.assert_array_equal(read(file, preprocessing=Preprocessing(ground=(8, 8, 8)))[0], expected)


def test_black_is_black_in_any_depth() -> None:
    for dtype in (np.uint16, np.int32, np.float32):
        assert not read_image(Image.fromarray(np.zeros((9, 9), dtype)), GREY, PLAIN).any()


# --- what is clear ----------------------------------------------------------------------------------------------------


def test_clear_parts_are_the_ground_and_half_clear_ones_half() -> None:
    image = Image.new("RGBA", (32, 24), (255, 0, 0, 255))
    image.putpixel((0, 0), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 51))
    for ground, half in (((255, 255, 255), (255, 204, 204)), ((0, 100, 255), (51, 80, 204))):
        pixels = read_image(image, COLOUR, Preprocessing(ground=ground))
        assert tuple(pixels[:, 0, 0]) == ground
        assert tuple(pixels[:, 0, 1]) == half
        assert tuple(pixels[:, 5, 5]) == (255, 0, 0)


def test_white_on_clear_is_seen_on_a_black_ground() -> None:
    found = [
        read_image(Image.fromarray(strokes(255 - image[0], 255)), GREY, Preprocessing(ground=(0, 0, 0)))
        for image in SAMPLE
    ]
    np.testing.assert_array_equal(np.stack(found), SAMPLE)


def test_what_is_of_one_colour_from_the_start_is_a_picture() -> None:
    for colour, seen in (((9, 9, 9, 255), 9), ((0, 0, 0, 0), 255), ((255, 255, 255, 7), 255)):
        assert set(read_image(Image.new("RGBA", (5, 5), colour), GREY, PLAIN).ravel()) == {seen}


# --- colours ----------------------------------------------------------------------------------------------------------


def test_a_profile_changes_the_colours_to_srgb() -> None:
    red = saved(Image.new("RGB", (8, 8), (255, 0, 0)), "PNG", icc_profile=SWAPPED)
    assert tuple(read(red, (3, 8, 8))[:, 4, 4]) == (0, 255, 0)
    clear = saved(Image.new("RGBA", (8, 8), (255, 0, 0, 102)), "PNG", icc_profile=SWAPPED)
    assert tuple(read(clear, (3, 8, 8))[:, 4, 4]) == (153, 255, 153), "the ground is in sRGB already"


def test_an_animation_is_its_first_frame_and_an_opened_one_the_frame_it_stands_at() -> None:
    frames = [Image.new("L", (6, 6), grey) for grey in (10, 200)]
    for kind in ("GIF", "TIFF", "PNG"):
        file = io.BytesIO(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert read_image(Image.open(file), GREY, PLAIN)[0, 9, 9] == 10
        opened = Image.open(file)
        opened.seek(1)
        assert read_image(opened, GREY, PLAIN)[0, 9, 9] == 200


def test_other_channels_than_files_have_are_refused() -> None:
    with pytest.raises(InvalidInput, match="takes 4 channels"):
        read_image(Image.new("RGBA", (5, 5)), (4, 5, 5), PLAIN)


# --- resizing ---------------------------------------------------------------------------------------------------------

WIDE = Image.effect_noise((90, 40), 90).convert("RGB")
TALL = WIDE.transpose(Image.Transpose.ROTATE_90)


@pytest.mark.parametrize("interpolation", Interpolation)
@pytest.mark.parametrize("picture", [WIDE, TALL], ids=["wide", "tall"])
def test_each_way_is_pillow_s_own(picture: Image.Image, interpolation: Interpolation) -> None:
    size, filtered = (32, 24), Image.Resampling[interpolation.name]
    ground = (10, 90, 200)
    expected = {
        Resize.STRETCH: picture.resize(size, filtered),
        Resize.CROP: ImageOps.fit(picture, size, filtered),
        Resize.PAD: ImageOps.pad(picture, size, filtered, color=ground),
    }
    for resize, image in expected.items():
        pixels = read_image(picture, COLOUR, Preprocessing(resize, interpolation, ground))
        np.testing.assert_array_equal(pixels, np.asarray(image).transpose(2, 0, 1), err_msg=resize)


@pytest.mark.parametrize("picture", [WIDE, TALL], ids=["wide", "tall"])
def test_of_the_middle_a_share_is_kept(picture: Image.Image) -> None:
    """As who scales the shorter side to 256 and cuts 224 out, but for the rounding of the long side."""
    pixels = read_image(picture, (3, 28, 28), Preprocessing(Resize.CROP, Interpolation.BILINEAR, crop_share=0.875))
    ratio = 32 / min(picture.size)
    scaled = picture.resize(tuple(round(side * ratio) for side in picture.size), Image.Resampling.BILINEAR)
    left, top = (round((side - 28) / 2) for side in scaled.size)
    expected = np.asarray(scaled.crop((left, top, left + 28, top + 28))).transpose(2, 0, 1).astype(float)
    assert np.abs(pixels - expected).mean() < 3
    whole = read_image(picture, (3, 28, 28), Preprocessing(Resize.CROP, Interpolation.BILINEAR))
    assert np.abs(whole - expected).mean() > 6


def test_by_default_both_sides_are_stretched_bicubically() -> None:
    expected = np.asarray(TALL.convert("L").resize((28, 28)))
    np.testing.assert_array_equal(read_image(TALL, GREY, PLAIN)[0], expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 2)])
@pytest.mark.parametrize("resize", Resize)
def test_tiny_pictures_and_long_strips_are_resized_too(size: tuple[int, int], resize: Resize) -> None:
    pixels = read_image(Image.new("RGB", size, (255, 0, 0)), COLOUR, Preprocessing(resize))
    assert pixels.shape == COLOUR
    assert (pixels == np.array([255, 0, 0])[:, None, None]).all(axis=0).any()


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no pixels"):
        read_image(Image.new("L", (0, 5)), GREY, PLAIN)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "resize": ({"resize": "zoom"}, "resize is 'zoom'.*stretch, crop, pad"),
    "interpolation": ({"interpolation": "cubic"}, "interpolation is 'cubic'.*bicubic"),
    "a ground too bright": ({"ground": (0, 0, 256)}, "ground is .*256"),
    "a grey ground": ({"ground": (0,)}, "ground is .*red, green and blue"),
    "nothing kept": ({"resize": "crop", "crop_share": 0.0}, "crop_share is 0.0"),
    "more than there is": ({"resize": "crop", "crop_share": 1.1}, "crop_share is 1.1"),
    "a share without a crop": ({"crop_share": 0.5}, "which only resize crop has, not stretch"),
    "a ground of halves": ({"ground": (0.5, 0, 0)}, "ground is .*0.5"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_preprocessing_that_cannot_be_is_refused_with_its_value(mistake: str) -> None:
    fields, words = MISTAKES[mistake]
    with pytest.raises(InvalidInput, match=words):
        Preprocessing(**fields)
    assert Preprocessing("crop", "nearest").resize is Resize.CROP  # type: ignore[arg-type]


# --- damaged files ----------------------------------------------------------------------------------------------------

WHOLE = {name: (SAME | NEARLY)[name](SAMPLE[20, 0]) for name in SAME | NEARLY}


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_give_pixels_or_are_refused_by_name(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    whole = WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))]
    place = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.binary(min_size=1, max_size=4))
    file = whole[:place] if data.draw(st.booleans()) else whole[:place] + damage + whole[place + len(damage) :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(file)
    shape = data.draw(st.sampled_from([GREY, COLOUR]))
    try:
        pixels = read_image(path, shape, Preprocessing(data.draw(st.sampled_from(Resize))))
    except InvalidInput as refused:
        assert str(path) in str(refused)
    else:
        assert (pixels.shape, pixels.dtype) == (shape, np.uint8)
