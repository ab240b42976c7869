"""Recorded links: all formats, packed or not; what is refused; and every file of a folder of real ones."""

from __future__ import annotations

import csv
import gzip
import lzma
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from branchynet.errors import InvalidInput
from simulations.link import traces
from simulations.link.capacity import DeliveryLog, PiecewiseRate
from simulations.link.traces import Reading, read_recording, read_trace

PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
FOLDER = os.environ.get("BRANCHYNET_TRACES")
needs_traces = pytest.mark.skipif(FOLDER is None, reason="BRANCHYNET_TRACES names no folder of recorded links")


@pytest.mark.parametrize("ending", PACKED)
def test_one_column_is_a_log_of_deliveries(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"link.up{ending}"
    path.write_bytes(PACKED[ending](b"0\n5\n5\n\n40\n"))
    log = read_trace(path)
    assert isinstance(log, DeliveryLog)
    np.testing.assert_array_equal(log.times_s, [0, 0.005, 0.005, 0.04])
    assert log.period_s == 0.04
    assert log.mean_mbps == pytest.approx(4 * 12_000 / 0.04 / 1e6)


@pytest.mark.parametrize("ending", PACKED)
def test_two_columns_are_rates_since_the_line_before(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"link.txt{ending}"
    path.write_bytes(PACKED[ending](b"10.5 99\r\n11.5\t2\r\n13.5 0\r\n14.5 4.5e0\r\n"))
    rate = read_trace(path)
    assert isinstance(rate, PiecewiseRate)
    np.testing.assert_array_equal(rate.ends_s, [1, 3, 4])
    np.testing.assert_array_equal(rate.mbps, [2, 0, 4.5])
    assert rate.mean_mbps == pytest.approx(6.5 / 4)


def test_a_table_has_dates_and_rates_among_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "link.csv"
    path.write_text(
        "Time,rssi(dBm),RATE(MBit/s)\nWed Dec 15 16:05:11 UTC 2021,-71,99\nWed Dec 15 16:05:14 UTC 2021,-70,8.5\n"
        "Thu Dec 16 00:00:00 UTC 2021,-70,2\n"
    )
    rate = read_trace(path)
    assert isinstance(rate, PiecewiseRate)
    np.testing.assert_array_equal(rate.ends_s, [3, 28_489])
    np.testing.assert_array_equal(rate.mbps, [8.5, 2])


def test_of_two_lines_for_one_moment_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "link.txt"
    path.write_text("0 1\n1 2\n1 7\n2 3\n")
    rate = read_trace(path)
    assert isinstance(rate, PiecewiseRate)
    np.testing.assert_array_equal(rate.ends_s, [1, 2])
    np.testing.assert_array_equal(rate.mbps, [2, 3])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty", b"", "it is empty"),
        ("comments", b"# one\n#\n", "no line but comments"),
        ("wide", b"1 2 3\n", r"3 columns without names.*--trace-column says by number .*\(2 to 3\)"),
        ("mixed", b"1\n1 2\n", "line 2 has 2 columns, line 1 has 1"),
        ("mixed-back", b"1 2\n\n1\n", "line 3 has 1 columns, line 1 has 2"),
        ("words", b"0 1\nx 2\n", "line 2: could not convert 'x' to a number"),
        ("thousands", b"0 1\n1 1_000\n", "line 2: could not convert '1_000'"),
        ("prose", b"These were recorded\nby hand\n", "none of its columns is called time"),
        ("picture", b"\x89PNG\xff\xfe\n", "none of its columns is called time"),
        ("other.csv", b"when,how much\n0,1\n", "none of its columns is called time, .* 'when', 'how much'"),
        ("dateless.csv", b"Time,RATE(MBit/s)\n0,1\n", "one line says no duration"),
        ("dates.csv", b"Time,RATE(MBit/s)\nnever,1\n", "line 2: 'never' is neither a number nor a date"),
        ("short.csv", b"Time,RATE(MBit/s)\nWed Dec 15 16:05:11 UTC 2021\n", "line 2 has fewer than the 2"),
        ("single", b"0 1\n", "one line says no duration"),
        ("moment", b"1 1\n1 1\n", "0 times with 0 rates"),
        ("backwards", b"0 1\n2 1\n1 1\n", "ascend from above 0"),
        ("silent", b"0 5\n1 0\n2 0\n", "not all 0"),
        ("negative", b"0 5\n1 5\n2 -1\n", "0 or more"),
        ("nan", b"0 5\n1 nan\n", "has the number nan"),
        ("infinite", b"0 5\n1 1e999\n", "has the number inf"),
        ("log-backwards", b"5\n4\n", "not descend"),
        ("log-before", b"-5\n4\n", "not descend"),
        ("log-zero", b"0\n0\n", "end above 0"),
        ("log-nan", b"1\nnan\n", "has the number nan"),
        ("archive.csv", b"PK\x03\x04...", "is a ZIP archive: unpack it first"),
        ("short.gz", gzip.compress(b"0 1\n1 2\n" * 50, mtime=0)[:-12], "truncated"),
        ("short.xz", lzma.compress(b"0 1\n1 2\n" * 50)[:-12], "truncated"),
        ("broken.gz", gzip.compress(b"0 1\n", mtime=0)[:10] + b"\xff" * 30, "is not a sound"),
        ("broken.xz", lzma.compress(b"0 1\n1 2\n")[:24] + b"\xff" * 30, "is not a sound"),
    ],
)
def test_what_is_no_trace_is_refused_by_name_and_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=reason) as refused:
        read_trace(path)
    assert str(path) in str(refused.value)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.gz"
    path.write_bytes(gzip.compress(b"1\n" * 501))
    monkeypatch.setattr(traces, "MAX_BYTES", 1_002)
    assert read_trace(path).period_s == 0.001
    monkeypatch.setattr(traces, "MAX_BYTES", 1_001)
    with pytest.raises(InvalidInput, match=r"large\.gz holds more than the 1,001 bytes"):
        read_trace(path)


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_trace(tmp_path / "nothing.up")


@needs_traces
@pytest.mark.parametrize(
    "kind", ["4g_ghent", "3g_norway", "5g_irish", "5g_uplink_mtu", "fcc_broadband", "oboe", "mahimahi"]
)
def test_every_recorded_link_loads(kind: str) -> None:
    # Mahimahi's folder also holds the licence and notes.
    files = [
        path
        for path in sorted((Path(FOLDER or "") / kind).iterdir())
        if kind != "mahimahi" or {".up", ".down"} & set(path.suffixes)
    ]
    assert files
    for path in files:
        capacity = read_trace(path)
        assert 0.001 < capacity.mean_mbps < 200, path.name
        assert 10 < capacity.period_s < 20_000, path.name
        bits = np.array([1.0, 1e5, 1e7])
        assert (capacity.bits_by(capacity.time_of_s(bits) + 1e-6) >= bits - 1).all(), path.name


@needs_traces
@pytest.mark.parametrize(
    ("name", "mbps"), [("ATT-LTE-driving", 0.84), ("Verizon-LTE-short", 5.96), ("TMobile-LTE-short", 13.35)]
)
def test_mahimahis_uplinks_have_the_known_means(name: str, mbps: float) -> None:
    # The known means count 1,504 bytes a delivery.
    capacity = read_trace(Path(FOLDER or "") / "mahimahi" / f"{name}.up.xz")
    assert 1_504 / 1_500 * capacity.mean_mbps == pytest.approx(mbps, abs=0.006)


@needs_traces
@pytest.mark.parametrize("column", ["UL_bitrate", "DL_bitrate"])
def test_the_irish_rates_are_what_adding_them_up_gives(column: str) -> None:
    files = sorted((Path(FOLDER or "") / "5g_irish").iterdir())
    assert len(files) == 21
    for path in files:
        kbits, seconds, before = 0.0, 0.0, None
        with gzip.open(path, "rt") as lines:
            for row in csv.DictReader(lines):
                now = datetime.strptime(row["Timestamp"], "%Y.%m.%d_%H.%M.%S").replace(tzinfo=UTC)
                if before is not None and now != before:
                    kbits += float(row[column]) * (now - before).total_seconds()
                    seconds += (now - before).total_seconds()
                before = now
        recording = read_recording(path, Reading(column=None if column == "UL_bitrate" else column))
        assert f"column {column} in kbit/s" in recording.taken
        assert recording.capacity.period_s == seconds
        assert recording.capacity.mean_mbps == pytest.approx(kbits / seconds / 1_000, rel=1e-9)
