"""The same small picture in many kinds of files, for the tests of what is read from them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Grey = NDArray[np.uint8]  # [H, W]
Made = Callable[[Grey], bytes]

# How the upright picture lies in a file of each EXIF orientation.
LYING = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
WITHOUT_LOSS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# A profile of another colour space: what is red in sRGB is green by it, and the other way round.
SWAPPED = SRGB.replace(b"rXYZ", b"tmp ").replace(b"gXYZ", b"rXYZ").replace(b"tmp ", b"gXYZ")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def lying(picture: Grey, orientation: int, kind: str, **options: Any) -> bytes:
    """A file whose pixels lie as *orientation* says, which its EXIF tells."""
    image, exif = Image.fromarray(picture), Image.Exif()
    exif[0x0112] = orientation
    if (way := LYING[orientation]) is not None:
        image = image.transpose(way)
    return saved(image, kind, exif=exif, **options)


def png(picture: Grey, depth: int, kind: int, rows: list[bytes], clear: bytes = b"") -> bytes:
    """A PNG of a depth that Pillow does not write: *kind* 0 is grey, 2 RGB, 4 grey with alpha; *clear* is its tRNS."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = picture.shape
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(b"tRNS", clear) if clear else b"") + pixels + chunk(b"IEND", b"")


def few_bits(picture: Grey, depth: int, clear: int | None = None) -> tuple[bytes, Grey]:
    """A grey PNG of 1, 2 or 4 bits, and the values in it."""
    values = np.rint(picture / 255 * (2**depth - 1)).astype(np.uint8)
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :].reshape(len(picture), -1)
    tag = b"" if clear is None else struct.pack(">H", clear)
    return png(picture, depth, 0, [np.packbits(row).tobytes() for row in bits], tag), values


def deep(picture: Grey, bits: int = 16) -> NDArray[np.uint16]:
    """The same greys in *bits* bits, black to white."""
    return np.rint(picture * ((2**bits - 1) / 255)).astype(np.uint16)


def deep_png(picture: Grey, channels: int, bits: int = 16, clear: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel; with two channels the second is alpha, and nothing is clear."""
    values = np.repeat(deep(picture, bits)[..., None], channels, axis=2)
    if channels == 2:
        values[..., 1] = 2**16 - 1
    return png(picture, 16, {1: 0, 2: 4, 3: 2}[channels], [row.tobytes() for row in values.astype(">u2")], clear)


def unsigned_tiff(picture: Grey) -> bytes:
    """32 bits without sign, which Pillow reads and does not write."""
    whole = picture.astype(np.uint32) * np.uint32(2**32 // 255)
    signed, unsigned = (struct.pack("<HHLHH", 339, 3, 1, kind, 0) for kind in (2, 1))
    file = saved(Image.fromarray(whole.view(np.int32)), "TIFF")
    assert file.count(signed) == 1
    return file.replace(signed, unsigned)


def tiff(values: NDArray[Any], **tags: int) -> bytes:
    """*values* as TIFF, with *tags* as `t281=4095`."""
    return saved(Image.fromarray(values), "TIFF", tiffinfo={int(name[1:]): value for name, value in tags.items()})


def strokes(picture: Grey, ink: int = 0) -> NDArray[np.uint8]:
    """RGBA: drawn in *ink* on a clear ground; black ink on white is *picture*."""
    return np.dstack([np.full((*picture.shape, 3), ink, np.uint8), 255 - picture])


def clear_palette(picture: Grey) -> bytes:
    """256 blacks, each less clear than the one before."""
    image = Image.frombytes("P", picture.shape[::-1], picture.tobytes())
    image.putpalette([0] * 768)
    return saved(image, "PNG", transparency=bytes(range(255, -1, -1)))


def in_colour(picture: Grey, mode: str) -> Image.Image:
    return Image.fromarray(picture).convert("RGB").convert(mode)


# Files that hold exactly the greys of the picture.
SAME: dict[str, Made] = {
    "16-bit PNG": lambda picture: deep_png(picture, 1),
    "16-bit PNG with a clear value": lambda picture: deep_png(picture, 1, clear=b"\xff\xff"),
    "16-bit PNG in colour": lambda picture: deep_png(picture, 3),
    "16-bit PNG in colour with a clear one": lambda picture: deep_png(picture, 3, clear=b"\xff" * 6),
    "16-bit PNG with alpha": lambda picture: deep_png(picture, 2),
    "16-bit TIFF": lambda picture: tiff(deep(picture)),
    "16-bit TIFF, big-endian": lambda picture: tiff(deep(picture).astype(">u2")),
    "16-bit TIFF whose white is zero": lambda picture: tiff(65535 - deep(picture), t262=0),
    "16-bit TIFF that says its highest value": lambda picture: tiff(deep(picture), t281=int(deep(picture).max())),
    "12 in 16 bits in a TIFF that says so": lambda picture: tiff(deep(picture, 12), t281=4095),
    "16-bit JPEG 2000": lambda picture: saved(Image.fromarray(deep(picture)), "JPEG2000"),
    "16-bit PGM": lambda picture: saved(Image.fromarray(deep(picture)), "PPM"),
    "PGM to 1000": lambda picture: (
        b"P5 %d %d 1000\n" % picture.shape[::-1] + np.rint(picture * (1000 / 255)).astype(">u2").tobytes()
    ),
    "32-bit TIFF of 8 bits": lambda picture: tiff(picture.astype(np.int32)),
    "32-bit TIFF of 16 bits that says so": lambda picture: tiff(deep(picture).astype(np.int32), t281=65535),
    "32-bit TIFF": lambda picture: tiff((picture.astype(np.int64) * (2**31 - 1) // 255).astype(np.int32)),
    "32-bit TIFF without sign": unsigned_tiff,
    "float TIFF to 1": lambda picture: tiff((picture / 255).astype(np.float32)),
    "float TIFF to 255": lambda picture: tiff(picture.astype(np.float32)),
    "float TIFF to 4095 that says so": lambda picture: tiff((picture / 255 * 4095).astype(np.float32), t341=4095),
    "black on clear": lambda picture: saved(Image.fromarray(strokes(picture)), "PNG"),
    "black on clear in grey": lambda picture: saved(Image.fromarray(strokes(picture)[..., 2:]), "PNG"),
    "black on clear in WebP": lambda picture: saved(
        Image.fromarray(strokes(picture)), "WEBP", lossless=True, exact=True
    ),
    "black on clear in TIFF": lambda picture: saved(Image.fromarray(strokes(picture)), "TIFF"),
    "a palette of clear blacks": clear_palette,
    "white is clear": lambda picture: saved(Image.fromarray(picture), "PNG", transparency=255),
    "nothing is clear": lambda picture: saved(in_colour(picture, "RGBA"), "PNG"),
    "palette": lambda picture: saved(Image.fromarray(picture).convert("P"), "PNG"),
    "GIF": lambda picture: saved(Image.fromarray(picture), "GIF"),
    "BMP": lambda picture: saved(Image.fromarray(picture), "BMP"),
    "CMYK TIFF": lambda picture: saved(in_colour(picture, "CMYK"), "TIFF"),
    "a profile of sRGB": lambda picture: saved(in_colour(picture, "RGB"), "PNG", icc_profile=SRGB),
    "a profile for other channels": lambda picture: saved(Image.fromarray(picture), "PNG", icc_profile=SRGB),
    "a damaged profile": lambda picture: saved(Image.fromarray(picture), "PNG", icc_profile=b"nothing"),
}
# Files that lose a little.
NEARLY: dict[str, Made] = {
    "JPEG": lambda picture: saved(Image.fromarray(picture), "JPEG", quality=100),
    "CMYK JPEG": lambda picture: saved(in_colour(picture, "CMYK"), "JPEG", quality=100),
    **{
        f"JPEG of orientation {turn}": lambda picture, turn=turn: lying(picture, turn, "JPEG", quality=100)
        for turn in LYING
    },
}
# Files whose white is in doubt, or that cannot be right, and what is said of them.
IN_DOUBT: dict[str, tuple[Made, str]] = {
    "12 in 16 bits in a PNG": (lambda picture: deep_png(picture, 1, 12), "12 bits"),
    "12 in 16 bits in colour": (lambda picture: deep_png(picture, 3, 12), "12 bits"),
    "12 in 16 bits in a TIFF": (lambda picture: tiff(deep(picture, 12)), "4[0-9]{3} of 65535.*MaxSampleValue"),
    "16 in 32 bits": (lambda picture: tiff(deep(picture).astype(np.int32)), "6[0-9]{4} of 2147483647"),
    "0 and 1 in 32 bits": (lambda picture: tiff((picture > 99).astype(np.int32)), "1 of 2147483647"),
    "floats to 2.55": (lambda picture: tiff((picture / 100).astype(np.float32)), r"floats up to 2\.5.*0\.\.1"),
    "floats below 0": (lambda picture: tiff((picture / 255 - 0.5).astype(np.float32)), "down to -0.5"),
    "no numbers": (lambda picture: tiff(np.full(picture.shape, np.nan, np.float32)), "no numbers"),
    "more than its white": (lambda picture: tiff(deep(picture), t281=4095), "up to 6[0-9]{4}.*white is 4095"),
    "white on clear": (lambda picture: saved(Image.fromarray(strokes(picture, 255)), "PNG"), "one colour"),
    "colours that are all clear": (
        lambda picture: saved(Image.fromarray(np.dstack([picture] * 3 + [picture * 0])), "PNG"),
        "one colour",
    ),
}
