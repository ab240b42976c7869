"""What became of every request, of real nodes and simulated ones alike: columns, and their Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from branchynet.files import replacing

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetWriter

__all__ = ["CLOUD", "EDGE", "FALLBACK", "LATE", "LOST", "PLACES", "Records", "RecordsFile", "late_reasons"]

# Who answered, as a small number in the column `place`.
PLACES = ("edge", "cloud", "fallback", "lost")
EDGE, CLOUD, FALLBACK, LOST = range(4)
# Why a simulated cloud does not answer: it is never away, only late.
LATE = "DEADLINE_EXCEEDED"
# The dtype of each column, and what stands in it where nothing is known.
_COLUMNS: dict[str, tuple[DTypeLike, object]] = {
    "edge": (np.int32, 0),
    "cloud": (np.int32, 0),
    "row": (np.int32, 0),
    "sent_s": (np.float64, 0.0),
    "latency_ms": (np.float64, 0.0),
    "edge_ms": (np.float64, 0.0),
    "network_ms": (np.float64, 0.0),
    "cloud_ms": (np.float64, 0.0),
    "uplink_bytes": (np.int32, 0),
    "exit": (np.int16, 0),
    "place": (np.int8, EDGE),
    "correct": (np.bool_, False),
    "attempts": (np.int16, 1),
    "reason": (np.object_, ""),
    "fault": (np.object_, ""),
}
_TEXTS = ("reason", "fault")


@dataclass(frozen=True)
class Records:
    """One row an image, N rows; a request that brings several has a row for each, with the request's times.

    *edge*, *cloud*: numbers of the nodes, int32. *row*: which sample of the outcome table it was, int32. *sent_s*:
    float64, when it was due, from the start of the run; without a schedule, when it was sent. *latency_ms*: from then
    to its answer as the caller saw it. *edge_ms*: waiting and computing in the edge's stages. *network_ms*: from the
    offload to its answer without *cloud_ms*, which is waiting and computing there. *uplink_bytes*: size of the message
    to the cloud, int32. *exit*: who answered, int16, -1 if lost. *place*: index into `PLACES`, int8. *correct*: bool.
    *attempts*: how often it was sent, int16. *reason*: why the cloud did not answer, or nobody: a gRPC status, with
    what it says behind a colon; empty for the others. *fault*: what is wrong with an answer that was checked.
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
    reason: NDArray[np.object_]
    fault: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.edge)

    @classmethod
    def of(cls, **columns: ArrayLike) -> Records:
        """Rows with these *columns*, one or more, of any shape and alike; each is made flat and given its dtype.

        The others are 0, *attempts* 1 and texts empty.
        """
        count = np.size(next(iter(columns.values())))
        made: dict[str, NDArray[Any]] = {
            name: np.full(count, usual, dtype) for name, (dtype, usual) in _COLUMNS.items() if name not in columns
        }
        for name, values in columns.items():
            made[name] = np.asarray(values).ravel().astype(_COLUMNS[name][0], copy=False)
        return cls(**made)

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


def late_reasons(late: NDArray[np.bool_]) -> NDArray[np.object_]:
    """The column `reason` of simulated requests, of which those in *late* were answered too late by the cloud."""
    return np.where(late, np.array(LATE, np.object_), "")


class RecordsFile:
    """A Parquet file of records, written part by part; a context manager, at whose end it takes the place of *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._writer: ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, records: Records) -> None:
        """Add *records* as rows, a row group of its own."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            name: pa.array(values, pa.string() if name in _TEXTS else None)
            for name, values in records.columns().items()
        }
        places = pa.DictionaryArray.from_arrays(records.place, list(PLACES))
        table = pa.table({**columns, "place": places})
        if self._writer is None:
            file = self._stack.enter_context(replacing(self._path))
            self._writer = self._stack.enter_context(pq.ParquetWriter(file, table.schema, compression="zstd"))
        self._writer.write_table(table)
