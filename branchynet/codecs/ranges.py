"""Between which values a channel's codes lie: found in each sample, or calibrated once and known at both ends."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

__all__ = ["FixedRanges", "by_channel", "channels_of", "pack_ranges", "sample_ranges", "unpack_ranges"]

Floats = NDArray[np.float32]


def channels_of(sample_shape: tuple[int, ...]) -> int:
    """How many ranges one sample has: its first side, or one where that is all it has."""
    return sample_shape[0] if len(sample_shape) > 1 else 1


def by_channel(batch: Floats) -> Floats:
    """*batch* [B, C, …] as [B, C, K], a view; [B, F], which has no channels, as [B, 1, F]."""
    return batch.reshape(len(batch), channels_of(batch.shape[1:]), -1)


def sample_ranges(channels: Floats) -> tuple[Floats, Floats]:
    """Lowest and highest value of each channel of each sample, float32 [B, C], as wide as `pack_ranges` writes them.

    *channels*: [B, C, K]. A range that lies above zero starts at zero, as ReLU's do, and need not be sent. Raises
    `InvalidInput` for a NaN, an infinity or a range too wide for float32.
    """
    # A range of each sample, not of the batch: no answer depends on its neighbours. Outwards, so that the bound holds.
    highest, lowest = channels.max(axis=2), channels.min(axis=2)
    high = _rounded_up(np.maximum(highest, 0))
    low = np.zeros_like(high) if lowest.min() >= 0 else -_rounded_up(-np.minimum(lowest, 0))
    with np.errstate(over="ignore", invalid="ignore"):
        width = high - low
    # A NaN or an infinity may hide from the width (its upper half may be a number's), but not from the ends.
    if not np.isfinite([highest, lowest, width]).all():
        raise InvalidInput(f"the map holds {lowest.min()} to {highest.max()}; its values must be finite and closer")
    return low, high


def pack_ranges(low: Floats, high: Floats) -> bytes:
    """A byte for whether all ranges start at zero, then the ends as the upper halves of their float32."""
    if not low.any():
        return b"\0" + _halves(high)
    return b"\1" + _halves(low) + _halves(high)


def unpack_ranges(data: bytes, count: int) -> tuple[Floats, Floats, int]:
    """Both ends of *count* ranges, and how many bytes of *data* they took; `InvalidInput` if they are not there."""
    if not data or data[0] > 1:
        raise InvalidInput(f"the payload starts with {data[:1]!r}; it must be 0 or 1")
    ends = 1 + data[0]
    size = 1 + 2 * ends * count
    if len(data) < size:
        raise InvalidInput(f"{count} ranges take {size} bytes, {len(data)} came")
    halves = np.frombuffer(data, "<u2", ends * count, offset=1).astype(np.uint32)
    values = (halves << 16).view(np.float32)
    low, high = (np.zeros(count, np.float32), values) if ends == 1 else (values[:count], values[count:])
    if not np.isfinite(values).all() or (low > 0).any() or (high < 0).any():
        raise InvalidInput(
            f"the payload holds ranges {values.min()} to {values.max()}; they must be finite around zero"
        )
    return low, high, size


@dataclass(frozen=True)
class FixedRanges:
    """Ranges of C channels that both ends know: values outside are clipped, and only their *mark* is sent.

    The mark is a checksum of the ends, so that two calibrations never meet unnoticed.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not self.low:
            raise InvalidInput(f"{len(self.low)} lower and {len(self.high)} upper ends are no ranges")
        ends = np.array([self.low, self.high])
        if not np.isfinite(ends).all() or (ends[0] > 0).any() or (ends[1] < 0).any():
            raise InvalidInput("calibrated ranges must be finite and hold zero")

    @classmethod
    def calibrated(cls, batch: Floats, share: float = 0.9995) -> FixedRanges:
        """The ranges that hold *share* of each channel's values in *batch* [B, C, …], on either side."""
        channels = np.moveaxis(by_channel(batch), 1, 0).reshape(by_channel(batch).shape[1], -1)
        low, high = np.quantile(channels, [1 - share, share], axis=1)
        return cls(tuple(map(float, np.minimum(low, 0))), tuple(map(float, np.maximum(high, 0))))

    @cached_property
    def arrays(self) -> tuple[Floats, Floats]:
        """Both ends, float32 [1, C]."""
        return np.array([self.low], np.float32), np.array([self.high], np.float32)

    @cached_property
    def mark(self) -> bytes:
        """Four bytes that differ for other ranges: an edge and a cloud calibrated apart do not talk."""
        return zlib.crc32(b"".join(end.astype("<f4").tobytes() for end in self.arrays)).to_bytes(4, "little")


def _rounded_up(values: Floats) -> Floats:
    """*values* >= 0 at the precision of half a float32 (that of bfloat16), none of them smaller than before."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)


def _halves(values: Floats) -> bytes:
    return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype("<u2").tobytes()
