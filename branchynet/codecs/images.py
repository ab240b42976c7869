"""The image itself, for cut 0: as it is, or as an image file for each sample. What every other codec has to beat."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from branchynet.codecs import packing
from branchynet.codecs.payload import Array, Payload, check_payload
from branchynet.errors import InvalidInput

__all__ = ["FORMATS", "ImageCodec", "ImageFormat", "RawCodec"]

ImageFormat = Literal["png", "webp", "jpeg"]
FORMATS: tuple[ImageFormat, ...] = ("png", "webp", "jpeg")
_MODES = {1: "L", 3: "RGB"}
_LENGTH = struct.Struct("<I")
_Images = NDArray[np.uint8]


def _check_images(batch: Array, name: str) -> _Images:
    if batch.dtype != np.uint8 or not batch.size:
        raise InvalidInput(f"{name} carries uint8 images, this is {batch.dtype} of shape {batch.shape}")
    return cast(_Images, batch)


@dataclass(frozen=True)
class RawCodec:
    """uint8 images [B, C, H, W] as they are, through zstd if *zstd*."""

    zstd: bool = False

    version = 1
    dtype = np.dtype(np.uint8)
    lossless = True

    @cached_property
    def name(self) -> str:
        """See `Codec`."""
        return "raw" + "+zstd" * self.zstd

    def encode(self, batch: Array) -> Payload:
        """See `Codec`."""
        data = _check_images(batch, self.name).tobytes()
        return Payload(self.name, self.version, batch.shape, packing.compress(data) if self.zstd else data)

    def decode(self, payload: Payload, sample_shape: tuple[int, ...], max_batch: int) -> Array:
        """See `Codec`."""
        count = check_payload(payload, self, sample_shape, max_batch)
        data = packing.decompress(payload.data, count) if self.zstd else payload.data
        if len(data) != count:
            raise InvalidInput(f"images of shape {payload.shape} take {count} bytes, {len(data)} came")
        return np.frombuffer(data, np.uint8).reshape(payload.shape)

    def error_bound(self, batch: Array) -> NDArray[np.float64]:
        """See `Codec`."""
        return np.zeros((1,) * batch.ndim)


@dataclass(frozen=True)
class ImageCodec:
    """uint8 images [B, C, H, W], grey or RGB, as a file of *kind* each; *quality* 1 … 100, or None for lossless."""

    kind: ImageFormat
    quality: int | None = None

    version = 1
    dtype = np.dtype(np.uint8)

    def __post_init__(self) -> None:
        if self.quality is not None and (self.kind == "png" or not 1 <= self.quality <= 100):
            raise InvalidInput(f"{self.kind} of quality {self.quality}: it must be 1 to 100, and png has none")
        if self.kind == "jpeg" and self.quality is None:
            raise InvalidInput("jpeg needs a quality, as in jpeg-90")

    @cached_property
    def name(self) -> str:
        """See `Codec`."""
        return self.kind if self.quality is None else f"{self.kind}-{self.quality}"

    @property
    def lossless(self) -> bool:
        """See `Codec`."""
        return self.quality is None

    def encode(self, batch: Array) -> Payload:
        """See `Codec`."""
        images = _check_images(batch, self.name)
        if images.ndim != 4 or images.shape[1] not in _MODES:
            raise InvalidInput(f"{self.name} carries images of 1 or 3 channels, this has shape {batch.shape}")
        files = [self._file(image) for image in images]
        return Payload(self.name, self.version, batch.shape, b"".join(_LENGTH.pack(len(f)) + f for f in files))

    def decode(self, payload: Payload, sample_shape: tuple[int, ...], max_batch: int) -> Array:
        """See `Codec`."""
        check_payload(payload, self, sample_shape, max_batch)
        images = np.empty(payload.shape, np.uint8)
        for image, file in zip(images, _files(payload.data, payload.shape[0]), strict=True):
            image[:] = self._pixels(file, image.shape)
        return images

    def error_bound(self, batch: Array) -> NDArray[np.float64]:
        """See `Codec`; the formats promise none where they lose something."""
        return np.full((1,) * batch.ndim, 0.0 if self.lossless else np.inf)

    def _file(self, image: _Images) -> bytes:
        from PIL import Image  # takes a while, and most programs that load codecs send no image

        grey = image.shape[0] == 1
        opened = Image.fromarray(image[0] if grey else np.ascontiguousarray(image.transpose(1, 2, 0)))
        options: dict[str, object] = {} if self.quality is None else {"quality": self.quality}
        if self.kind == "webp":
            options["lossless"] = self.lossless
        file = io.BytesIO()
        opened.save(file, format=self.kind, **options)
        return file.getvalue()

    def _pixels(self, file: bytes, shape: tuple[int, ...]) -> _Images:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(file), formats=[self.kind.upper()]) as opened:
                if opened.size != (shape[2], shape[1]):
                    raise InvalidInput(f"the {self.kind} has {opened.size} pixels, it must have {(shape[2], shape[1])}")
                if opened.mode not in _MODES.values():  # of 16 bits or with clear pixels: no encoder of ours makes it
                    raise InvalidInput(f"the {self.kind} has mode {opened.mode}, it must be one of 8 bits, grey or RGB")
                pixels = np.asarray(opened.convert(_MODES[shape[0]]))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InvalidInput(f"{len(file)} bytes of the payload are no {self.kind}: {error}") from None
        return pixels[None] if shape[0] == 1 else pixels.transpose(2, 0, 1)


def _files(data: bytes, count: int) -> Iterator[bytes]:
    """The *count* files in *data*, each behind its length; `InvalidInput` if they do not add up to it."""
    start = 0
    for index in range(count):
        if len(data) < start + _LENGTH.size:
            raise InvalidInput(f"the payload ends before the length of image {index} of {count}")
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size + length
        if len(data) < start:
            raise InvalidInput(f"image {index} of {count} has {length} bytes, the payload ends before them")
        yield data[start - length : start]
    if len(data) != start:
        raise InvalidInput(f"{len(data) - start} bytes follow the last image")
