"""What the columns of a recorded link are, by their names: which has the times, which the rates, and in what units.

A rate that a column's name gives no unit for is in Mbit/s, a time in s, unless the caller says otherwise; whether the
numbers can be that is for who reads them (`simulations.link.traces`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from branchynet.errors import InvalidInput

__all__ = [
    "RATE_UNITS",
    "TIME_UNITS",
    "Columns",
    "Reading",
    "columns_of",
    "name_columns",
    "rate_unit_of",
    "time_unit_of",
]

# In Mbit/s, and in s.
RATE_UNITS = {"bit/s": 1e-6, "kbit/s": 1e-3, "Mbit/s": 1.0, "Gbit/s": 1e3, "B/s": 8e-6, "kB/s": 8e-3, "MB/s": 8.0}
TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}

_PREFIXES = {"": "", "k": "k", "kilo": "k", "m": "M", "mega": "M", "g": "G", "giga": "G"}
# A prefix in capitals may follow a small letter, as in `throughputMbps`.
_RATE = re.compile(
    r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[KMG]))(?P<prefix>[kKmMgG]|[Kk]ilo|[Mm]ega|[Gg]iga)?"
    r"(?P<unit>[Bb]its?|BITS?|[Bb]ytes?|BYTES?|[Bb])"
    r"(?P<per>[ _]?[pP][sS]|[ _]?(?:/|per|_)[ _]?s(?:ec(?:onds?)?)?)?(?![A-Za-z])"
)
_IN_BRACKETS = re.compile(r"[(\[][^)\]]+[)\]]")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-zµμ]+")
_UNIT_WORDS = {
    "s": {"s", "sec", "secs", "second", "seconds"},
    "ms": {"ms", "msec", "msecs", "millis", "millisecond", "milliseconds"},
    "us": {"us", "µs", "μs", "usec", "micros", "microsecond", "microseconds"},
    "ns": {"ns", "nsec", "nanos", "nanosecond", "nanoseconds"},
    "min": {"min", "mins", "minute", "minutes"},
    "h": {"h", "hour", "hours"},
}
_TIME_WORDS = {"time", "timestamp", "timestamps", "datetime", "epoch", "elapsed", "clock", "t", "ts"}
_RATE_WORDS = {"bitrate", "throughput", "goodput", "datarate", "rate", "capacity", "bandwidth"}
_UP = {"ul", "up", "uplink", "upload", "upstream", "tx"}
# G-NetTrack names no units; its rates are in kbit/s (Raca et al., MMSys 2018 and 2020). Its columns tell that it is it.
_GNETTRACK = {"dlbitrate", "ulbitrate", "networkmode"}


@dataclass(frozen=True)
class Reading:
    """How to read a recorded link where its file does not say: the *column* of the rates, by name or (where there are
    no names) by number, their *unit* and the *time_unit* of the times. None leaves it to the file.

    Raises `InvalidInput` for a unit that is none.
    """

    column: str | None = None
    unit: str | None = None
    time_unit: str | None = None

    def __post_init__(self) -> None:
        if self.unit is not None and rate_unit_of(self.unit) is None:
            raise InvalidInput(f"the unit of a trace is {self.unit!r}; it must be one of {', '.join(RATE_UNITS)}")
        if self.time_unit is not None and time_unit_of(self.time_unit) is None:
            raise InvalidInput(f"the time unit of a trace is {self.time_unit!r}; it must be {', '.join(TIME_UNITS)}")


@dataclass(frozen=True)
class Columns:
    """Where times and rates stand in a row, counted from 0, and in what unit; None for a unit that is not said.

    *rate* is None in a log of deliveries, which has times only. *others* are rates that were not taken.
    """

    time: int
    rate: int | None
    time_unit: str | None
    unit: str | None
    others: tuple[str, ...] = ()


def rate_unit_of(name: str) -> str | None:
    """The unit of `RATE_UNITS` that *name* contains; None if none.

    Raises `InvalidInput` for one that may be bits or bytes.
    """
    found = _rate_in(name)
    if found is None:
        return None
    unit = found["unit"]
    if unit == "B" and (found["per"] or "").isupper():
        raise InvalidInput(f"{name!r} may be bits or bytes a second; say it: --trace-unit {_spelt(found, 'bit/s')}")
    return _spelt(found, "B/s" if unit == "B" or unit.lower().startswith("byte") else "bit/s")


def _rate_in(name: str) -> re.Match[str] | None:
    """Where *name* has a unit of rates: so much a second, or `Mbit` and the like, which people write for it."""
    for found in _RATE.finditer(name):
        if found["per"] or (found["prefix"] and found["unit"].lower().startswith("bit")):
            return found
    return None


def _spelt(found: re.Match[str], unit: str) -> str | None:
    spelt = _PREFIXES[(found["prefix"] or "").lower()] + unit
    return spelt if spelt in RATE_UNITS else None


def time_unit_of(name: str) -> str | None:
    """The unit of `TIME_UNITS` that *name* contains as a word; None if none."""
    words = _words(name)
    return next((unit for unit, spellings in _UNIT_WORDS.items() if words & spellings), None)


def columns_of(names: Sequence[str], width: int, reading: Reading) -> Columns:
    """Where times and rates are in rows of *width* columns with these *names* (none: a file that has none).

    Raises `InvalidInput`, with the columns there are, where that is not clear.
    """
    units = (reading.time_unit and time_unit_of(reading.time_unit), reading.unit and rate_unit_of(reading.unit))
    if not names:
        return _unnamed(width, reading.column, *units)
    time = _time_column(names)
    if width == 1 and reading.column is None:
        return Columns(time, None, units[0] or time_unit_of(names[0]), None)
    candidates = _rate_columns(names, time)
    rate = _named(names, reading.column) if reading.column is not None else _chosen(names, candidates)
    unit = units[1] or _unit_in(names, rate)
    others = tuple(names[index] for index in candidates if index != rate)
    return Columns(time, rate, units[0] or time_unit_of(names[time]), unit, others)


def name_columns(words: Sequence[str]) -> bool:
    """Whether *words*, found above the first row, name its columns: one has times and, if there are more, one rates."""
    try:
        time = _time_column(words)
    except InvalidInput:
        return False
    return len(words) == 1 or bool(_rate_columns(words, time))


def _unit_in(names: Sequence[str], rate: int) -> str | None:
    """The unit of the column *rate*; None if nothing says it. Raises `InvalidInput` for one that is not known."""
    name, unit = names[rate], rate_unit_of(names[rate])
    if unit is None and _squeezed(name) in _GNETTRACK <= set(map(_squeezed, names)):
        return "kbit/s"
    if unit is None and (strange := _IN_BRACKETS.search(name)):
        raise InvalidInput(
            f"the column {name!r} has no unit that is known: {strange[0]!r}; say which: --trace-unit with one of "
            f"{', '.join(RATE_UNITS)}"
        )
    return unit


def _unnamed(width: int, column: str | None, time_unit: str | None, unit: str | None) -> Columns:
    if column is None and width <= 2:
        return Columns(0, None if width == 1 else 1, time_unit, unit)
    if column is None or not column.isdecimal() or not 2 <= int(column) <= width:
        asked = "" if column is None else f", and the one asked for is {column!r}"
        raise InvalidInput(
            f"its lines have {width} columns without names{asked}; with more than 2, the first are the times, and "
            f"--trace-column says by number which are the rates (2 to {width})"
        )
    return Columns(0, int(column) - 1, time_unit, unit)


def _time_column(names: Sequence[str]) -> int:
    """The column of the times: the first that is called so, else the first in a unit of time or with dates."""
    words = [_words(name) for name in names]
    units = set.union(*_UNIT_WORDS.values())
    for fits in (lambda of: of & _TIME_WORDS, lambda of: of and of <= units, lambda of: "date" in of):
        if found := [index for index, of in enumerate(words) if fits(of)]:
            return found[0]
    raise InvalidInput(f"none of its columns is called time, timestamp or date: they are {_listed(names)}")


def _rate_columns(names: Sequence[str], time: int) -> list[int]:
    """The columns that can be rates: those with such a unit, else those that are called so."""
    rest = [index for index in range(len(names)) if index != time]
    with_unit = [index for index in rest if _rate_in(names[index])]
    return with_unit or [index for index in rest if _words(names[index]) & _RATE_WORDS]


def _chosen(names: Sequence[str], candidates: Sequence[int]) -> int:
    """The one of *candidates* that is the uplink's, or the only one."""
    if not candidates:
        raise InvalidInput(
            f"none of its columns is called a rate, bitrate or throughput: they are {_listed(names)}; "
            "say which has the rates: --trace-column NAME"
        )
    up = [index for index in candidates if _words(names[index]) & _UP]
    if len(candidates) > 1 and len(up) != 1:
        several = ", ".join(repr(names[index]) for index in up or candidates)
        raise InvalidInput(f"its columns {several} can be the uplink's rate; say which it is: --trace-column NAME")
    return candidates[0] if len(candidates) == 1 else up[0]


def _named(names: Sequence[str], asked: str) -> int:
    """The column called *asked*, whatever its capitals, spaces and marks."""
    same = [index for index, name in enumerate(names) if name == asked]
    same = same or [index for index, name in enumerate(names) if _squeezed(name) == _squeezed(asked)]
    if len(same) != 1:
        raise InvalidInput(f"{'several' if same else 'none'} of its columns is called {asked!r}: {_listed(names)}")
    return same[0]


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(name)}


def _squeezed(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
