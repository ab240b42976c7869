"""What became of every request, of real nodes and simulated ones alike: columns, their summary, their Parquet file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyarrow.parquet import ParquetWriter

__all__ = ["CLOUD", "EDGE", "FALLBACK", "LOST", "PLACES", "Records", "RecordsFile", "Tally"]

# Who answered, as a small number in the column `place`.
PLACES = ("edge", "cloud", "fallback", "lost")
EDGE, CLOUD, FALLBACK, LOST = range(4)
# More than any exit's number.
EXITS = 2**15


@dataclass(frozen=True)
class Records:
    """One row a request, N rows.

    *edge*, *cloud*: numbers of the nodes, int32. *row*: which sample of the outcome table it was, int32. *sent_s*:
    float64, when it was sent, from the start of the run. *latency_ms*: until its answer as the caller saw it.
    *edge_ms*: waiting and computing in the edge's stages. *network_ms*: from the offload to its answer without
    *cloud_ms*, which is waiting and computing there. *uplink_bytes*: size of the message to the cloud, int32. *exit*:
    who answered, int16. *place*: index into `PLACES`, int8. *correct*: bool. *attempts*: how often it was sent, int16.
    """

    edge: NDArray[np.int32]
    cloud: NDArray[np.int32]
    row: NDArray[np.int32]
    sent_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    edge_ms: NDArray[np.float64]
    network_ms: NDArray[np.float64]
    cloud_ms: NDArray[np.float64]
    uplink_bytes: NDArray[np.int32]
    exit: NDArray[np.int16]
    place: NDArray[np.int8]
    correct: NDArray[np.bool_]
    attempts: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.edge)

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """All rows of *parts*, one or more, in their order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def write_parquet(self, path: Path) -> None:
        """Write all rows to *path*; the column `place` holds words there."""
        with RecordsFile(path) as file:
            file.write(self)

    def summary(self, deadline_ms: float) -> dict[str, Any]:
        """The figures of a run; `docs/figures.md` explains the keys."""
        tally = Tally(deadline_ms)
        tally.add(self)
        return tally.summary()


class RecordsFile:
    """A Parquet file of records at *path*, whose folder is made, written part by part; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, records: Records) -> None:
        """Add *records* as rows, a row group of its own."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: pa.array(values) for name, values in records.columns().items()}
        places = pa.DictionaryArray.from_arrays(records.place, list(PLACES))
        table = pa.table({**columns, "place": places})
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)


class Tally:
    """The figures of a run whose records come in parts, of which it keeps counts and 8 bytes a request."""

    def __init__(self, deadline_ms: float) -> None:
        self._deadline_ms = deadline_ms
        self._latencies_ms: list[NDArray[np.float64]] = []
        self._counts: Counter[str] = Counter()
        self._by_exit: Counter[int] = Counter()

    def add(self, records: Records) -> None:
        """Count *records* in."""
        answered = records.place != LOST
        latencies_ms = records.latency_ms[answered]
        self._latencies_ms.append(latencies_ms)
        self._counts.update(
            requests=len(records),
            sent_again=int((records.attempts > 1).sum()),
            right=int(records.correct[answered].sum()),
            in_time=int((latencies_ms <= self._deadline_ms).sum()),
            uplink_bytes=int(records.uplink_bytes.sum(dtype=np.int64)),
        )
        # An exit's number says nothing about a fallback or a loss.
        numbers = np.where(records.place < FALLBACK, records.exit, 0)
        keys, counts = np.unique(records.place.astype(np.int64) * EXITS + numbers, return_counts=True)
        self._by_exit.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))

    def summary(self) -> dict[str, Any]:
        """The figures; where nothing was answered, shares are 0 and latencies None."""
        latencies_ms = np.concatenate([*self._latencies_ms, np.zeros(0)])
        answered, count = len(latencies_ms), self._counts["requests"]
        return {
            "requests": count,
            "answered": answered,
            "lost": count - answered,
            "sent_again": self._counts["sent_again"],
            "accuracy": self._counts["right"] / max(answered, 1),
            "share_by_exit": {
                _answered_by(*divmod(key, EXITS)): part / count for key, part in sorted(self._by_exit.items())
            },
            "latency_ms": _spread(latencies_ms),
            "in_time": self._counts["in_time"] / max(count, 1),
            "uplink_bytes_per_request": round(self._counts["uplink_bytes"] / max(count, 1), 3),
        }


def _spread(latencies_ms: NDArray[np.float64]) -> dict[str, float | None]:
    names = {"mean": None, "p50": 50, "p95": 95, "p99": 99}
    if not len(latencies_ms):
        return dict.fromkeys(names)
    return {
        name: round(float(latencies_ms.mean() if percent is None else np.percentile(latencies_ms, percent)), 3)
        for name, percent in names.items()
    }


def _answered_by(place: int, number: int) -> str:
    return PLACES[place] if place >= FALLBACK else f"{PLACES[place]}/{number}"
