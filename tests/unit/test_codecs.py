"""A tensor through a codec and back: equal or within the stated bound, whatever the batch; bad bytes are refused."""

import dataclasses
import io
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from branchynet.codecs import FixedRanges, Payload, check_cut, named_codec
from branchynet.codecs.packing import zstd
from branchynet.errors import InvalidInput, TooLarge

MAPS = [
    f"{values}{mask}{zstd}"
    for values in ("fp32", "fp16", "uint8", "uint4")
    for mask in ("", "+mask")
    for zstd in ("", "+zstd")
]
CALIBRATED = ["uint8-calibrated", "uint4-calibrated+mask", "uint8-calibrated+zstd", "uint4-calibrated+mask+zstd"]
LOSSLESS_IMAGES = ["raw", "raw+zstd", "png", "webp"]
IMAGES = [*LOSSLESS_IMAGES, "jpeg-90", "webp-80"]
RANGES = FixedRanges((-1.0, 0.0, -2.0), (1.0, 3.0, 0.5))
# Whole numbers of eighths meet halves of steps, zeros, and both zeros.
VALUES = st.one_of(
    st.floats(-(2.0**15), 2.0**15, width=32), st.integers(-64, 64).map(lambda n: n / 8), st.just(0.0), st.just(-0.0)
)
SHAPES = st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 4), st.integers(1, 5))
a_map = npst.arrays(np.float32, SHAPES, elements=VALUES)
a_relu_map = a_map.map(lambda x: np.maximum(x, np.float32(0)))


def there_and_back(codec, batch):
    return codec.decode(codec.encode(batch), batch.shape[1:], len(batch))


def pictures(channels, count=2, side=12):
    rows = np.add.outer(np.arange(side) * 9, np.arange(side) * 5) % 256
    return np.stack([np.stack([(rows + 40 * c + 13 * n) % 256 for c in range(channels)]) for n in range(count)]).astype(
        np.uint8
    )


# --- equal, or within the bound ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MAPS if name.startswith("fp32")])
@settings(max_examples=30, deadline=None)
@given(batch=st.one_of(a_map, a_relu_map))
def test_fp32_comes_back_bit_for_bit(name, batch):
    codec = named_codec(name)
    assert codec.lossless
    assert there_and_back(codec, batch).tobytes() == batch.tobytes()  # -0.0 too


@pytest.mark.parametrize("name", [name for name in MAPS + CALIBRATED if not name.startswith("fp32")])
@settings(max_examples=40, deadline=None)
@given(batch=st.one_of(a_map, a_relu_map))
def test_every_value_comes_back_within_the_stated_bound(name, batch):
    codec = named_codec(name, RANGES)
    assert not codec.lossless
    back = there_and_back(codec, batch)
    assert back.dtype == np.float32
    assert (np.abs(back.astype(np.float64) - batch) <= codec.error_bound(batch)).all()


@pytest.mark.parametrize(("name", "levels"), [("uint8", 255), ("uint4", 15)])
def test_the_bound_is_half_a_step_of_the_channels_range(name, levels):
    batch = np.array([[[0, 0.3, 1.0], [-4.0, 0.1, 4.0], [0, 0, 0]]], np.float32)
    np.testing.assert_allclose(
        named_codec(name).error_bound(batch)[0, :, 0], np.array([0.5, 4.0, 0]) / levels, rtol=1e-3, atol=1e-30
    )


@pytest.mark.parametrize("name", [name for name in MAPS if not name.startswith("fp")])
def test_what_relu_put_to_zero_stays_zero(name):
    batch = np.maximum(np.random.default_rng(0).normal(size=(2, 3, 5, 5)), 0).astype(np.float32)
    assert ((there_and_back(named_codec(name), batch) == 0) >= (batch == 0)).all()


@pytest.mark.parametrize("value", [3e38, 1e-40, -1e-40, np.finfo(np.float32).tiny])
def test_extreme_ranges_are_carried_or_refused_never_made_infinite(value):
    batch = np.array([[[0, value]]], np.float32)
    for name in ("uint8", "uint4"):
        back = there_and_back(named_codec(name), batch)
        assert (np.abs(back - batch) <= named_codec(name).error_bound(batch)).all()
    wide = np.array([[[-3e38, 3e38]]], np.float32)
    with pytest.raises(InvalidInput, match=r"-3\.0\d*e\+38 to 3\.0"):
        named_codec("uint8").encode(wide)


@pytest.mark.parametrize("name", MAPS + CALIBRATED)
def test_a_batch_decodes_like_its_samples(name):
    codec = named_codec(name, RANGES)
    batch = np.random.default_rng(1).normal(scale=[[[[1]]], [[[9]]], [[[0.1]]]], size=(3, 3, 4, 4)).astype(np.float32)
    alone = [there_and_back(codec, sample[None])[0] for sample in batch]
    np.testing.assert_array_equal(there_and_back(codec, batch), alone)


@pytest.mark.parametrize("name", ["uint8", "uint4+mask", "fp16+zstd"])
def test_maps_without_channels_are_carried_too(name):
    batch = np.random.default_rng(2).normal(size=(2, 7)).astype(np.float32)
    codec = named_codec(name)
    assert (np.abs(there_and_back(codec, batch) - batch) <= codec.error_bound(batch)).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", IMAGES)
def test_images_come_back_equal_or_alike(name, channels):
    images, codec = pictures(channels), named_codec(name)
    back = there_and_back(codec, images)
    assert back.dtype == np.uint8
    assert codec.lossless == (name in LOSSLESS_IMAGES)
    if codec.lossless:
        np.testing.assert_array_equal(back, images)
        assert (codec.error_bound(images) == 0).all()
    else:
        assert np.abs(back.astype(int) - images).mean() < 40
        assert np.isinf(codec.error_bound(images)).all()


# --- sizes -------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_layout():
    batch = np.ones((2, 3, 4, 4), np.float32)  # 48 values a sample
    sizes = {name: len(named_codec(name, RANGES).encode(batch).data) for name in MAPS + CALIBRATED}
    assert sizes["fp32"] == 2 * 48 * 4
    assert sizes["fp16"] == 2 * 48 * 2
    assert sizes["uint8"] == 1 + 2 * 3 * 2 + 2 * 48
    assert sizes["uint4"] == 1 + 2 * 3 * 2 + 2 * 24
    assert sizes["uint8-calibrated"] == 4 + 2 * 48
    assert sizes["uint8+mask"] == sizes["uint8"] + 12  # a bit for each value, none is zero
    assert len(named_codec("uint8+mask").encode(0 * batch).data) == 1 + 2 * 3 * 2 + 12
    assert sizes["uint8+zstd"] < sizes["uint8"]


# --- calibrated ranges -------------------------------------------------------------------------------------


def test_calibrated_ranges_hold_the_stated_share_of_each_channel():
    batch = np.random.default_rng(3).normal(scale=[[[1.0]], [[5.0]]], size=(400, 2, 5, 5)).astype(np.float32)
    ranges = FixedRanges.calibrated(batch, share=0.99)
    for channel in range(2):
        values = batch[:, channel]
        assert np.mean(values > ranges.high[channel]) == pytest.approx(0.01, abs=2e-4)
        assert np.mean(values < ranges.low[channel]) == pytest.approx(0.01, abs=2e-4)
    assert FixedRanges.calibrated(np.maximum(batch, 0)).low == (0.0, 0.0)


def test_ends_calibrated_apart_do_not_understand_each_other():
    batch = np.ones((1, 3, 2), np.float32)
    payload = named_codec("uint8-calibrated", RANGES).encode(batch)
    others = named_codec("uint8-calibrated", FixedRanges(RANGES.low, (1.0, 3.0, 0.6)))
    with pytest.raises(InvalidInput, match=f"with ranges {RANGES.mark.hex()}, here they are"):
        others.decode(payload, (3, 2), 1)
    for attempt in (lambda c: c.encode(batch), lambda c: c.decode(payload, (3, 2), 1)):
        with pytest.raises(InvalidInput, match="the artifact has none"):
            attempt(named_codec("uint8-calibrated"))
    with pytest.raises(InvalidInput, match="2 channels, 3 ranges"):
        named_codec("uint8-calibrated", RANGES).encode(np.ones((1, 2, 2), np.float32))


@pytest.mark.parametrize(
    "ends", [((), ()), ((0.0,), (1.0, 2.0)), ((0.1,), (1.0,)), ((np.nan,), (1.0,)), ((0.0,), (-1.0,))]
)
def test_ranges_that_are_none_are_refused(ends):
    with pytest.raises(InvalidInput, match="ranges"):
        FixedRanges(*ends)


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        "uint16",
        "uint8+gzip",
        "fp32-calibrated",
        "uint8+zstd+mask",
        "png-90",
        "jpeg",
        "jpeg-0",
        "jpeg-101",
        "webp-",
        "raw+mask",
        "UINT8",
    ],
)
def test_an_unknown_codec_is_refused_by_name(name):
    with pytest.raises(InvalidInput, match=r"codec|must be|jpeg-90|no ranges"):
        named_codec(name)


# Of the last one's bits the upper half, rounded up, would be those of a number.
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.uint32(0x7FFFFFFF).view(np.float32)])
@pytest.mark.parametrize("name", ["fp16", "fp32+zstd", "uint8", "uint4-calibrated"])
def test_what_is_not_finite_is_not_sent(name, value):
    batch = np.zeros((1, 3, 4), np.float32)
    batch[0, 1, 2] = value
    with pytest.raises(InvalidInput, match=r"nan|inf"):
        named_codec(name, RANGES).encode(batch)


def test_a_value_that_half_precision_cannot_hold_is_refused():
    with pytest.raises(InvalidInput, match=r"70000\.0, which fp16 cannot carry"):
        named_codec("fp16").encode(np.array([[70_000.0]], np.float32))


@pytest.mark.parametrize(
    ("name", "batch", "complaint"),
    [
        ("uint8", np.zeros((1, 3, 2)), "float64"),
        ("uint8", np.zeros((0, 3, 2), np.float32), "shape"),
        ("raw", np.zeros((1, 3, 2, 2), np.float32), "uint8 images"),
        ("png", np.zeros((1, 2, 4, 4), np.uint8), "1 or 3 channels"),
        ("png", np.zeros((1, 3, 4), np.uint8), "1 or 3 channels"),
    ],
)
def test_what_a_codec_does_not_carry_is_refused(name, batch, complaint):
    with pytest.raises(InvalidInput, match=complaint):
        named_codec(name).encode(batch)


@pytest.mark.parametrize(("name", "cut"), [("raw", 1), ("png", 2), ("fp32", 0), ("uint4+zstd", 0)])
def test_images_are_for_cut_0_and_maps_for_the_others(name, cut):
    with pytest.raises(InvalidInput, match=f"at cut {cut} there are"):
        check_cut(named_codec(name), cut)
    check_cut(named_codec(name), 1 if cut == 0 else 0)


def head(payload, **changes):
    return dataclasses.replace(payload, **changes)


@pytest.mark.parametrize("name", ["fp32", "uint8+mask", "uint4+zstd", "raw", "png"])
def test_a_head_that_does_not_fit_is_refused_before_the_bytes_are_looked_at(name):
    codec = named_codec(name)
    batch = pictures(3) if codec.dtype == np.uint8 else np.ones((2, 3, 12, 12), np.float32)
    payload = head(codec.encode(batch), data=b"")
    shape = batch.shape[1:]
    other = "uint8" if name != "uint8" else "fp32"
    for wrong, limit, error, complaint in (
        (head(payload, codec=other), 2, InvalidInput, re.escape(f"'{other}', not '{name}'")),
        (head(payload, version=2), 2, InvalidInput, "version 2"),
        (head(payload, shape=(2, 3, 12)), 2, InvalidInput, r"\(2, 3, 12\)"),
        (head(payload, shape=(2, 3, 12, 13)), 2, InvalidInput, "13"),
        (head(payload, shape=(0, *shape)), 2, InvalidInput, r"\(0, "),
        (head(payload, shape=(2**40, *shape)), 2, TooLarge, "1099511627776 samples, at most 2"),
        (payload, 1, TooLarge, "2 samples, at most 1"),
    ):
        with pytest.raises(error, match=complaint):
            codec.decode(wrong, shape, limit)


@pytest.mark.parametrize("name", MAPS + CALIBRATED + IMAGES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_bytes_do_more_than_be_refused(name, data):
    codec = named_codec(name, RANGES)
    batch = (
        pictures(3, side=6) if name in IMAGES else np.random.default_rng(4).normal(size=(2, 3, 6, 6)).astype(np.float32)
    )
    good = codec.encode(batch).data
    how = data.draw(st.sampled_from(["cut", "longer", "flipped", "other"]))
    place = data.draw(st.integers(0, len(good) - 1))
    bad = {
        "cut": good[:place],
        "longer": good + data.draw(st.binary(min_size=1, max_size=9)),
        "flipped": good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :],
        "other": data.draw(st.binary(max_size=60)),
    }[how]
    try:
        back = codec.decode(Payload(name, 1, batch.shape, bad), batch.shape[1:], 2)
    except InvalidInput:
        return
    assert how in ("flipped", "other", "cut") or name in IMAGES, "bytes too many were not noticed"
    assert back.shape == batch.shape


@pytest.mark.parametrize("cut", [0, 5, 60])
@pytest.mark.parametrize("name", [name for name in MAPS if "mask" not in name] + ["raw", "png"])
def test_bytes_too_few_are_refused(name, cut):
    codec = named_codec(name)
    batch = pictures(3) if name in IMAGES else np.random.default_rng(5).normal(size=(2, 3, 6, 6)).astype(np.float32)
    payload = codec.encode(batch)
    with pytest.raises(InvalidInput):
        codec.decode(head(payload, data=payload.data[:cut]), batch.shape[1:], 2)


def test_a_bomb_is_not_unpacked():
    bomb = zstd.compress(bytes(50_000_000))
    for name, shape in (("uint8+zstd", (3, 4, 4)), ("raw+zstd", (3, 4, 4))):
        start = named_codec("uint8").encode(np.ones((1, *shape), np.float32)).data[:7] if name[0] == "u" else b""
        with pytest.raises(InvalidInput, match="50000000 bytes, its shape allows"):
            named_codec(name).decode(Payload(name, 1, (1, *shape), start + bomb), shape, 1)
    unsized = zstd.compress(bytes(48), options={zstd.CompressionParameter.content_size_flag: 0})
    with pytest.raises(InvalidInput, match="frame"):
        named_codec("raw+zstd").decode(Payload("raw+zstd", 1, (1, 3, 4, 4), unsized), (3, 4, 4), 1)
    whole = zstd.compress(bytes(48))
    for broken in (whole[:-3], whole + b"more", whole + whole):
        with pytest.raises(InvalidInput, match="zstd frame"):
            named_codec("raw+zstd").decode(Payload("raw+zstd", 1, (1, 3, 4, 4), broken), (3, 4, 4), 1)


def png(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [13, 5_000, 60_000])
def test_a_picture_of_another_size_is_refused_before_its_pixels_are_made(side):
    file = png(side, side)
    data = struct.pack("<I", len(file)) + file
    with pytest.raises(InvalidInput, match=f"{side}|bomb"):
        named_codec("png").decode(Payload("png", 1, (1, 3, 12, 12), data), (3, 12, 12), 1)


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "P", "LA"])
def test_a_picture_of_another_depth_or_with_clear_pixels_is_refused(mode):
    file = io.BytesIO()
    Image.new(mode, (12, 12)).save(file, "PNG")
    data = struct.pack("<I", len(file.getvalue())) + file.getvalue()
    with pytest.raises(InvalidInput, match=f"mode {mode}"):
        named_codec("png").decode(Payload("png", 1, (1, 3, 12, 12), data), (3, 12, 12), 1)


def test_another_format_behind_the_name_is_refused():
    data = named_codec("png").encode(pictures(3)).data
    with pytest.raises(InvalidInput, match="no webp"):
        named_codec("webp").decode(Payload("webp", 1, (2, 3, 12, 12), data), (3, 12, 12), 2)
