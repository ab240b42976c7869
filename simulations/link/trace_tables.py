"""The lines of a recorded link as rows: comments, names of columns, separators, decimal commas, dates.

Rows are read one by one, so that memory follows what is kept of them, not what a small packed file unpacks to.
"""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from branchynet.data.text_files import encoding_of
from branchynet.errors import InvalidInput
from simulations.link.trace_columns import name_columns

__all__ = ["MAX_LINES", "Table"]

MAX_LINES = 5_000_000
MAX_LINE_CHARACTERS = 65_536

_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # what spreadsheet programs write on top
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_DATES = (
    "%a %b %d %H:%M:%S UTC %Y",
    "%Y.%m.%d_%H.%M.%S",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M:%S.%f",
    "%H:%M:%S",
    "%H:%M:%S.%f",
)


class Table:
    """The rows of the text *raw*, and what its first lines tell: the *names* of its columns (none: it has none) and
    how many columns there are, *width*.

    Raises `InvalidInput` for text without a row, and for too much of it.
    """

    def __init__(self, raw: bytes) -> None:
        if (lines := max(raw.count(b"\n"), raw.count(b"\r"))) > MAX_LINES:
            raise InvalidInput(f"it has {lines:,} lines; at most {MAX_LINES:,} are read")
        self._raw = raw
        self._number = 0
        self._lines = self._meaningful(raw)
        self._separator: str | None = None
        comment: str | None = None
        first = ""
        for first in self._lines:  # up to the first line that is no comment
            if given := _SEPARATOR_LINE.fullmatch(first):
                self._separator = given[1]
            elif first.startswith("#"):
                comment = first.lstrip("# ")
            else:
                break
        else:
            raise InvalidInput("it is empty" if comment is None else "it has no line but comments")
        if self._separator is None:
            self._separator = _separator_of(first)
        self._first_number = self._number
        fields = self._split(first)
        self.names: tuple[str, ...] = ()
        self._first: list[str] | None = fields
        if not any(map(_is_number, fields)):
            self.names, self._first = tuple(fields), None
        elif comment and len(above := self._split(comment)) == len(fields) and name_columns(above):
            self.names = tuple(above)
        self.width = len(fields)

    def columns(self, time: int, rate: int | None) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
        """Times and rates, float64 [K] each, as they are written, and whether the times are dates (then in s).

        Raises `InvalidInput`, with the line, for rows of another width and for what is neither number nor date.
        """
        if (plain := self._plain_numbers()) is not None:
            return plain[:, time], plain[:, rate] if rate is not None else np.empty(0), False
        times, rates = array("d"), array("d")
        to_time: Callable[[str], float] | None = None
        to_rate = Numbers()
        try:
            for row in self._rows():
                if to_time is None:
                    to_time = Numbers() if _is_number(row[time]) else _date_reader(row[time])
                times.append(to_time(row[time]))
                if rate is not None:
                    rates.append(to_rate(row[rate]))
        except IndexError:
            need = 1 + max(time, rate or 0)
            raise InvalidInput(f"line {self._number} has fewer than the {need} columns that are needed") from None
        except InvalidInput:
            raise
        except (ValueError, OverflowError) as error:
            raise InvalidInput(f"line {self._number}: {error}") from None
        except csv.Error as error:
            raise InvalidInput(f"line {self._number} is no row of a table: {error}") from None
        dated = to_time is not None and not isinstance(to_time, Numbers)
        return np.array(times), np.array(rates), dated

    def _plain_numbers(self) -> NDArray[np.float64] | None:
        """All rows at once, if they are but numbers between white space: a log has a line for each 1,500 bytes."""
        first = self._first or []
        if self._separator or self.names or any("," in field for field in first) or not all(map(_is_number, first)):
            return None
        ends = np.flatnonzero(np.frombuffer(self._raw, np.uint8) == ord("\n"))
        if np.diff(ends, prepend=0, append=len(self._raw)).max() > MAX_LINE_CHARACTERS:
            return None
        try:
            return np.loadtxt(_text(self._raw), dtype=np.float64, comments="#", ndmin=2)
        except ValueError:  # which row by row has a better reason
            return None

    def _rows(self) -> Iterator[list[str]]:
        """Each row; the number of its line is known meanwhile."""
        if self._first is not None:
            now, self._number = self._number, self._first_number
            yield self._first
            self._number = now
        lines = (line for line in self._lines if not line.startswith("#"))
        for row in self._reader(lines):
            fields = _trimmed(row)
            if len(fields) > self.width or (len(fields) < self.width and not self.names):
                raise InvalidInput(
                    f"line {self._number} has {len(fields)} columns, line {self._first_number} has {self.width}"
                )
            if any(fields):
                yield fields

    def _reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        if self._separator:
            return csv.reader(lines, delimiter=self._separator, strict=True, skipinitialspace=True)
        return (line.split() for line in lines)

    def _split(self, line: str) -> list[str]:
        try:
            return _trimmed(next(self._reader(iter([line])), []))
        except csv.Error as error:
            raise InvalidInput(f"line {self._number} is no row of a table: {error}") from None

    def _meaningful(self, raw: bytes) -> Iterator[str]:
        """The lines that hold anything, without their ends. Raises `InvalidInput` for one that is too long."""
        text = _text(raw)
        while line := text.readline(MAX_LINE_CHARACTERS + 1):
            self._number += 1
            if len(line) > MAX_LINE_CHARACTERS:
                raise InvalidInput(f"line {self._number} has more than {MAX_LINE_CHARACTERS:,} characters")
            if line := line.rstrip().lstrip(" "):
                yield line


def _text(raw: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(raw), encoding=encoding_of(raw), errors="replace")


class Numbers:
    """Reads the numbers of one column, all with a decimal point or all with a decimal comma."""

    def __init__(self) -> None:
        self._mark = ""

    def __call__(self, field: str) -> float:
        """The number in *field*. Raises ValueError if it is none, or has the other mark."""
        for mark in ".,":
            if mark in field:
                if self._mark not in ("", mark):
                    raise ValueError(f"{field!r}: the numbers of a column have a decimal point or a comma, not both")
                self._mark = mark
        return _number(field)


def _number(field: str) -> float:
    if "_" in field:  # which Python takes for a separator of thousands
        raise ValueError(f"could not convert {field!r} to a number")
    if "," in field and not _DECIMAL_COMMA.fullmatch(field):
        raise ValueError(f"could not convert {field!r} to a number")
    try:
        return float(field.replace(",", "."))
    except ValueError:
        raise ValueError(f"could not convert {field[:60]!r} to a number") from None


def _is_number(field: str) -> bool:
    try:
        _number(field)
    except ValueError:
        return False
    return True


def _trimmed(row: list[str]) -> list[str]:
    """*row* without spaces around its fields, and without the empty ones that spreadsheet programs leave at the end."""
    fields = [field.strip() for field in row]
    while fields and not fields[-1]:
        fields.pop()
    return fields


def _separator_of(line: str) -> str:
    """What separates the columns of *line*; empty for white space."""
    for separator in ";\t":
        if separator in line:
            return separator
    words = line.split()
    if "," not in line or (len(words) > 1 and all(_is_number(word) for word in words)):
        return ""  # `0,5 1,25` are two numbers with decimal commas
    return ","


def _date_reader(field: str) -> Callable[[str], float]:
    """What turns dates like *field* into seconds. Raises ValueError if it is no date that is known."""
    for read in (datetime.fromisoformat, *(_with_form(form) for form in _DATES)):
        try:
            read(field)
        except ValueError:
            continue
        return lambda field, read=read: _seconds(read(field))  # type: ignore[misc]
    raise ValueError(
        f"{field[:60]!r} is neither a number nor a date of a kind that is known, such as 2022-08-11T13:42:06, "
        "'Thu Aug 11 13:42:06 UTC 2022', 2022.08.11_13.42.06 or 13:42:06"
    )


def _with_form(form: str) -> Callable[[str], datetime]:
    return lambda field: datetime.strptime(field, form)


def _seconds(date: datetime) -> float:
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
