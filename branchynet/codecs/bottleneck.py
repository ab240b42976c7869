"""A small trained encoder at the edge and its decoder in the cloud: the codec that knows what the deeper layers need.

    map ──convolutions──► a few channels ──round──► levels ──entropy──► bytes ──► levels ──convolutions──► map

Only the levels cross the cut, as integers, so edge and cloud need not compute alike; the decoder runs in one place.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from branchynet.codecs.entropy import MARK_BYTES, LevelTables
from branchynet.codecs.payload import Array, Payload, check_payload
from branchynet.errors import InvalidInput

__all__ = ["BOTTLENECK", "BottleneckCodec", "BottleneckShape", "Halves"]

BOTTLENECK = "bottleneck"
_LENGTH = struct.Struct("<H")
# A length of two bytes must be able to say what any levels take.
_MOST_PLACES = 32_000


@dataclass(frozen=True, slots=True)
class BottleneckShape:
    """What a bottleneck is made of, for maps [C, H, W] of *map_shape*.

    The encoder is a convolution of *kernel* and *stride*, to *hidden* channels and from there to *channels* (0: to
    *channels* at once), each value then one of *levels*. The decoder has *width* channels, in *blocks* residual
    blocks. *positive*: the map has no negative values. Raises `InvalidInput` for what cannot be made.
    """

    map_shape: tuple[int, int, int]
    channels: int
    levels: int
    kernel: int = 3
    stride: int = 1
    hidden: int = 0
    width: int = 32
    blocks: int = 0
    positive: bool = True

    def __post_init__(self) -> None:
        if len(self.map_shape) != 3 or min(self.map_shape) < 1:
            raise InvalidInput(f"a bottleneck is for maps of channels, height and width, not {self.map_shape}")
        least = {"channels": 1, "levels": 2, "kernel": 1, "stride": 1, "hidden": 0, "width": 1, "blocks": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise InvalidInput(f"{name} is {getattr(self, name)}; it must be at least {lowest}")
        if self.levels > 256 or self.kernel % 2 == 0 or self.stride > self.kernel:
            raise InvalidInput(
                f"levels {self.levels}, kernel {self.kernel}, stride {self.stride}: there are at most 256 levels, "
                "kernels are odd and no smaller than the stride"
            )
        if self.places > _MOST_PLACES:
            raise InvalidInput(f"codes {self.code_shape} have {self.places} places; at most {_MOST_PLACES} are sent")

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Of the levels of one map: channels, height, width."""
        _, height, width = self.map_shape
        return self.channels, -(-height // self.stride), -(-width // self.stride)

    @property
    def places(self) -> int:
        """How many levels one map becomes."""
        channels, height, width = self.code_shape
        return channels * height * width


class Halves(Protocol):
    """The trained part, whatever runs it: see `branchynet.codecs.learned`."""

    def levels(self, features: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The levels [N] of one map, float32 [C, H, W] and finite."""
        ...

    def features(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The map, float32 [C, H, W], that the levels [N] stand for."""
        ...


@dataclass(frozen=True, eq=False)
class BottleneckCodec:
    """float32 maps [B, C, H, W] through *halves* of *shape*; both ends must have the weights of SHA-256 *digest*."""

    shape: BottleneckShape
    halves: Halves
    tables: LevelTables
    digest: str

    name = BOTTLENECK
    version = 1
    dtype = np.dtype(np.float32)
    lossless = False

    def __post_init__(self) -> None:
        expected = (self.shape.places, self.shape.levels)
        if self.tables.frequencies.shape != expected:
            raise InvalidInput(f"the levels' frequencies are {self.tables.frequencies.shape}, not {expected}")

    @cached_property
    def mark(self) -> bytes:
        """Four bytes that differ for another shape or other weights: halves that were trained apart do not talk."""
        text = json.dumps([asdict(self.shape), self.digest], sort_keys=True)
        mark = bytearray(hashlib.sha256(text.encode()).digest()[:MARK_BYTES])
        mark[-1] |= 0x80  # the codes grow from it, and must not begin small
        return bytes(mark)

    def encode(self, batch: Array) -> Payload:
        """See `Codec`."""
        if batch.dtype != np.float32 or batch.shape[1:] != self.shape.map_shape or not len(batch):
            raise InvalidInput(
                f"{self.name} carries float32 maps {self.shape.map_shape}, this is {batch.dtype} of shape {batch.shape}"
            )
        if not np.isfinite(batch).all():
            raise InvalidInput(f"the map holds {batch.min()} to {batch.max()}; its values must be finite")
        # One by one, for how a convolution rounds depends on the size of its batch.
        maps = cast(NDArray[np.float32], batch)
        coded = [self.tables.encode(self.halves.levels(sample), self.mark) for sample in maps]
        lengths = b"".join(_LENGTH.pack(len(data)) for data in coded[:-1])
        return Payload(self.name, self.version, batch.shape, lengths + b"".join(coded))

    def decode(self, payload: Payload, sample_shape: tuple[int, ...], max_batch: int) -> Array:
        """See `Codec`."""
        if self.shape.map_shape != sample_shape:
            raise InvalidInput(f"the bottleneck is for maps {self.shape.map_shape}, here they are {sample_shape}")
        check_payload(payload, self, sample_shape, max_batch)
        levels = [self.tables.decode(data, self.mark) for data in _samples(payload.data, payload.shape[0])]
        return np.stack([self.halves.features(sample) for sample in levels])

    def error_bound(self, batch: Array) -> NDArray[np.float64]:
        """See `Codec`; there is none: what is kept is what the deeper layers answer by."""
        return np.full((1,) * batch.ndim, np.inf)


def _samples(data: bytes, count: int) -> Iterator[bytes]:
    """The bytes of each of *count* samples; `InvalidInput` if their lengths do not fit *data*."""
    start = _LENGTH.size * (count - 1)
    if len(data) < start:
        raise InvalidInput(f"the payload ends before the lengths of {count} samples")
    for index in range(count - 1):
        (length,) = _LENGTH.unpack_from(data, index * _LENGTH.size)
        if len(data) < start + length:
            raise InvalidInput(f"sample {index} of {count} has {length} bytes, the payload ends before them")
        yield data[start : start + length]
        start += length
    yield data[start:]
