"""How the tensor at a cut becomes bytes, and comes back with a stated error.

A codec is asked for by its name; the name, the version of its layout and the shape travel with the bytes. Names:

    fp32 fp16 uint8 uint4               feature maps; uint8 and uint4 take a range for each channel of each sample,
      -calibrated  +mask  +zstd         or the artifact's calibrated one; zeros left out; zstd (all optional)
    bottleneck                          feature maps, by the encoder and decoder that were trained for this cut
    raw raw+zstd png webp               the uint8 image itself (cut 0), lossless
    jpeg-90 webp-80                     the image at that quality
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import cast

from branchynet.codecs.bottleneck import BOTTLENECK
from branchynet.codecs.features import VALUES, FeatureCodec, Values
from branchynet.codecs.images import FORMATS, ImageCodec, ImageFormat, RawCodec
from branchynet.codecs.payload import Codec
from branchynet.codecs.ranges import FixedRanges
from branchynet.errors import InvalidInput

__all__ = ["check_cut", "is_calibrated", "named_codec"]

_FEATURES = re.compile(rf"({'|'.join(VALUES)})(-calibrated)?(\+mask)?(\+zstd)?")
_IMAGES = re.compile(rf"({'|'.join(FORMATS)})(?:-(\d{{1,3}}))?")


def named_codec(name: str, ranges: FixedRanges | None = None, bottleneck: Codec | None = None) -> Codec:
    """The codec called *name*, with the calibrated *ranges* of the cut it is for, or that cut's own *bottleneck*.

    `InvalidInput` if there is none.
    """
    if name == BOTTLENECK:
        if bottleneck is None:
            raise InvalidInput(
                "no bottleneck was trained for this cut of the artifact (`branchynet train --bottleneck`)"
            )
        return bottleneck
    codec = _named(name)
    return replace(codec, ranges=ranges) if isinstance(codec, FeatureCodec) and codec.calibrated else codec


def is_calibrated(codec: Codec) -> bool:
    """Whether *codec* goes by ranges that both ends must know."""
    return isinstance(codec, FeatureCodec) and codec.calibrated


def check_cut(codec: Codec, cut: int) -> None:
    """Raise `InvalidInput` unless *codec* carries what there is at *cut*: images at cut 0, feature maps behind it."""
    if (codec.dtype == "uint8") != (cut == 0):
        there = "uint8 images" if cut == 0 else "float32 feature maps"
        raise InvalidInput(f"codec {codec.name} carries {codec.dtype}, at cut {cut} there are {there}")


@lru_cache
def _named(name: str) -> Codec:
    if name in ("raw", "raw+zstd"):
        return RawCodec(zstd="+" in name)
    if match := _FEATURES.fullmatch(name):
        values, calibrated, mask, zstd = match.groups()
        return FeatureCodec(cast(Values, values), bool(mask), bool(zstd), bool(calibrated))
    if match := _IMAGES.fullmatch(name):
        kind, quality = match.groups()
        return ImageCodec(cast(ImageFormat, kind), None if quality is None else int(quality))
    raise InvalidInput(
        f"codec {name[:64]!r} is unknown; for feature maps there are {', '.join(VALUES)}, each with -calibrated, "
        "+mask and +zstd, and bottleneck, for images raw, raw+zstd, png, webp, webp-QUALITY and jpeg-QUALITY"
    )
