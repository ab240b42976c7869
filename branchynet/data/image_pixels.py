"""An opened image of any mode to 8 bits a channel, as a viewer shows it: depth, colour profile, clear pixels.

Nothing is guessed silently. Where a file does not say which value is white, and its values leave a doubt, it is refused
with the reason.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["on_ground"]

_DEEP = re.compile(r"I(;16[LBN]?)?|F")  # the modes of one channel with more than 8 bits
# What Pillow shortens to the first 8 of 16 bits while it reads; "BGR;16" is another thing, of 5-6-5 bits.
_SHORTENED = re.compile(r"(RGB[AXa]?|LA|CMYK);16|SGI16")
_GREY_KEY_FACTORS = {"L;2": 85, "L;4": 17}  # grey of 2 and 4 bits is spread over 8, but not the clear value of a PNG
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_MAX_SAMPLE_VALUES = (281, 341)
_UNSIGNED, _SIGNED = 1, 2  # values of _SAMPLE_FORMAT
_WHITE_IS_ZERO = 0


def on_ground(image: Image, ground: tuple[int, int, int]) -> Image:
    """*image* as "L" or "RGB": scaled to 8 bits, in sRGB if it has a profile, its clear parts filled with *ground*.

    Raises `InvalidInput` for values whose white is in doubt, and for a drawing that its ground would hide; beside it
    whatever Pillow raises for files that are damaged.
    """
    layout = str(getattr(image, "tile", ""))  # how pixels lie in the file; gone once they are read
    image.load()
    if 0 in image.size:
        raise InvalidInput("it has no pixels")
    colour, clear = _deep(image) if _DEEP.fullmatch(image.mode) else _shallow(image, layout)
    if profile := image.info.get("icc_profile"):
        colour = _to_srgb(colour, profile)
    if colour.mode not in ("L", "RGB"):
        colour = colour.convert("RGB")
    return colour if clear is None else _filled(colour, clear, ground)


# --- more than 8 bits -------------------------------------------------------------------------------------------------


def _deep(image: Image) -> tuple[Image, Image | None]:
    """The greys of a mode with more than 8 bits, and how opaque they are, if the file has a clear value."""
    from PIL import Image as PilImages

    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if image.mode == "I" and _tag(tags, _SAMPLE_FORMAT) == _UNSIGNED:
        values = values.view(np.uint32)  # Pillow has no mode for it
    if not np.isfinite(values).all():
        raise InvalidInput("it has pixels that are no numbers")
    if values.min() < 0:
        raise InvalidInput(f"its values go down to {values.min()}; scale them to 0 and up first")
    white = _white_of_floats(values, tags) if image.mode == "F" else _white_of_integers(image, values, tags)
    if values.max() > white:
        raise InvalidInput(f"its values go up to {values.max()}, and it says that white is {white:g}")
    grey = np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8)
    if _tag(tags, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    key = image.info.get("transparency")
    clear = None if key is None else PilImages.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
    return PilImages.fromarray(grey), clear


def _white_of_integers(image: Image, values: NDArray[np.integer[Any]], tags: Mapping[int, Any]) -> int:
    """The value that is white; `InvalidInput` where it is in doubt."""
    highest, most = int(values.max()), int(np.iinfo(values.dtype).max)
    if image.format in ("PPM", "JPEG2000") or (image.format == "PNG" and image.mode == "I"):
        most = 2**16 - 1  # where they say fewer bits, Pillow has scaled them up
        if image.format != "PNG":
            return most
    if told := _told_white(tags):
        return told
    if highest == 0 or highest > most // 4:
        return most
    if most > 2**16 and 1 < highest <= 255:
        return 255  # 8 bits, in the mode that arithmetic leaves them in
    raise _in_doubt(highest, most)


def _white_of_floats(values: NDArray[np.floating[Any]], tags: Mapping[int, Any]) -> float:
    """1 where all values are 0..1, 255 for whole numbers to 255; `InvalidInput` for others, if no tag tells."""
    if told := _told_white(tags):
        return told
    highest = float(values.max())
    if highest <= 1:
        return 1
    if highest <= 255 and (values == np.rint(values)).all():
        return 255
    raise InvalidInput(f"its values are floats up to {highest:g}; scale them to 0..1 first")


def _told_white(tags: Mapping[int, Any]) -> int | None:
    """What the tags of a TIFF say of white; None if nothing.

    MaxSampleValue may be no more than the highest value of this picture; it is a range where it is all ones.
    """
    bits = _tag(tags, _BITS_PER_SAMPLE)
    highest = [value for tag in _MAX_SAMPLE_VALUES if (value := _tag(tags, tag)) is not None]
    for value in highest:
        if value >= 1 and float(value).is_integer() and (int(value) & (int(value) + 1)) == 0:
            return int(value)
    return 2**bits - 1 if bits in (9, 10, 11, 12, 13, 14, 15) else None


def _tag(tags: Mapping[int, Any], number: int) -> Any:
    """The first value of a tag, None if it is not there."""
    value = tags.get(number)
    return value[0] if isinstance(value, tuple) and value else value


def _in_doubt(highest: int, most: int) -> InvalidInput:
    return InvalidInput(
        f"its values go up to {highest} of {most}: this may be a dark picture, or {highest.bit_length()} bits in a "
        f"wider file; scale them to the full range first, or have a TIFF say so by MaxSampleValue"
    )


# --- 8 bits and fewer -------------------------------------------------------------------------------------------------


def _shallow(image: Image, layout: str) -> tuple[Image, Image | None]:
    """The colours of *image*, in a mode without clear pixels, and how opaque they are, if any are clear."""
    if _tag(getattr(image, "tag_v2", {}), _SAMPLE_FORMAT) == _SIGNED:
        raise InvalidInput("its values are signed; scale them to 0 and up first")
    clear = None
    if image.has_transparency_data:
        colours = _with_scaled_key(image, layout).convert("RGBA")
        clear = colours.getchannel("A")
        colour = image.convert("L") if image.mode in ("1", "L", "LA") else colours.convert("RGB")
    else:
        colour = image.convert({"1": "L", "P": "RGB"}.get(image.mode, image.mode))
    if _SHORTENED.search(layout):
        _check_shortened(colour, getattr(image, "tag_v2", {}))
    return colour, clear


def _check_shortened(colour: Image, tags: Mapping[int, Any]) -> None:
    """Raise `InvalidInput` if the first 8 of 16 bits are not all that is to be seen."""
    highest = max(high for _, high in _extrema(colour))
    if 0 < highest < 64:
        raise _in_doubt(highest * 256 + 255, 2**16 - 1)
    if (told := _told_white(tags)) not in (None, 2**16 - 1):
        raise InvalidInput(f"it says that white is {told} of {2**16 - 1}; scale its values to the full range first")


def _with_scaled_key(image: Image, layout: str) -> Image:
    """*image*; if the clear colour of its PNG is in the file's own depth, a copy with that in 8 bits."""
    key = image.info.get("transparency")
    factor = next((factor for rawmode, factor in _GREY_KEY_FACTORS.items() if f"'{rawmode}'" in layout), 1)
    if isinstance(key, int) and factor != 1:
        key = key * factor
    elif isinstance(key, tuple) and "RGB;16B" in layout:
        key = tuple(part >> 8 for part in key)
    else:
        return image
    copy = image.copy()
    copy.info["transparency"] = key
    return copy


# --- colours ----------------------------------------------------------------------------------------------------------


def _to_srgb(colour: Image, profile: bytes) -> Image:
    """*colour* in sRGB; as it is if *profile* is damaged or for other channels, as viewers do."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        changed = ImageCms.profileToProfile(colour, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return colour
    assert changed is not None, "None is for a change in place"
    return changed


def _filled(colour: Image, clear: Image, ground: tuple[int, int, int]) -> Image:
    """*colour* over *ground*; `InvalidInput` if there was something to see, and is no more."""
    from PIL import Image as PilImages

    if clear.getextrema() == (255, 255):
        return colour
    colours = colour.convert("RGB")
    whole = PilImages.composite(colours, PilImages.new("RGB", colour.size, ground), clear)
    if _is_flat(whole) and not (_is_flat(colours) and _is_flat(clear)):
        raise InvalidInput(
            f"it has clear pixels, and on the ground {ground} all of it is of one colour; fill it with another colour"
        )
    return whole


def _is_flat(image: Image) -> bool:
    return all(low == high for low, high in _extrema(image))


def _extrema(image: Image) -> list[tuple[int, int]]:
    """Lowest and highest value of each channel."""
    return [channel.getextrema() for channel in image.split()]  # type: ignore[misc]
