"""Figures by hand, files, and joined parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simulations.records import CLOUD, EDGE, FALLBACK, LOST, PLACES, Records


def records_of(**columns: list[Any]) -> Records:
    """Rows with these columns; the others are 0."""
    count = len(next(iter(columns.values())))
    kinds = {
        "edge": np.int32, "cloud": np.int32, "row": np.int32, "sent_s": np.float64, "latency_ms": np.float64,
        "edge_ms": np.float64, "network_ms": np.float64, "cloud_ms": np.float64, "uplink_bytes": np.int32,
        "exit": np.int16, "place": np.int8, "correct": np.bool_, "attempts": np.int16,
    }  # fmt: skip
    values: dict[str, Any] = {name: np.array(columns.get(name, [0] * count), kind) for name, kind in kinds.items()}
    return Records(**values)


EXAMPLE = records_of(
    place=[EDGE, EDGE, CLOUD, CLOUD, FALLBACK, LOST],
    exit=[0, 1, 1, 2, 0, 0],
    latency_ms=[10, 20, 30, 100, 40, 999],
    correct=[1, 0, 1, 1, 0, 1],
    uplink_bytes=[0, 0, 500, 500, 500, 0],
    attempts=[1, 1, 2, 1, 3, 1],
    row=[5, 4, 3, 2, 1, 0],
    edge=[0, 0, 1, 1, 2, 2],
)


def test_the_figures_by_hand() -> None:
    assert EXAMPLE.summary(deadline_ms=40) == {
        "requests": 6,
        "answered": 5,
        "lost": 1,
        "sent_again": 2,
        "accuracy": 0.6,
        "share_by_exit": {
            "edge/0": 1 / 6, "edge/1": 1 / 6, "cloud/1": 1 / 6, "cloud/2": 1 / 6, "fallback": 1 / 6, "lost": 1 / 6,
        },
        "latency_ms": {"mean": 40.0, "p50": 30.0, "p95": 88.0, "p99": 97.6},
        "in_time": 4 / 6,
        "uplink_bytes_per_request": 250.0,
    }  # fmt: skip


def test_nobody_lost_is_no_share_and_shares_add_up() -> None:
    answered = records_of(place=[EDGE, CLOUD, CLOUD], exit=[0, 1, 1], latency_ms=[1, 2, 3])
    summary = answered.summary(deadline_ms=2)
    assert summary["share_by_exit"] == {"edge/0": 1 / 3, "cloud/1": 2 / 3}
    assert (summary["in_time"], summary["accuracy"]) == (2 / 3, 0)


def test_where_all_are_lost_nothing_is_in_time() -> None:
    summary = records_of(place=[LOST, LOST], correct=[1, 1]).summary(deadline_ms=1)
    assert (summary["answered"], summary["accuracy"], summary["in_time"]) == (0, 0.0, 0.0)
    assert set(summary["latency_ms"].values()) == {None}
    assert summary["share_by_exit"] == {"lost": 1.0}


def test_a_file_read_back_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "deep" / "records.parquet"
    EXAMPLE.write_parquet(path)
    table = pq.read_table(path)
    assert table.column_names == list(EXAMPLE.columns())
    assert table["place"].to_pylist() == [PLACES[place] for place in EXAMPLE.place]
    for name, values in EXAMPLE.columns().items():
        if name != "place":
            assert table[name].type == pa.from_numpy_dtype(values.dtype)
            np.testing.assert_array_equal(table[name].to_numpy(), values)


def test_parts_join_in_their_order() -> None:
    first, second = (
        replace(EXAMPLE, **{name: values[part] for name, values in EXAMPLE.columns().items()})
        for part in (slice(0, 2), slice(2, None))
    )
    joined = Records.joined([first, second])
    assert len(joined) == len(first) + len(second) == 6
    for name, values in EXAMPLE.columns().items():
        np.testing.assert_array_equal(joined.columns()[name], values)
        assert joined.columns()[name].dtype == values.dtype
