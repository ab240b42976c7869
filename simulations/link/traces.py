"""Recorded links: Mahimahi's delivery logs, columns of times and rates, tables; plain or packed (gzip, xz).

One column: a line a delivery, its time in whole milliseconds, 1,500 bytes each (Winstein et al., NSDI 2013). Two
columns: time in s, throughput in Mbit/s since the line before, as Pensieve's simulator reads them (Mao et al., SIGCOMM
2017); so the first line only marks the start. Tables name their columns in a first line, of which one is the time and
one the rate, again since the line before. `simulations.link.trace_columns` says by which names they are known and what
units these give; separators, decimal commas, dates and comments are `simulations.link.trace_tables`'.

Whether numbers are in the units that their file does not name cannot be known. What would make an unlikely link is
asked about instead of taken: a mean below `LEAST_MBPS` or above `MOST_MBPS`, steps above `LONGEST_STEP_S`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from branchynet.data.formats import read_file
from branchynet.errors import DamagedData, InvalidInput
from branchynet.files import write_text
from simulations.link.capacity import DeliveryLog, PiecewiseRate
from simulations.link.trace_columns import RATE_UNITS, TIME_UNITS, Columns, Reading, columns_of
from simulations.link.trace_tables import Table

__all__ = ["Reading", "Recording", "read_recording", "read_trace", "write_trace"]

MAX_BYTES = 64 * 1024 * 1024
LEAST_MBPS, MOST_MBPS = 0.01, 500.0
# A log of deliveries has one unit, so only what is absurd is asked about.
MOST_DELIVERED_MBPS = 10_000.0
LONGEST_STEP_S = 60.0
LONGEST_S = 36_000.0
# Later than any clock in s, earlier than any in ms since 1970.
EPOCH_MS = 1e11
# Above what any clock counts, and far below where sums of bits would overflow.
LARGEST = 1e20
IN_SCENARIOS = "(in a scenario `{key} = …`, to a link `{key}=…`)"


@dataclass(frozen=True, eq=False)
class Recording:
    """What a file holds: the *capacity* of the link, and in words what was *taken* for it.

    *doubt*: why its numbers cannot be in the units they were taken to be in, and what to say about it; empty if they
    can. *others*: columns with rates that were not taken.
    """

    capacity: PiecewiseRate | DeliveryLog
    taken: str
    others: tuple[str, ...] = ()
    doubt: str = ""


def read_trace(path: Path, reading: Reading = Reading()) -> PiecewiseRate | DeliveryLog:  # noqa: B008 (a frozen value)
    """The link recorded in *path*, as `read_recording` finds it; a doubt about its units raises `InvalidInput`, too."""
    recording = read_recording(path, reading)
    if recording.doubt:
        raise InvalidInput(f"{path}: {recording.doubt}")
    return recording.capacity


def read_recording(path: Path, reading: Reading = Reading()) -> Recording:  # noqa: B008 (a frozen value)
    """The link recorded in *path*, by what its lines and *reading* say.

    Raises `InvalidInput` for what is no such file, and `OSError` if it cannot be read.
    """
    try:
        table = Table(read_file(path, MAX_BYTES))
        columns = columns_of(table.names, table.width, reading)
        times, rates, dated = table.columns(columns.time, columns.rate)
        _check_numbers(times)
        _check_numbers(rates)
        if columns.rate is None:
            return _deliveries(columns, times, dated=dated)
        return _rates(table, columns, times, rates, dated=dated)
    except DamagedData as error:
        raise InvalidInput(f"{error}, so it is no trace") from None
    except InvalidInput as error:
        raise InvalidInput(f"{path} is no trace that can be read: {error}") from None


def write_trace(path: Path, capacity: PiecewiseRate | DeliveryLog) -> None:
    """Write *capacity* as a file that `read_trace` reads back, whatever its rates and times are."""
    if isinstance(capacity, PiecewiseRate):
        pairs = zip(capacity.ends_s.tolist(), capacity.mbps.tolist(), strict=True)
        lines = ["time_s rate_Mbit/s\n", "0 0\n", *(f"{end_s!r} {mbps!r}\n" for end_s, mbps in pairs)]
    else:
        lines = ["time_ms\n", *(f"{time_ms!r}\n" for time_ms in (capacity.times_s * 1e3).tolist())]
    write_text(path, "".join(lines))


def _check_numbers(numbers: NDArray[np.float64]) -> None:
    strange = numbers[~(np.abs(numbers) <= LARGEST)]  # a comparison with NaN is false
    if strange.size:
        raise InvalidInput(f"it has the number {strange[0]:g}; legal is up to {LARGEST:g}")


def _deliveries(columns: Columns, times: NDArray[np.float64], *, dated: bool) -> Recording:
    if dated:
        raise InvalidInput("a log of deliveries has times in ms, not dates")
    unit = columns.time_unit or "ms"
    log = DeliveryLog(times * TIME_UNITS[unit])
    doubt = ""
    if columns.time_unit is None:
        if (times % 1).any():
            doubt = f"its one column has fractions, such as {times[np.flatnonzero(times % 1)[0]]:g}, and times of "
            doubt += f"deliveries are whole milliseconds; {_say('--trace-time-unit', 'time_unit', 's', 'ms')}"
        elif not LEAST_MBPS <= log.mean_mbps <= MOST_DELIVERED_MBPS:
            doubt = f"its one column as times of deliveries in ms makes a mean of {log.mean_mbps:,.4g} Mbit/s; "
            doubt += _say("--trace-time-unit", "time_unit", "s", "ms", "us")
    return Recording(log, f"times of deliveries in {unit}", doubt=doubt)


def _rates(
    table: Table, columns: Columns, times: NDArray[np.float64], rates: NDArray[np.float64], *, dated: bool
) -> Recording:
    assert columns.rate is not None
    unit, time_unit = columns.unit or "Mbit/s", columns.time_unit or "s"
    times_s = times if dated else times * TIME_UNITS[time_unit]
    capacity = _throughput(times_s, rates * RATE_UNITS[unit])
    names = table.names or tuple(map(str, range(1, table.width + 1)))
    taken = f"rates from column {names[columns.rate]} in {unit}, times from {names[columns.time]}"
    taken += " (dates)" if dated else f" in {time_unit}"
    doubt = ""
    if not dated and columns.time_unit is None:
        doubt = _doubt_of_times(times, capacity)
    if not doubt and columns.unit is None and not LEAST_MBPS <= capacity.mean_mbps <= MOST_MBPS:
        doubt = f"its rates as Mbit/s make a mean of {capacity.mean_mbps:,.4g} Mbit/s; "
        doubt += _say("--trace-unit", "unit", "Mbit/s", "kbit/s", "bit/s")
    return Recording(capacity, taken, columns.others, doubt)


def _doubt_of_times(times: NDArray[np.float64], capacity: PiecewiseRate) -> str:
    """Why *times* are hardly in s; empty if they can be."""
    step_s = float(np.median(np.diff(capacity.ends_s, prepend=0.0)))
    say = _say("--trace-time-unit", "time_unit", "s", "ms")
    if times[0] > EPOCH_MS:
        return f"its first time as s is {times[0]:,.0f}; {say}"
    if step_s > LONGEST_STEP_S:
        return f"its times as s are {step_s:,.6g} s apart; {say}"
    if capacity.period_s > LONGEST_S:
        return f"its times as s are {capacity.period_s:,.6g} s in all; {say}"
    return ""


def _say(option: str, key: str, *units: str) -> str:
    """What to type for the unit to be known."""
    choices = " or ".join(f"{option} {unit}" for unit in units)
    return f"say their unit: {choices} {IN_SCENARIOS.format(key=key)}"


def _throughput(times_s: NDArray[np.float64], mbps: NDArray[np.float64]) -> PiecewiseRate:
    if len(times_s) < 2:
        raise InvalidInput("one line says no duration; two or more are needed")
    lasting = np.diff(times_s) != 0  # some recorders write two lines for one moment
    return PiecewiseRate((times_s[1:] - times_s[0])[lasting], mbps[1:][lasting])
