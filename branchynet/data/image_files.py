"""Image files and PIL images to the pixels of a network's input: the one way, for clients and for training data."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from branchynet.data.image_pixels import on_ground
from branchynet.data.preprocessing import Preprocessing, Resize
from branchynet.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

__all__ = ["ImageFile", "read_image"]

ImageFile: TypeAlias = "str | PathLike[str] | PilImage"

_MODES = {1: "L", 3: "RGB"}  # by the network's channels


def read_image(
    image: ImageFile, input_shape: tuple[int, ...], preprocessing: Preprocessing, what: str = ""
) -> NDArray[np.uint8]:
    """*image* as uint8 pixels of *input_shape* [C, H, W], as *preprocessing* says: grey for C = 1, RGB for C = 3.

    The picture is the one that a viewer shows: turned upright by its EXIF, in sRGB, 8 bits a channel by the file's own
    range, clear pixels filled with the ground, of an animation the first frame (of a PIL image the one it stands at).
    Grey is ITU-R 601 luma. Raises `InvalidInput`, naming *what* (the image itself, if empty), for what is not a
    readable image, and for one whose range is in doubt; also for another number of channels.
    """
    from PIL import Image as PilImages

    channels, height, width = input_shape
    what = what or str(image)
    if channels not in _MODES:
        raise InvalidInput(f"{what}: the network takes {channels} channels, image files give 1 or 3; send arrays")
    try:
        if isinstance(image, PilImages.Image):
            upright = _upright(image, preprocessing.ground)
        else:
            with PilImages.open(image) as opened:
                upright = _upright(opened, preprocessing.ground)
    # What Pillow's readers raise for damaged files differs from format to format: any error there is.
    except Exception as error:
        raise InvalidInput(f"{what} is not an image that can be read: {error or type(error).__name__}") from None
    pixels = np.asarray(_resized(upright.convert(_MODES[channels]), (width, height), preprocessing))
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _upright(image: PilImage, ground: tuple[int, int, int]) -> PilImage:
    """*image* in 8 bits, turned as its EXIF says."""
    from PIL import ExifTags, ImageOps

    shown = on_ground(image, ground)
    # Only this tag goes along: exif_transpose writes all of them anew, and may stumble over another one.
    shown.info = {}
    shown.getexif()[ExifTags.Base.Orientation] = _orientation(image)
    ImageOps.exif_transpose(shown, in_place=True)
    return shown


def _orientation(image: PilImage) -> int:
    """How the picture lies in its file, 1 to 8; 1, upright, where there is no EXIF or a damaged one, as viewers do."""
    from PIL import ExifTags

    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as for damaged files
        return 1


def _resized(image: PilImage, size: tuple[int, int], preprocessing: Preprocessing) -> PilImage:
    """*image*, "L" or "RGB", in *size* (width, height)."""
    from PIL import Image as PilImages

    resample = PilImages.Resampling[preprocessing.interpolation.name]
    if preprocessing.resize is Resize.STRETCH:
        return image.resize(size, resample)
    ratios = [have / want for have, want in zip(image.size, size, strict=True)]
    if preprocessing.resize is Resize.CROP:  # before it is scaled: a long strip would become huge
        kept = [want * min(ratios) * preprocessing.crop_share for want in size]
        left, top = (max(0.0, (have - part) / 2) for have, part in zip(image.size, kept, strict=True))
        return image.resize(size, resample, box=(left, top, image.width - left, image.height - top))
    width, height = (max(1, round(have / max(ratios))) for have in image.size)
    whole = PilImages.new("RGB", size, preprocessing.ground).convert(image.mode)
    whole.paste(image.resize((width, height), resample), ((size[0] - width) // 2, (size[1] - height) // 2))
    return whole
