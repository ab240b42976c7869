"""How a picture of any size and colour becomes the pixels that a network takes: a plain value, part of an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NotRequired

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from branchynet.errors import InvalidInput

__all__ = ["Interpolation", "Preprocessing", "PreprocessingEntry", "Resize"]

WHITE = (255, 255, 255)


class Resize(StrEnum):
    """What becomes of a picture whose sides are not in the network's proportion.

    `STRETCH` squeezes it, `CROP` scales its shorter side and cuts the middle out, `PAD` scales its longer side and
    fills up with the ground.
    """

    STRETCH = "stretch"
    CROP = "crop"
    PAD = "pad"


class Interpolation(StrEnum):
    """Pillow's filters; when a picture shrinks, all but `NEAREST` look at every pixel (antialiasing)."""

    NEAREST = "nearest"
    BOX = "box"
    BILINEAR = "bilinear"
    HAMMING = "hamming"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class PreprocessingEntry(TypedDict):
    """The fields of `Preprocessing` in JSON."""

    resize: str
    interpolation: str
    ground: list[int]
    crop_share: NotRequired[float]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How image files are brought to a network's input shape; pixels that come as arrays are left alone.

    *ground*: red, green and blue, 0..255, of what lies behind clear pixels and around a padded picture. *crop_share*,
    above 0 to 1: how much of each side `CROP` keeps of the middle; 0.875 is what "scale to 256, crop 224" does. The
    words of *resize* and *interpolation* may stand for their members. Raises `InvalidInput` for any other.
    """

    resize: Resize = Resize.STRETCH
    interpolation: Interpolation = Interpolation.BICUBIC
    ground: tuple[int, int, int] = WHITE
    crop_share: float = 1.0

    def __post_init__(self) -> None:
        for name, kind in (("resize", Resize), ("interpolation", Interpolation)):
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, kind(value))
            except ValueError:
                raise InvalidInput(f"{name} is {value!r}; it must be one of {', '.join(kind)}") from None
        if len(self.ground) != 3 or not all(type(part) is int and 0 <= part <= 255 for part in self.ground):
            raise InvalidInput(f"ground is {self.ground}; it must be red, green and blue, each 0 to 255")
        if not 0 < self.crop_share <= 1:
            raise InvalidInput(f"crop_share is {self.crop_share}; it must be above 0 and at most 1")
        if self.crop_share != 1 and self.resize is not Resize.CROP:
            raise InvalidInput(f"crop_share is {self.crop_share}, which only resize crop has, not {self.resize}")

    def to_json(self) -> PreprocessingEntry:
        """The entry in a manifest."""
        entry = PreprocessingEntry(
            resize=self.resize.value, interpolation=self.interpolation.value, ground=list(self.ground)
        )
        if self.crop_share != 1:
            entry["crop_share"] = self.crop_share
        return entry

    @classmethod
    def of(cls, resize: str, interpolation: str, ground: Sequence[int], crop_share: float = 1.0) -> Preprocessing:
        """The value with the fields of a manifest or a message; `InvalidInput` for what this version does not know."""
        return cls(resize, interpolation, tuple(ground), crop_share)  # type: ignore[arg-type]
