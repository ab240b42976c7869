"""How a manifest's file holds what an artifact's codecs go by: ranges of channels, and bottlenecks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from branchynet.codecs import BottleneckShape, FixedRanges
from branchynet.codecs.bottleneck import ConvolutionShape, TransformShape
from branchynet.codecs.ranges import channels_of
from branchynet.errors import InvalidInput

__all__ = [
    "FREQUENCIES",
    "BottleneckEntry",
    "BottleneckFile",
    "RangesEntry",
    "bottlenecks_from_json",
    "bottlenecks_to_json",
    "ranges_from_json",
    "ranges_to_json",
]

# The tensor in a bottleneck's file with how often each level comes at each place.
FREQUENCIES = "frequencies"


@dataclass(frozen=True)
class BottleneckFile:
    """The file of a bottleneck: what is in it, and its SHA-256."""

    shape: BottleneckShape
    digest: str


class RangesEntry(TypedDict):
    """The lowest and highest value of each channel at a cut."""

    low: list[float]
    high: list[float]


class _AnyEntry(TypedDict):
    sha256: str
    levels: int
    width: int
    blocks: int
    positive: bool


class ConvolutionEntry(_AnyEntry):
    """A bottleneck's file, and the fields of its `ConvolutionShape`."""

    form: Literal["convolution"]
    channels: int
    kernel: int
    stride: int
    hidden: int


class TransformEntry(_AnyEntry):
    """A bottleneck's file, and the fields of its `TransformShape`."""

    form: Literal["transform"]
    kept: int
    side: int


BottleneckEntry = ConvolutionEntry | TransformEntry
_SHAPES: dict[str, type[BottleneckShape]] = {shape.form: shape for shape in (ConvolutionShape, TransformShape)}


def ranges_to_json(kept: Mapping[int, FixedRanges]) -> dict[str, RangesEntry]:
    """*kept*, by cut, for the file."""
    return {str(cut): {"low": list(ranges.low), "high": list(ranges.high)} for cut, ranges in kept.items()}


def ranges_from_json(raw: dict[str, RangesEntry], shapes: list[tuple[int, ...]]) -> dict[int, FixedRanges]:
    """The ranges in the file; `InvalidInput` if they do not fit the *shapes* at the cuts."""
    made = {}
    for text, ends in raw.items():
        cut = _inner_cut(text, "codec_ranges", shapes)
        made[cut] = FixedRanges(tuple(ends["low"]), tuple(ends["high"]))
        channels = channels_of(shapes[cut])
        if len(made[cut].low) != channels:
            raise InvalidInput(f"codec_ranges hold {len(made[cut].low)} channels at cut {cut}, the map has {channels}")
    return made


def bottlenecks_to_json(kept: Mapping[int, BottleneckFile]) -> dict[str, BottleneckEntry]:
    """*kept*, by cut, for the file."""
    return {str(cut): _entry(bottleneck) for cut, bottleneck in kept.items()}


def bottlenecks_from_json(raw: dict[str, BottleneckEntry], shapes: list[tuple[int, ...]]) -> dict[int, BottleneckFile]:
    """The bottlenecks in the file; `InvalidInput` if they do not fit the *shapes* at the cuts."""
    made = {}
    for text, entry in raw.items():
        cut = _inner_cut(text, "bottlenecks", shapes)
        described: dict[str, Any] = {name: value for name, value in entry.items() if name not in ("sha256", "form")}
        shape = _SHAPES[entry["form"]]
        made[cut] = BottleneckFile(shape(map_shape=shapes[cut], **described), entry["sha256"])  # type: ignore[arg-type]
    return made


def _entry(kept: BottleneckFile) -> BottleneckEntry:
    described = asdict(kept.shape)
    del described["map_shape"]  # that of the cut
    return {"sha256": kept.digest, "form": kept.shape.form, **described}  # type: ignore[return-value]


def _inner_cut(text: str, what: str, shapes: list[tuple[int, ...]]) -> int:
    cut = int(text) if text.isdecimal() else 0
    if not 1 <= cut < len(shapes):
        raise InvalidInput(f"{what} are for cut {text!r}; there are cuts 1 to {len(shapes) - 1}")
    return cut
