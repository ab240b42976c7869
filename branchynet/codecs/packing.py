"""Codes to fewer bytes without loss: two to a byte, zeros out, zstd. Sizes are checked before anything is unpacked."""

from __future__ import annotations

import sys
import threading

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["compress", "decompress", "mask_zeros", "pack_nibbles", "unmask_zeros", "unpack_nibbles"]

# The fastest setting: more effort buys about one byte in a hundred on feature maps (docs/results/codecs.md).
ZSTD_LEVEL = 1

_Codes = NDArray[np.unsignedinteger]
_Bytes = NDArray[np.uint8]


class _Zstd(threading.local):
    """One compressor a thread: they may not be shared, and making one takes longer than a small map."""

    def __init__(self) -> None:
        self.compressor = zstd.ZstdCompressor(level=ZSTD_LEVEL)


_zstd = _Zstd()


def compress(data: bytes) -> bytes:
    """*data* as one zstd frame with its size."""
    return _zstd.compressor.compress(data, zstd.ZstdCompressor.FLUSH_FRAME)


def decompress(data: bytes, max_bytes: int) -> bytes:
    """What `compress` was given; `InvalidInput` if it is no such frame or holds more than *max_bytes*."""
    try:
        size = zstd.get_frame_info(data).decompressed_size
        if size is None or size > max_bytes:
            raise InvalidInput(f"the zstd frame announces {size} bytes, its shape allows 0 to {max_bytes}")
        decompressor = zstd.ZstdDecompressor()
        # One byte more than announced is asked for, so that a frame that holds more than it announces is seen.
        plain = decompressor.decompress(data, max_length=size + 1)
    except zstd.ZstdError as error:
        raise InvalidInput(f"the payload's {len(data)} bytes are no zstd frame: {error}") from None
    if not decompressor.eof or decompressor.unused_data or len(plain) != size:
        raise InvalidInput(f"the payload's {len(data)} bytes are not one whole zstd frame of {size} bytes")
    return plain


def pack_nibbles(codes: _Bytes) -> _Bytes:
    """Codes 0 … 15, uint8 [n], two to a byte, the first in the low half: uint8 [⌈n/2⌉]."""
    if len(codes) % 2:
        codes = np.append(codes, np.uint8(0))
    return codes[::2] | (codes[1::2] << np.uint8(4))


def unpack_nibbles(packed: _Bytes, count: int) -> _Bytes:
    """The *count* codes in *packed*; `InvalidInput` for another number of bytes than they take."""
    if len(packed) != (count + 1) // 2:
        raise InvalidInput(f"{count} codes of four bits take {(count + 1) // 2} bytes, {len(packed)} came")
    codes = np.empty(2 * len(packed), np.uint8)
    codes[::2] = packed & 15
    codes[1::2] = packed >> 4
    return codes[:count]


def mask_zeros(codes: _Codes) -> tuple[_Bytes, _Codes]:
    """One bit for each of *codes* [n], set if it is not zero, uint8 [⌈n/8⌉], and those that are not."""
    present = codes != 0
    return np.packbits(present), codes[present]


def unmask_zeros(mask: _Bytes, present: _Codes, count: int) -> _Codes:
    """The *count* codes; `InvalidInput` if *mask* announces another number than *present* holds."""
    places = np.unpackbits(mask)[:count].view(np.bool_)
    if (announced := int(np.count_nonzero(places))) != len(present):
        raise InvalidInput(f"the mask announces {announced} codes, {len(present)} came")
    codes = np.zeros(count, present.dtype)
    codes[places] = present
    return codes
