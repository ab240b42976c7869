"""What a sweep tries, as text: `uplink=0.25:100:log9 rtt=5,20,80 cut=* threshold=*`.

    AXIS=a,b,c          these values
    AXIS=lo:hi:logN     N values from lo to hi, each the same factor above the one before; linN: the same step
    AXIS=*              every value that makes sense (cut, threshold)

Ranges may stand in lists: `rtt=0,5:80:log5`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from branchynet.errors import InvalidInput

__all__ = ["AXES", "Axis", "parse_axes", "parse_axis"]

MAX_VALUES = 1_000


@dataclass(frozen=True, slots=True)
class _Kind:
    """*lowest*: a value must lie above it, or reach it if *reaches*. *starred*: `*` means something."""

    lowest: float
    reaches: bool = True
    whole: bool = False
    starred: bool = False


AXES = {
    "uplink": _Kind(0, reaches=False),
    "rtt": _Kind(0),
    "cut": _Kind(0, whole=True, starred=True),
    "threshold": _Kind(-math.inf, starred=True),
    "edges": _Kind(1, whole=True),
    "rate": _Kind(0, reaches=False),
    "slowdown": _Kind(0, reaches=False),
    "max_batch": _Kind(1, whole=True),
}


@dataclass(frozen=True, slots=True)
class Axis:
    """One of `AXES` and its *values*, without repeats in the order given; None stands for `*`."""

    name: str
    values: tuple[float, ...] | None


def parse_axes(texts: Iterable[str]) -> dict[str, Axis]:
    """The axes in *texts* by name. Raises `InvalidInput`, naming the text, for what is none or comes twice."""
    axes: dict[str, Axis] = {}
    for text in texts:
        axis = parse_axis(text)
        if axis.name in axes:
            raise InvalidInput(f"{text!r}: {axis.name} is given twice; one list may hold all values")
        axes[axis.name] = axis
    return axes


def parse_axis(text: str) -> Axis:
    """The axis in *text*. Raises `InvalidInput`, naming the text."""
    name, equals, listed = text.partition("=")
    if not equals or name not in AXES:
        raise InvalidInput(f"{text!r} is no axis; it must be NAME=VALUES with NAME one of {', '.join(AXES)}")
    kind = AXES[name]
    if listed == "*":
        if not kind.starred:
            raise InvalidInput(f"{text!r}: {name} has no end of values; give a list or a range, say {name}=1:100:log5")
        return Axis(name, None)
    values: list[float] = []
    for part in listed.split(","):
        values += _range(part, text) if ":" in part else [_number(part, text)]
    if len(values) > MAX_VALUES:
        raise InvalidInput(f"{text!r} has {len(values)} values; {MAX_VALUES} is the most")
    for value in values:
        if kind.whole and value != round(value):
            raise InvalidInput(f"{text!r}: {value:g} is not a whole number")
        if value < kind.lowest or (value == kind.lowest and not kind.reaches):
            raise InvalidInput(f"{text!r}: {value:g} is not {'at least' if kind.reaches else 'above'} {kind.lowest:g}")
    return Axis(name, tuple(dict.fromkeys(values)))


def _range(part: str, text: str) -> list[float]:
    ends = part.split(":")
    spacing = re.fullmatch(r"(log|lin)(\d{1,9})", ends[-1])
    if len(ends) != 3 or spacing is None:
        raise InvalidInput(f"{text!r}: {part!r} is no range; it must be lo:hi:logN or lo:hi:linN")
    low, high, count = _number(ends[0], text), _number(ends[1], text), int(spacing[2])
    if not low < high:
        raise InvalidInput(f"{text!r}: {part!r} must go up")
    if not 2 <= count <= MAX_VALUES:
        raise InvalidInput(f"{text!r}: {part!r} asks for {count} values; 2 to {MAX_VALUES} are possible")
    if spacing[1] == "log" and low <= 0:
        raise InvalidInput(f"{text!r}: {part!r} grows by a factor, so it must start above 0")
    spaced = np.geomspace(low, high, count) if spacing[1] == "log" else np.linspace(low, high, count)
    # Without the last digits, in which a 5 between 0.25 and 100 would not be one.
    return [float(f"{value:.12g}") for value in spaced]


def _number(part: str, text: str) -> float:
    try:
        value = float(part)
    except ValueError:
        raise InvalidInput(f"{text!r}: {part!r} is not a number") from None
    if not math.isfinite(value):
        raise InvalidInput(f"{text!r}: {part!r} is not a finite number")
    return value
