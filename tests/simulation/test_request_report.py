"""The figures of requests, worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from simulations.model.request_records import CLOUD, EDGE, FALLBACK, LOST, Records
from simulations.model.request_report import Report

EXAMPLE = Records.of(
    place=[EDGE, EDGE, CLOUD, CLOUD, FALLBACK, LOST],
    exit=[0, 1, 1, 2, 0, -1],
    sent_s=[0.0, 0.5, 1.0, 1.5, 2.0, 2.001],
    latency_ms=[10, 20, 30, 100, 40, 999],
    correct=[1, 0, 1, 1, 0, 0],
    uplink_bytes=[0, 0, 500, 500, 500, 0],
    attempts=[1, 1, 2, 1, 3, 1],
    reason=["", "", "", "", "UNAVAILABLE: away for 3 ms", "UNAVAILABLE: no edge"],
    fault=["", "edge answered 3, expected 4", "", "", "", ""],
)


def part(records: Records, rows: slice) -> Records:
    return replace(records, **{name: values[rows] for name, values in records.columns().items()})


def test_the_figures_by_hand() -> None:
    assert Report.of(EXAMPLE, deadline_ms=40).figures() == {
        "requests": 6,
        "answered": 5,
        "lost": 1,
        "retried": 2,
        "wrong": 1,
        "accuracy": 0.6,
        "by_place": {"edge": 2, "cloud": 2, "fallback": 1},
        "share_by_exit": {
            "edge/0": 1 / 6, "edge/1": 1 / 6, "cloud/1": 1 / 6, "cloud/2": 1 / 6, "fallback": 1 / 6, "lost": 1 / 6,
        },
        "latency_ms": {"mean": 40.0, "p50": 30.0, "p95": 88.0, "p99": 97.6, "p99.9": 99.76, "max": 100.0},
        "deadline_ms": 40,
        "in_time": 4 / 6,
        "seconds": 3.0,
        "throughput_per_s": 1.667,
        "goodput_per_s": 1.333,
        "uplink_bytes_per_request": 250.0,
        "reasons": {
            "lost": {"UNAVAILABLE: no edge": 1},
            "fallback": {"UNAVAILABLE": 1},
            "wrong": {"edge answered 3, expected 4": 1},
        },
    }  # fmt: skip


def test_parts_added_one_by_one_have_the_figures_of_the_whole() -> None:
    report = Report(40)
    for rows in (slice(4, 6), slice(0, 0), slice(0, 1), slice(1, 4)):
        report.add(part(EXAMPLE, rows))
    assert report.figures() == Report.of(EXAMPLE, 40).figures()


def test_the_lost_are_summed_up_by_status() -> None:
    reasons = ["UNAVAILABLE: a", "DEADLINE_EXCEEDED: c", "UNAVAILABLE: b"]
    assert Report.of(Records.of(place=[LOST] * 3, reason=reasons), 1).lost_by_status() == {
        "UNAVAILABLE": 2,
        "DEADLINE_EXCEEDED": 1,
    }


def test_as_planned_leaves_fallbacks_out() -> None:
    report = Report.of(EXAMPLE, 40)
    assert (report.in_time, report.as_planned, report.fallback_share) == (4 / 6, 3 / 6, 2 / 6)


def test_nobody_lost_is_no_share_and_shares_add_up() -> None:
    report = Report.of(Records.of(place=[EDGE, CLOUD, CLOUD], exit=[0, 1, 1], latency_ms=[1, 2, 3]), deadline_ms=2)
    assert report.share_by_exit() == {"edge/0": 1 / 3, "cloud/1": 2 / 3}
    assert (report.in_time, report.accuracy) == (2 / 3, 0)


def test_where_all_are_lost_nothing_is_in_time() -> None:
    figures = Report.of(Records.of(place=[LOST, LOST], correct=[1, 1]), deadline_ms=1).figures()
    assert (figures["answered"], figures["accuracy"], figures["in_time"]) == (0, 0.0, 0.0)
    assert (figures["goodput_per_s"], figures["throughput_per_s"]) == (0.0, 0.0)
    assert set(figures["latency_ms"].values()) == {None}
    assert figures["share_by_exit"] == {"lost": 1.0}


def test_no_request_at_all_has_figures_and_proves_nothing() -> None:
    report = Report(40)
    figures = json.loads(json.dumps(report.figures(), allow_nan=False))
    assert (figures["requests"], figures["answered"], figures["lost"], figures["share_by_exit"]) == (0, 0, 0, {})
    assert (figures["seconds"], figures["throughput_per_s"]) == (0.0, 0.0)
    assert math.isnan(report.mean_ms)
    assert math.isnan(report.percentile_ms(50))
    assert report.histogram(5) == []
    assert not report.flawless


@pytest.mark.parametrize(
    ("changes", "flawless"),
    [({}, True), ({"place": [EDGE, LOST]}, False), ({"fault": ["", "edge answered 9, expected 5"]}, False)],
)
def test_flawless_takes_a_right_answer_to_every_request(changes: dict[str, list[object]], flawless: bool) -> None:
    records = Records.of(**{"place": [EDGE, CLOUD], "latency_ms": [1, 2], **changes})
    assert Report.of(records, 100).flawless is flawless


@pytest.mark.parametrize("latencies_ms", [[3.0], [3.0, 3.0], [0.0, 1.0], list(np.geomspace(0.7, 1234.5, 500))])
def test_a_histogram_has_every_answer_in_one_range(latencies_ms: list[float]) -> None:
    report = Report.of(Records.of(latency_ms=latencies_ms), 10)
    bins = report.histogram(12)
    assert sum(count for _, _, count in bins) == len(latencies_ms)
    assert all(low <= high for low, high, _ in bins)
    assert [high for _, high, _ in bins[:-1]] == [low for low, _, _ in bins[1:]]
    assert bins[-1][1] == max(latencies_ms)
