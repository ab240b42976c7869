"""What every codec promises, and the bytes that travel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput, TooLarge

__all__ = ["Array", "Codec", "Payload", "Sendable", "check_payload"]

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Payload:
    """A batch of *shape* [B, …] as the bytes that *codec* (its name) made of it, in *version* of its layout."""

    codec: str
    version: int
    shape: tuple[int, ...]
    data: bytes


class Codec(Protocol):
    """A tensor at a cut to bytes and back. Samples do not depend on each other, so a batch decodes like its parts."""

    @property
    def name(self) -> str:
        """How the codec is asked for, on the command line and on the wire."""

    @property
    def version(self) -> int:
        """Of the layout of its bytes; another one is refused."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of what it encodes: uint8 for images (cut 0), float32 for feature maps."""

    @property
    def lossless(self) -> bool:
        """Whether what is decoded equals what was encoded, bit for bit."""

    def encode(self, batch: Array) -> Payload:
        """*batch* [B, …] as bytes; `InvalidInput` for what the codec does not carry, a NaN or an infinity included."""

    def decode(self, payload: Payload, sample_shape: tuple[int, ...], max_batch: int) -> Array:
        """The batch that *payload* stands for, at most *max_batch* samples of *sample_shape*.

        Raises `InvalidInput` or `TooLarge`, before anything is allocated by the sender's word, for a payload of
        another codec, version or shape, or whose bytes do not add up.
        """

    def error_bound(self, batch: Array) -> NDArray[np.float64]:
        """The most that each decoded value may differ from *batch*; broadcasts against it. Infinite: no bound."""


def check_payload(payload: Payload, codec: Codec, sample_shape: tuple[int, ...], max_batch: int) -> int:
    """How many values *payload* stands for; raises as `Codec.decode` does if its head is not what is expected."""
    if payload.codec != codec.name:
        raise InvalidInput(f"the payload is of codec {payload.codec!r}, not {codec.name!r}")
    if payload.version != codec.version:
        raise InvalidInput(f"the payload is of version {payload.version} of {codec.name}, this is {codec.version}")
    if len(payload.shape) != 1 + len(sample_shape) or payload.shape[1:] != sample_shape or payload.shape[0] < 1:
        raise InvalidInput(
            f"the payload has shape {payload.shape}, it must be (batch, {', '.join(map(str, sample_shape))})"
        )
    if payload.shape[0] > max_batch:
        raise TooLarge(f"the payload holds {payload.shape[0]} samples, at most {max_batch} are accepted")
    return math.prod(payload.shape)


# A tensor as it is, or what a codec made of it.
Sendable = NDArray[np.generic] | Payload
