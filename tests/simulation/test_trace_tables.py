"""Recorded links as recorders and spreadsheet programs write them: columns, units, separators; what must be asked."""

from __future__ import annotations

import gzip
import lzma
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from branchynet.errors import InvalidInput
from simulations.link import trace_tables
from simulations.link.capacity import DeliveryLog, PiecewiseRate
from simulations.link.trace_columns import rate_unit_of, time_unit_of
from simulations.link.traces import Reading, read_recording, read_trace, write_trace

# 1 s at 2.5, 1 s at 0, 2 s at 16.25 Mbit/s.
ENDS_S, MBPS = [1.0, 2.0, 4.0], [2.5, 0.0, 16.25]
PLAIN = "0 9\n1 2.5\n2 0\n4 16.25\n"
WRITTEN: dict[str, bytes] = {
    "a byte-order mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "Windows line ends": PLAIN.replace("\n", "\r\n").encode(),
    "old Mac line ends": PLAIN.replace("\n", "\r").encode(),
    "comments": f"# a drive\n#\n{PLAIN}# the end\n\n".encode(),
    "a comment in between": PLAIN.replace("2 0", "# a tunnel\n2 0").encode(),
    "tabs": PLAIN.replace(" ", "\t").encode(),
    "commas": PLAIN.replace(" ", ",").encode(),
    "commas and spaces": PLAIN.replace(" ", ", ").encode(),
    "semicolons and decimal commas": PLAIN.replace(" ", ";").replace(".", ",").encode(),
    "tabs and decimal commas": PLAIN.replace(" ", "\t").replace(".", ",").encode(),
    "spaces and decimal commas": b"0,0 9,0\n1,0 2,5\n2,0 0,0\n4,0 16,25\n",
    "names": f"time rate_mbps\n{PLAIN}".encode(),
    "names in a comment": b"# time_s kbps\n0 9000\n1 2500\n2 0\n4 16250\n",
    "words in a comment": f"# our drive\n{PLAIN}".encode(),
    "a spreadsheet's": b"sep=;\r\nTime [s];Rate [Mbit/s];;\r\n0,0;9;;\r\n1,0;2,5;;\r\n2,0;0;;\r\n4,0;16,25;;\r\n"
    b";;;\r\n",
    "quotes": b'"Time (s)","Throughput (Mbps)"\n"0","9"\n"1","2.5"\n"2","0"\n"4","16.25"\n',
    "quoted decimal commas": b'time_s,rate_mbps\n0,9\n1,"2,5"\n2,0\n4,"16,25"\n',
    "ms and kbit/s by name": b"timestamp_ms,throughput_kbps\n1000,9\n2000,2500\n3000,0\n5000,16250\n",
    "rates first": b"throughputMbps,elapsed\n9,0\n2.5,1\n0,2\n16.25,4\n",
    "a clock": b"time,speed,UL Mbit/s\n23:00:00,8,9\n23:00:01,9,2.5\n23:00:02,8,0\n23:00:04,8,16.25\n",
    "dates": b"date;rate (bit/s)\n2022-08-11T13:42:06Z;9\n2022-08-11T13:42:07Z;2500000\n2022-08-11 13:42:08;0\n"
    b"2022-08-11 13:42:10+00:00;16250000\n",
    "German dates": b"Zeit time;Mbit/s\n31.12.2022 23:59:58;9\n31.12.2022 23:59:59;2,5\n01.01.2023 00:00:00;0\n"
    b"01.01.2023 00:00:02;16,25\n",
    "Irish 5G": b"Timestamp,Speed,NetworkMode,DL_bitrate,UL_bitrate,State\n2019.12.14_10.16.30,0,5G,7,9,D\n"
    b"2019.12.14_10.16.31,1,5G,99,2500,D\n2019.12.14_10.16.31,1,5G,0,7,D\n2019.12.14_10.16.32,1,LTE,5,0,D\n"
    b"2019.12.14_10.16.34,1,5G,8,16250,D\n",
    "iperf": b"seconds,bits_per_second\n0,9\n1,2.5e6\n2,0\n4,16.25e6\n",
    "bytes": b"t,kB/s\n0,9\n1,312.5\n2,0\n4,2031.25\n",
}


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("packed", ["", "gz", "xz"])
def test_the_same_link_is_read_however_it_is_written(tmp_path: Path, how: str, packed: str) -> None:
    # The name says nothing: `.GZ`, `.xz` that somebody unpacked, or none at all.
    path = tmp_path / ("link.xz" if not packed else "link.GZ")
    path.write_bytes({"": bytes, "gz": gzip.compress, "xz": lzma.compress}[packed](WRITTEN[how]))
    recording = read_recording(path)
    assert isinstance(recording.capacity, PiecewiseRate)
    np.testing.assert_allclose(recording.capacity.ends_s, ENDS_S)
    np.testing.assert_allclose(recording.capacity.mbps, MBPS)
    assert recording.doubt == ""


def test_what_was_taken_is_said(tmp_path: Path) -> None:
    path = tmp_path / "drive.csv"
    path.write_bytes(WRITTEN["Irish 5G"])
    recording = read_recording(path)
    assert recording.taken == "rates from column UL_bitrate in kbit/s, times from Timestamp (dates)"
    assert recording.others == ("DL_bitrate",)
    for asked in ("DL_bitrate", "dl bitrate"):
        down = read_recording(path, Reading(column=asked))
        assert down.taken.startswith("rates from column DL_bitrate in kbit/s")
        assert down.capacity.mean_mbps == pytest.approx((99 + 5 + 2 * 8) / 4 / 1_000)
    path.write_text(PLAIN)
    assert read_recording(path).taken == "rates from column 2 in Mbit/s, times from 1 in s"
    path.write_text("1\n5\n")
    assert read_recording(path).taken == "times of deliveries in ms"


def test_several_files_in_one_gzip_are_one_recording(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(gzip.compress(b"0 9\n1 2.5\n") + gzip.compress(b"2 0\n4 16.25\n"))
    assert read_trace(path).mean_mbps == pytest.approx(35 / 4)


def steps(step: float, rate: float, count: int = 4) -> str:
    return "".join(f"{step * number:g} {rate:g}\n" for number in range(count))


DOUBTFUL: dict[str, tuple[str, str, Reading, float, float]] = {
    # what it holds, what the question says, the answer, and the period and mean that it makes
    "kbit/s": (
        steps(1, 5_000),
        "a mean of 5,000 Mbit/s; .*--trace-unit Mbit/s or --trace-unit kbit/s",
        Reading(unit="kbit/s"),
        3,
        5,
    ),
    "kbit/s called rates": ("time rate\n" + steps(1, 5_000), "mean of 5,000", Reading(unit="kbps"), 3, 5),
    "a quick one": (steps(1, 5_000), "mean of 5,000", Reading(unit="Mbit/s"), 3, 5_000),
    "Gbit/s": (steps(1, 0.002), "mean of 0.002", Reading(unit="Gbit/s"), 3, 2),
    "ms": (steps(1_000, 5), "times as s are 1,000 s apart; .*--trace-time-unit ms", Reading(time_unit="ms"), 3, 5),
    "an hour's steps": (steps(3_600, 5), "3,600 s apart", Reading(time_unit="s"), 10_800, 5),
    "many short ms": (steps(10, 5, 3_602), "36,010 s in all", Reading(time_unit="ms"), 36.01, 5),
    "ms since 1970": (
        "1660225326000 9\n1660225327000 5\n",
        "first time as s is 1,660,225,326,000",
        Reading(time_unit="ms"),
        1,
        5,
    ),
    "deliveries in s": (
        "0.5\n1.0\n",
        "has fractions, such as 0.5, .*--trace-time-unit s",
        Reading(time_unit="s"),
        1,
        0.024,
    ),
    "deliveries in us": ("1000000\n4000000\n", "mean of 6e-06 Mbit/s", Reading(time_unit="us"), 4, 0.006),
}


@pytest.mark.parametrize("what", DOUBTFUL)
def test_what_can_hardly_be_is_asked_about_until_it_is_said(tmp_path: Path, what: str) -> None:
    content, question, answer, period_s, mbps = DOUBTFUL[what]
    path = tmp_path / "link.txt"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=rf"link\.txt: .*{question}"):
        read_trace(path)
    capacity = read_trace(path, answer)
    assert (capacity.period_s, capacity.mean_mbps) == (pytest.approx(period_s), pytest.approx(mbps))


UNCLEAR: dict[str, tuple[str, Reading, str]] = {
    "several rates": (
        "time,a_mbps,b_kbps\n0,1,2\n1,1,2\n",
        Reading(),
        "'a_mbps', 'b_kbps' can be the uplink's .*--trace-column",
    ),
    "two uplinks": ("t,ul_mbps,tx_kbps,dl_kbps\n0,1,2,3\n1,1,2,3\n", Reading(), "'ul_mbps', 'tx_kbps' can be"),
    "no rate": ("time,speed\n0,1\n1,2\n", Reading(), "called a rate, .* 'time', 'speed'; .*--trace-column NAME"),
    "no time": ("when,mbps\n0,1\n1,2\n", Reading(), "called time, timestamp or date: they are 'when', 'mbps'"),
    "no such column": ("time,mbps\n0,1\n1,2\n", Reading(column="ul"), "none of its columns is called 'ul'"),
    "a column twice": ("time,UL,u l\n0,1,2\n", Reading(column="ul"), "several of its columns is called 'ul'"),
    "bits or bytes": (
        "time,MBPS\n0,1\n1,2\n",
        Reading(),
        "'MBPS' may be bits or bytes a second; .*--trace-unit Mbit/s",
    ),
    "a strange unit": ("time,rate (MiB/s)\n0,1\n1,2\n", Reading(), r"no unit that is known: '\(MiB/s\)'"),
    "a number too high": ("0 1 2\n1 1 2\n", Reading(column="4"), r"asked for is '4'.*\(2 to 3\)"),
    "a name for a number": ("0 1 2\n1 1 2\n", Reading(column="ul"), "asked for is 'ul'"),
    "only rates": ("Mbit/s\n1\n2\n", Reading(), "called time"),
    "point and comma": ("time;mbps\n0;1,5\n1;1.5\n", Reading(), "line 3: '1.5': .* not both"),
    "thousands": ("time;mbps\n0;1\n1;1.234,5\n", Reading(), "line 3: '1.234,5'"),
    "commas without quotes": ("time,mbps\n0,1,5\n1,2,5\n", Reading(), "line 2 has 3 columns, line 1 has 2"),
    "a missing rate": ("time,mbps\n0,1\n1,-\n", Reading(), "line 3: could not convert '-'"),
    "a missing field": ("time,mbps,x\n0,1,2\n1\n", Reading(), "line 3 has fewer than the 2"),
    "an open quote": ('time,mbps\n0,"1\n1,2\n', Reading(), "is no row of a table"),
    "dated deliveries": ("time\n10:00:00\n10:00:01\n", Reading(), "times in ms, not dates"),
    "a strange date": ("time,mbps\n5 o'clock,1\n6 o'clock,1\n", Reading(), 'line 2: "5 o\'clock" is neither'),
    "an impossible date": ("time,mbps\n10:00:00,1\n10:61:00,1\n", Reading(), "line 3: .*10:61:00"),
}


@pytest.mark.parametrize("what", UNCLEAR)
def test_what_is_not_clear_is_refused_with_what_there_is(tmp_path: Path, what: str) -> None:
    content, reading, reason = UNCLEAR[what]
    path = tmp_path / "link.csv"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=rf"link\.csv is no trace .*{reason}"):
        read_trace(path, reading)


def test_a_column_without_a_name_is_taken_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "link.txt"
    path.write_text("0 1 9\n1 1 5\n")
    assert read_trace(path, Reading(column="3")).mean_mbps == 5
    path.write_text("time,ul_mbps,dl_mbps\n0,1,9\n1,1,5\n")
    assert read_trace(path).mean_mbps == 1
    path.write_text("time,dl_mbps\n0,9\n1,5\n")
    assert read_recording(path).taken == "rates from column dl_mbps in Mbit/s, times from time in s"


@pytest.mark.parametrize(
    "reading", [{"unit": "Mbit"}, {"unit": "furlong"}, {"time_unit": "fortnight"}, {"unit": "MBPS"}]
)
def test_a_unit_that_is_none_is_refused(reading: dict[str, str]) -> None:
    if reading == {"unit": "Mbit"}:
        assert Reading(**reading).unit == "Mbit"
        return
    with pytest.raises(InvalidInput, match=next(iter(reading.values()))):
        Reading(**reading)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        *(
            (name, "Mbit/s")
            for name in ("Mbps", "mbps", "Mb/s", "RATE(MBit/s)", "Mbits/sec", "rate_mbit_s", "UplinkMbps")
        ),
        *((name, "kbit/s") for name in ("kbps", "Kbps", "kb/s", "kbit/s", "ul_kbit", "kilobits per second")),
        *((name, "bit/s") for name in ("bps", "bit/s", "bits_per_second", "b/s")),
        *((name, "Gbit/s") for name in ("Gbps", "Gigabit/s")),
        *((name, "MB/s") for name in ("MB/s", "MBps", "megabytes/s")),
        *((name, "kB/s") for name in ("kB/s", "KBps", "kilobytes per sec")),
        *((name, "B/s") for name in ("bytes_per_s", "B/s", "Bps")),
        *(
            (name, None)
            for name in ("DL_bitrate", "Sent Bytes", "rssi(dBm)", "Speed", "bits", "steps", "MiB/s", "Tbps")
        ),
    ],
)
def test_units_are_known_by_their_spellings(name: str, unit: str | None) -> None:
    assert rate_unit_of(name) == unit
    assert time_unit_of("time_ms") == time_unit_of("Time [ms]") == time_unit_of("timeMs") == "ms"
    assert (time_unit_of("Timestamp"), time_unit_of("elapsed sec"), time_unit_of("t (µs)")) == (None, "s", "us")


@pytest.mark.parametrize(
    "capacity",
    [
        PiecewiseRate(np.array([0.1, 1e5]), np.array([0.0, 1 / 3])),
        PiecewiseRate(np.array([1e-3, 2.0]), np.array([9_000.0, 1e4])),
        DeliveryLog(np.array([0.0, 0.0005, 40.0])),
    ],
)
def test_what_is_written_is_read_back(tmp_path: Path, capacity: PiecewiseRate | DeliveryLog) -> None:
    path = tmp_path / "new" / "link.txt"
    write_trace(path, capacity)
    back = read_trace(path)
    assert type(back) is type(capacity)
    bits = np.array([1.0, 1e4, 1e5])
    np.testing.assert_allclose(back.time_of_s(bits), capacity.time_of_s(bits), rtol=1e-12)
    assert back.period_s == capacity.period_s


HOSTILE = {
    "one long line": b"1 " * 2**25,
    "many lines": b"1\n" * 2**25,
    "empty lines": b"\n" * 2**25,
    "old Mac's empty lines": b"\r" * 2**25,
    "too much": b"1\n" * (2**25 + 1),
    "a long field": b'time,mbps\n0,"' + b"\n" * 200_000,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_small_file_cannot_ask_for_much_memory(tmp_path: Path, what: str) -> None:
    path = tmp_path / "bomb.xz"
    path.write_bytes(lzma.compress(HOSTILE[what], preset=0))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=r"bomb\.xz"):
            read_trace(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300 * 2**20


def test_the_number_of_lines_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_text("1\n" * 5)
    monkeypatch.setattr(trace_tables, "MAX_LINES", 5)
    assert read_trace(path).period_s == 0.001
    monkeypatch.setattr(trace_tables, "MAX_LINES", 4)
    with pytest.raises(InvalidInput, match="it has 5 lines; at most 4 are read"):
        read_trace(path)


PIECES = st.sampled_from(
    [
        b"0",
        b"1",
        b"2.5",
        b"7,5",
        b" ",
        b"\t",
        b";",
        b",",
        b"\n",
        b"\r\n",
        b'"',
        b"#",
        b"time",
        b"mbps",
        b"sep=;\n",
        b"nan",
        b"1e999",
        b"-",
        b"2022-01-01",
        b"10:00:00",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x00",
        b"0 1\n1 2\n",
    ]
)


@given(st.lists(PIECES, max_size=30).map(b"".join) | st.binary(max_size=80))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(b"time,mbps\n0001-01-01T00:00:00+23:59,1\n")
@example(b"\xff\xfe0")
@example(b"sep=\xc3\xa4\n1\xc3\xa42\n")
@example(b"sep= \n1 2\n")
@example(b'sep="\n1"2\n')
@example(b"\x1f\x8b")
@example(b"0 1e308\n1 1e308\n2 1e308\n1e308 1e308\n")
def test_any_bytes_give_a_link_or_our_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "link"
    path.write_bytes(content)
    try:
        capacity = read_trace(path)
    except InvalidInput as refused:
        assert str(path) in str(refused)
    else:
        assert capacity.period_s > 0
        assert capacity.mean_mbps > 0
