"""A small trained encoder at the edge and its decoder in the cloud: the codec that knows what the deeper layers need.

    map ──encoder──► a few values ──round──► levels ──entropy──► bytes ──► levels ──decoder──► map

The encoder is a linear transform or convolutions, see `branchynet.codecs.bottleneck_net`. Only the levels cross the
cut, as integers, so edge and cloud need not compute alike; the decoder runs in one place.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from branchynet.codecs.ans import MARK_BYTES, LevelTables
from branchynet.codecs.payload import Array, Payload, check_payload
from branchynet.errors import InvalidInput

__all__ = ["BOTTLENECK", "GROUP", "BottleneckCodec", "BottleneckShape", "ConvolutionShape", "Halves", "TransformShape"]

BOTTLENECK = "bottleneck"
_LENGTH = struct.Struct("<H")
# A length of two bytes must hold the size of any levels.
_MOST_PLACES = 32_000
# Coefficients that vary about as much, and share what is known of how often each level comes.
GROUP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BottleneckShape(ABC):
    """What a bottleneck is made of, for maps [C, H, W] of *map_shape*, whichever form its encoder has.

    Each value that crosses is one of *levels*. The decoder refines in *width* channels and *blocks* residual blocks.
    *positive*: the map has no negative values. Raises `InvalidInput` for what cannot be made.
    """

    map_shape: tuple[int, int, int]
    levels: int
    width: int = 32
    blocks: int = 0
    positive: bool = True

    form: ClassVar[str]
    _least: ClassVar[Mapping[str, int]]

    def __post_init__(self) -> None:
        if len(self.map_shape) != 3 or min(self.map_shape) < 1:
            raise InvalidInput(f"a bottleneck is for maps of channels, height and width, not {self.map_shape}")
        for name, lowest in {"levels": 2, "width": 1, "blocks": 0, **self._least}.items():
            if getattr(self, name) < lowest:
                raise InvalidInput(f"{name} is {getattr(self, name)}; it must be at least {lowest}")
        if self.levels > 256:
            raise InvalidInput(f"levels is {self.levels}; there are at most 256")
        self._check_form()
        if self.places > _MOST_PLACES:
            raise InvalidInput(f"codes {self.code_shape} have {self.places} places; at most {_MOST_PLACES} are sent")

    @abstractmethod
    def _check_form(self) -> None:
        """Raise `InvalidInput` for what this form cannot be."""

    @property
    @abstractmethod
    def code_shape(self) -> tuple[int, ...]:
        """Of the levels of one map; those with the same first index are alike."""

    @property
    def places(self) -> int:
        """How many levels one map becomes."""
        return math.prod(self.code_shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionShape(BottleneckShape):
    """The encoder is a convolution of *kernel* and *stride*, to *hidden* channels and from there to *channels*.

    With *hidden* 0 it goes to *channels* at once.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    hidden: int = 0

    form = "convolution"
    _least = MappingProxyType({"channels": 1, "kernel": 1, "stride": 1, "hidden": 0})

    def _check_form(self) -> None:
        if self.kernel % 2 == 0 or self.stride > self.kernel:
            raise InvalidInput(
                f"kernel {self.kernel}, stride {self.stride}: kernels are odd and no smaller than the stride"
            )

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Of the levels of one map: channels, height, width."""
        _, height, width = self.map_shape
        return self.channels, -(-height // self.stride), -(-width // self.stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformShape(BottleneckShape):
    """The encoder is a linear transform of the whole map: of its rows and columns, then of its channels.

    Of its coefficients the *kept* ones that vary most cross the cut, the most varying first, in groups of 16; of those
    of *side* spatial frequencies each way, if that is not 0.
    """

    kept: int
    side: int = 0

    form = "transform"
    _least = MappingProxyType({"levels": 3, "kept": GROUP, "side": 0})

    def _check_form(self) -> None:
        if self.levels % 2 == 0:
            raise InvalidInput(f"levels is {self.levels}; a transform has an odd number, nothing in the middle")
        if self.kept % GROUP:
            raise InvalidInput(f"kept is {self.kept}; coefficients are kept in groups of {GROUP}")
        if self.kept > math.prod(self.coefficients):
            raise InvalidInput(f"kept is {self.kept}; the transform has {math.prod(self.coefficients)} coefficients")

    @property
    def coefficients(self) -> tuple[int, int, int]:
        """Of one map: vertical and horizontal frequencies, mixed channels."""
        channels, height, width = self.map_shape
        return min(self.side or height, height), min(self.side or width, width), channels

    @property
    def code_shape(self) -> tuple[int, int]:
        """Of the levels of one map: groups, the coefficients of each."""
        return self.kept // GROUP, GROUP


class Halves(Protocol):
    """The trained part, whatever runs it: see `branchynet.codecs.bottleneck_net`."""

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
        # Sample by sample: a convolution rounds by its batch's size, and a batch must decode as its samples alone.
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
