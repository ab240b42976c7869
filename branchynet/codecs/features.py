"""Feature maps as fp32, fp16, or 8 or 4 bits a value with a range for each channel.

    values ──quantise──► codes ──mask──► codes that are not zero ──zstd──► bytes

Which of the three steps are taken is the codec's name: `fp32`, `uint8+zstd`, `uint4-calibrated+mask+zstd`. ReLU leaves
about half of a map at zero, and a range that starts at zero keeps those values exactly zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from branchynet.codecs import packing
from branchynet.codecs.payload import Array, Payload, check_payload
from branchynet.codecs.ranges import FixedRanges, by_channel, channels_of, pack_ranges, sample_ranges, unpack_ranges
from branchynet.errors import InvalidInput

__all__ = ["VALUES", "FeatureCodec", "Values"]

Values = Literal["fp32", "fp16", "uint8", "uint4"]
VALUES: tuple[Values, ...] = ("fp32", "fp16", "uint8", "uint4")
_LEVELS = {"uint8": 255, "uint4": 15}
# What float32 arithmetic adds to half a step: a few roundings of values as large as the range.
_ROUNDING = 2.0**-21
_SMALLEST = float(np.finfo(np.float32).tiny)

_Floats = NDArray[np.float32]
_Codes = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class FeatureCodec:
    """float32 maps [B, …] as *values*; without zeros if *mask*, through zstd if *zstd*.

    uint8 and uint4 find a range for each channel of each sample and send it along, or use the *calibrated* one, whose
    *ranges* both ends must have (they belong to a cut, so a codec that was only named has none yet).
    """

    values: Values
    # On small maps the mask is as short as zstd, and any client reads it without a library; both together buy nothing.
    mask: bool = False
    zstd: bool = False
    calibrated: bool = False
    ranges: FixedRanges | None = None

    version = 1
    dtype = np.dtype(np.float32)

    def __post_init__(self) -> None:
        if self.calibrated and self.values not in _LEVELS:
            raise InvalidInput(f"{self.values} has no ranges to calibrate; {', '.join(_LEVELS)} do")

    @cached_property
    def name(self) -> str:
        """See `Codec`."""
        return self.values + "-calibrated" * self.calibrated + "+mask" * self.mask + "+zstd" * self.zstd

    @property
    def lossless(self) -> bool:
        """See `Codec`."""
        return self.values == "fp32"

    def encode(self, batch: Array) -> Payload:
        """See `Codec`."""
        if batch.dtype != np.float32 or not batch.size:
            raise InvalidInput(f"{self.name} carries float32 maps, this is {batch.dtype} of shape {batch.shape}")
        floats = np.ascontiguousarray(cast(_Floats, batch))
        head, codes = self._quantise(floats)
        body = self._pack(codes.reshape(-1))
        return Payload(self.name, self.version, batch.shape, head + (packing.compress(body) if self.zstd else body))

    def decode(self, payload: Payload, sample_shape: tuple[int, ...], max_batch: int) -> Array:
        """See `Codec`."""
        count = check_payload(payload, self, sample_shape, max_batch)
        data = payload.data
        if self.values not in _LEVELS:
            return (
                self._unpack(data, count)
                .view("<f4" if self.values == "fp32" else "<f2")
                .astype(np.float32, copy=False)
                .reshape(payload.shape)
            )
        channels = channels_of(sample_shape)
        low, high, taken = self._read_ranges(data, payload.shape[0], channels)
        codes = self._unpack(data[taken:], count).reshape(payload.shape[0], channels, -1)
        floats = codes.astype(np.float32)
        floats *= self._steps(low, high)[:, :, None]
        if low.any():
            floats += low[:, :, None]
        return floats.reshape(payload.shape)

    def error_bound(self, batch: Array) -> NDArray[np.float64]:
        """See `Codec`: half a step; for fp16 half of its last place; what calibrated ranges clip comes on top."""
        floats = cast(_Floats, batch)
        if self.values == "fp32":
            return np.zeros((1,) * batch.ndim)
        if self.values == "fp16":
            return np.asarray(np.abs(floats).astype(np.float64) * 2.0**-11 + 2.0**-25)
        channels = by_channel(floats)
        low, high = self._ranges(channels)
        within = self._steps(low, high).astype(np.float64) / 2 + np.maximum(high, -low) * _ROUNDING + 256 * _SMALLEST
        beyond = np.maximum(np.maximum(channels - high[:, :, None], low[:, :, None] - channels), 0)
        bound: NDArray[np.float64] = (within[:, :, None] + beyond).reshape(batch.shape)
        return bound

    def _quantise(self, floats: _Floats) -> tuple[bytes, _Codes]:
        """What goes before the codes, and the codes in the order of the values."""
        if self.values not in _LEVELS:
            with np.errstate(over="ignore"):
                halves = floats if self.values == "fp32" else floats.astype(np.float16)
            if not np.isfinite(halves).all():
                raise InvalidInput(
                    f"the map holds values from {floats.min()} to {floats.max()}, which {self.name} cannot carry"
                )
            return b"", halves.astype(halves.dtype.newbyteorder("<"), copy=False).view(f"<u{halves.itemsize}")
        channels = by_channel(floats)
        low, high = self._ranges(channels)
        steps = self._steps(low, high)
        # A channel whose range is next to nothing is sent as zeros, instead of dividing by it.
        codes_per_unit = np.divide(1, steps, out=np.zeros_like(steps), where=steps >= _SMALLEST)[:, :, None]
        scaled = (channels - low[:, :, None] if low.any() else channels) * codes_per_unit
        if self.calibrated:
            np.clip(scaled, 0, _LEVELS[self.values], out=scaled)
        np.rint(scaled, out=scaled)
        head = self._fixed.mark if self.calibrated else pack_ranges(low, high)
        return head, scaled.astype(np.uint8)

    def _pack(self, codes: _Codes) -> bytes:
        mask = b""
        if self.mask:
            bits, codes = packing.mask_zeros(codes)
            mask = bits.tobytes()
        if self.values == "uint4":
            codes = packing.pack_nibbles(codes.astype(np.uint8, copy=False))
        return mask + codes.tobytes()

    def _unpack(self, data: bytes, count: int) -> _Codes:
        """The *count* codes in *data*; `InvalidInput` if it does not hold exactly them."""
        bits = {"fp32": 32, "fp16": 16, "uint8": 8, "uint4": 4}[self.values]
        mask_bytes = math.ceil(count / 8) if self.mask else 0
        most = mask_bytes + math.ceil(count * bits / 8)
        if self.zstd:
            data = packing.decompress(data, most)
        if len(data) > most or len(data) < (mask_bytes or most):
            raise InvalidInput(
                f"{count} values of {self.name} take {most} bytes{' or less' * self.mask}, {len(data)} came"
            )
        present = count
        mask = np.frombuffer(data, np.uint8, mask_bytes)
        if self.mask:
            present = int(np.count_nonzero(np.unpackbits(mask)[:count]))
        body = np.frombuffer(data, np.uint8, offset=mask_bytes)
        if len(body) != math.ceil(present * bits / 8):
            raise InvalidInput(
                f"{present} values of {self.values} take {math.ceil(present * bits / 8)} bytes, {len(body)} came"
            )
        codes: _Codes = packing.unpack_nibbles(body, present) if bits == 4 else body.view(f"<u{bits // 8}")
        return packing.unmask_zeros(mask, codes, count) if self.mask else codes

    @property
    def _fixed(self) -> FixedRanges:
        if self.ranges is None:
            raise InvalidInput(f"{self.name} needs ranges that were calibrated at this cut; the artifact has none")
        return self.ranges

    def _ranges(self, channels: _Floats) -> tuple[_Floats, _Floats]:
        if not self.calibrated:
            return sample_ranges(channels)
        low, high = self._fixed.arrays
        if low.shape[1] != channels.shape[1]:
            raise InvalidInput(f"the map has {channels.shape[1]} channels, {low.shape[1]} ranges were calibrated")
        if not np.isfinite(channels).all():
            raise InvalidInput(f"the map holds {channels.min()} to {channels.max()}; its values must be finite")
        return low, high

    def _read_ranges(self, data: bytes, samples: int, channels: int) -> tuple[_Floats, _Floats, int]:
        if not self.calibrated:
            low, high, taken = unpack_ranges(data, samples * channels)
            return low.reshape(samples, channels), high.reshape(samples, channels), taken
        mark = self._fixed.mark
        if data[: len(mark)] != mark:
            raise InvalidInput(
                f"the payload was made with ranges {data[: len(mark)].hex()}, here they are {mark.hex()}"
            )
        return *self._fixed.arrays, len(mark)

    def _steps(self, low: _Floats, high: _Floats) -> _Floats:
        return (high - low) / np.float32(_LEVELS[self.values])
