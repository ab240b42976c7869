"""Columns given and left out, files, and joined parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simulations.model.request_records import CLOUD, EDGE, FALLBACK, LOST, PLACES, Records

EXAMPLE = Records.of(
    place=[EDGE, EDGE, CLOUD, CLOUD, FALLBACK, LOST],
    exit=[0, 1, 1, 2, 0, -1],
    latency_ms=[10, 20, 30, 100, 40, 999],
    row=[5, 4, 3, 2, 1, 0],
    edge=[0, 0, 1, 1, 2, 2],
    reason=["", "", "", "", "UNAVAILABLE: away", "DEADLINE_EXCEEDED: too long"],
    fault=["", "edge answered 3, expected 4", "", "", "", ""],
)


def test_what_is_not_given_is_nothing_and_what_is_given_gets_its_dtype() -> None:
    made = Records.of(place=np.array([[EDGE, LOST]], np.int64), latency_ms=[[1, 2]])
    assert len(made) == 2
    assert (made.place.dtype, made.latency_ms.dtype, made.attempts.dtype) == (np.int8, np.float64, np.int16)
    assert made.place.tolist() == [EDGE, LOST]
    assert (made.attempts.tolist(), made.reason.tolist(), made.correct.tolist()) == ([1, 1], ["", ""], [False, False])


def test_a_file_read_back_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "deep" / "records.parquet"
    EXAMPLE.write_parquet(path)
    table = pq.read_table(path)
    assert table.column_names == list(EXAMPLE.columns())
    assert table["place"].to_pylist() == [PLACES[place] for place in EXAMPLE.place]
    for name, values in EXAMPLE.columns().items():
        if name in ("reason", "fault"):
            assert table[name].to_pylist() == values.tolist()
        elif name != "place":
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
