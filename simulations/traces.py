"""Recorded links: Mahimahi's delivery logs, two-column throughput files and tables; plain or compressed (.gz, .xz).

Mahimahi: one line a delivery, its time in whole milliseconds, 1,500 bytes each (Winstein et al., NSDI 2013). Two
columns: time in s, throughput in Mbit/s since the line before, as Pensieve's simulator reads them (Mao et al., SIGCOMM
2017); so the first line only marks the start. Tables have commas and a first line that names the columns: `Time`, dates
as in `Thu Aug 11 13:42:06 UTC 2022`, and `RATE(MBit/s)`, again since the line before (the 5G uplink measurements of
Munster Technological University).
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import zlib
from datetime import UTC, datetime
from io import BufferedIOBase, BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from simulations.capacity import Capacity, DeliveryLog, PiecewiseRate

__all__ = ["read_trace"]

DATE = "%a %b %d %H:%M:%S UTC %Y"
MAX_BYTES = 256 * 1024 * 1024


def read_trace(path: Path) -> Capacity:
    """The link recorded in *path*; the number of columns tells the format.

    Raises `InvalidInput` for what is no such file, and `OSError` if it cannot be read.
    """
    with path.open("rb") as plain:
        try:
            raw = _unpacked(plain, path.suffix).read(MAX_BYTES + 1)
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
            raise InvalidInput(f"{path} cannot be unpacked: {error}") from None
    if len(raw) > MAX_BYTES:
        raise InvalidInput(f"{path} unpacks to more than {MAX_BYTES} bytes")
    text = raw.decode("ascii", errors="replace")
    if "," in text.partition("\n")[0]:
        return _table(path, text)
    lines = [line.split() for line in text.splitlines() if line.strip()]
    widths = {len(line) for line in lines}
    if widths not in ({1}, {2}):
        raise InvalidInput(f"{path} is no trace: its lines have {sorted(widths)} columns; 1 or 2 are known")
    try:
        values = np.array(lines, dtype=np.float64)
    except ValueError as error:
        raise InvalidInput(f"{path} is no trace: {error}") from None
    try:
        return _deliveries(values[:, 0]) if widths == {1} else _throughput(values)
    except InvalidInput as error:
        raise InvalidInput(f"{path} is no trace: {error}") from None


def _table(path: Path, text: str) -> PiecewiseRate:
    """What a table with columns for the date and the rate says."""
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
        dates = [datetime.strptime(row["Time"], DATE).replace(tzinfo=UTC) for row in rows]
        rates = [float(row["RATE(MBit/s)"]) for row in rows]
        return _throughput(np.array([[date.timestamp(), rate] for date, rate in zip(dates, rates, strict=True)]))
    except KeyError as error:
        raise InvalidInput(f"{path} is no trace: it has commas, but no column {error}") from None
    except (ValueError, TypeError, csv.Error) as error:
        raise InvalidInput(f"{path} is no trace: {error}") from None


def _unpacked(plain: BufferedReader, suffix: str) -> BufferedIOBase:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=plain)
    return lzma.LZMAFile(plain) if suffix == ".xz" else plain


def _deliveries(times_ms: NDArray[np.float64]) -> DeliveryLog:
    return DeliveryLog(times_ms / 1e3)


def _throughput(values: NDArray[np.float64]) -> PiecewiseRate:
    if len(values) < 2:
        raise InvalidInput("one line says no duration; two or more are needed")
    lasting = np.diff(values[:, 0]) != 0  # some recorders write two lines for one moment
    ends_s, mbps = (values[1:] - [values[0, 0], 0.0])[lasting].T
    return PiecewiseRate(ends_s, mbps)
