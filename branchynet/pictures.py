"""What callers hand over as images, made into the uint8 arrays that travel.

Arrays are pixels as the network takes them: they are sent as they are. Pictures (picture files and PIL images) are
converted to grey or RGB and scaled to the network's input.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

__all__ = ["Batch", "Image", "Images", "Picture", "read_picture"]

Picture: TypeAlias = "str | PathLike[str] | PilImage"
Image: TypeAlias = "NDArray[np.uint8] | Picture"
Images: TypeAlias = "NDArray[np.uint8] | Iterable[Image]"

_BATCH = "a batch is one uint8 array [B, C, H, W] or a sequence of images"
_IMAGE = "an image is a uint8 array [C, H, W] with C = 1 or 3, a grey one [H, W], a PIL image or the path of a picture"


def read_picture(picture: Picture, input_shape: tuple[int, ...], what: str = "") -> NDArray[np.uint8]:
    """*picture* as uint8 pixels of *input_shape* [C, H, W]: grey for C = 1, else RGB, scaled to both sides.

    Raises `InvalidInput`, naming *what* (the picture itself, if empty), for what is not a readable picture.
    """
    from PIL import Image as PilImages

    channels, height, width = input_shape
    what = what or str(picture)
    mode = "L" if channels == 1 else "RGB"
    try:
        if isinstance(picture, PilImages.Image):
            scaled = picture.convert(mode).resize((width, height))
        else:
            with PilImages.open(picture) as opened:
                scaled = opened.convert(mode).resize((width, height))
    # What Pillow's readers raise for damaged files, beside OSError, differs from format to format.
    except (OSError, SyntaxError, ValueError, EOFError, PilImages.DecompressionBombError) as error:
        raise InvalidInput(f"{what} is not a picture that can be read: {error}") from None
    pixels = np.asarray(scaled, dtype=np.uint8)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


class Batch:
    """Images as a caller gave them, checked as far as they can be by who does not know the network.

    *images*: one uint8 array [B, C, H, W], or a sequence whose items are uint8 arrays [C, H, W] or [H, W] (grey), PIL
    images or paths of picture files, in any mixture. A single image is refused: a string is a sequence, too, and three
    sides are either a batch of grey images or one with channels. Raises `InvalidInput` with the value.
    """

    def __init__(self, images: Images) -> None:
        self._items: NDArray[np.uint8] | list[NDArray[np.uint8] | Picture]
        if isinstance(images, np.ndarray):
            _check_dtype(images, "images")
            if images.ndim != 4:
                raise InvalidInput(f"images: shape is {images.shape}; {_BATCH}; a single one goes to classify_one")
            self._items = images
        elif isinstance(images, str | bytes) or not isinstance(images, Iterable):
            raise InvalidInput(f"images: {_shown(images)} is no batch: {_BATCH}; a single one goes to classify_one")
        else:
            self._items = [_checked(image, f"image {position}") for position, image in enumerate(images)]
        if len(self._items) == 0:
            raise InvalidInput("images: the batch is empty")

    def __len__(self) -> int:
        return len(self._items)

    @property
    def needs_shape(self) -> bool:
        """Whether there are pictures, which must be scaled."""
        return not all(isinstance(item, np.ndarray) for item in self._items)

    def to_array(self, input_shape: tuple[int, ...] | None) -> NDArray[np.uint8]:
        """All of it as uint8 [B, C, H, W]; pictures are read now and scaled to *input_shape* [C, H, W].

        Raises `InvalidInput` for a picture that cannot be read, and for arrays of different shapes.
        """
        if isinstance(self._items, np.ndarray):
            return self._items
        arrays: list[NDArray[np.uint8]] = []
        for position, item in enumerate(self._items):
            array = item if isinstance(item, np.ndarray) else _read(item, position, input_shape)
            if arrays and array.shape != arrays[0].shape:
                raise InvalidInput(f"image {position}: shape is {array.shape}, that of image 0 is {arrays[0].shape}")
            arrays.append(array)
        return np.stack(arrays)


def _read(picture: Picture, position: int, input_shape: tuple[int, ...] | None) -> NDArray[np.uint8]:
    assert input_shape is not None, "whoever has pictures asks for the input shape first"
    name = str(picture) if isinstance(picture, str | PathLike) else f"image {position}"
    return read_picture(picture, input_shape, name)


def _checked(image: Image, what: str) -> NDArray[np.uint8] | Picture:
    """*image*, a grey array with its channel; `InvalidInput` for what is no image."""
    from PIL import Image as PilImages

    if isinstance(image, np.ndarray):
        _check_dtype(image, what)
        if image.ndim == 2:
            return image[None]
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise InvalidInput(f"{what}: shape is {image.shape}; {_IMAGE}")
        return image
    if not isinstance(image, str | PathLike | PilImages.Image):
        raise InvalidInput(f"{what} is {_shown(image)}: {_IMAGE}")
    return image


def _check_dtype(array: NDArray[np.generic], what: str) -> None:
    if array.dtype != np.uint8:
        raise InvalidInput(f"{what}: dtype is {array.dtype}, it must be uint8 (pixels 0 to 255)")


def _shown(value: object) -> str:
    """*value* for a message, however large it is."""
    return f"{value!r:.80} ({type(value).__name__})"
