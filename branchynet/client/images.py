"""What callers hand over as images, made into the uint8 arrays that travel.

Arrays are pixels as the network takes them: they are sent as they are. Image files and PIL images are brought to the
network's input by `branchynet.data.image_files.read_image`, as the artifact's preprocessing says.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from branchynet.data.image_files import ImageFile, read_image
from branchynet.errors import InvalidInput
from branchynet.serving.prediction import ServedModel

__all__ = ["Batch", "Image", "Images"]

Image: TypeAlias = "NDArray[np.uint8] | ImageFile"
Images: TypeAlias = "NDArray[np.uint8] | Iterable[Image]"

_BATCH = "a batch is one uint8 array [B, C, H, W] or a sequence of images"
_IMAGE = "an image is a uint8 array [C, H, W] with C = 1 or 3, a grey one [H, W], a PIL image or the path of a file"


class Batch:
    """Images as a caller gave them, checked as far as they can be by who does not know the network.

    *images*: one uint8 array [B, C, H, W], or a sequence whose items are uint8 arrays [C, H, W] or [H, W] (grey), PIL
    images or paths of image files, in any mixture. A single image is refused: a string is a sequence, too, and three
    sides are either a batch of grey images or one with channels. Raises `InvalidInput` with the value.
    """

    def __init__(self, images: Images) -> None:
        self._items: NDArray[np.uint8] | list[NDArray[np.uint8] | ImageFile]
        if isinstance(images, np.ndarray):
            _check_dtype(images, "images")
            if images.ndim != 4:  # not guessed at: [28, 28, 28] could be a batch in grey or one image of 28 channels
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
    def has_files(self) -> bool:
        """Whether there are image files or PIL images, which must be brought to what is served."""
        return not all(isinstance(item, np.ndarray) for item in self._items)

    def to_array(self, served: ServedModel | None) -> NDArray[np.uint8]:
        """All of it as uint8 [B, C, H, W]; image files are read now and become what *served* takes.

        Raises `InvalidInput` for an image that cannot be read, and for arrays of different shapes.
        """
        if isinstance(self._items, np.ndarray):
            return self._items
        arrays: list[NDArray[np.uint8]] = []
        for position, item in enumerate(self._items):
            array = item if isinstance(item, np.ndarray) else _read(item, position, served)
            if arrays and array.shape != arrays[0].shape:
                raise InvalidInput(f"image {position}: shape is {array.shape}, that of image 0 is {arrays[0].shape}")
            arrays.append(array)
        return np.stack(arrays)


def _read(image: ImageFile, position: int, served: ServedModel | None) -> NDArray[np.uint8]:
    assert served is not None, "whoever has image files asks what is served first"
    name = str(image) if isinstance(image, str | PathLike) else f"image {position}"
    return read_image(image, served.input_shape, served.preprocessing, name)


def _checked(image: Image, what: str) -> NDArray[np.uint8] | ImageFile:
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
