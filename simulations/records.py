"""What became of every request, of real nodes and simulated ones alike: columns, their summary, their Parquet file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CLOUD", "EDGE", "FALLBACK", "LOST", "PLACES", "Records"]

# Who answered, as a small number in the column `place`.
PLACES = ("edge", "cloud", "fallback", "lost")
EDGE, CLOUD, FALLBACK, LOST = range(4)


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
        import pyarrow as pa
        import pyarrow.parquet as pq

        places = pa.DictionaryArray.from_arrays(self.place, list(PLACES))
        columns = {name: pa.array(values) for name, values in self.columns().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({**columns, "place": places}), path, compression="zstd")

    def summary(self, deadline_ms: float) -> dict[str, Any]:
        """The figures of a run; `docs/figures.md` explains the keys."""
        answered = self.place != LOST
        in_time = answered & (self.latency_ms <= deadline_ms)
        latencies = self.latency_ms[answered] if answered.any() else np.array([np.nan])
        return {
            "requests": len(self),
            "answered": int(answered.sum()),
            "lost": int((~answered).sum()),
            "sent_again": int((self.attempts > 1).sum()),
            "accuracy": float(self.correct[answered].mean()) if answered.any() else 0.0,
            "share_by_exit": self._shares(),
            "latency_ms": {
                "mean": round(float(latencies.mean()), 3),
                **{f"p{percent}": round(float(np.percentile(latencies, percent)), 3) for percent in (50, 95, 99)},
            },
            "in_time": float(in_time.mean()),
            "uplink_bytes_per_request": round(float(self.uplink_bytes.mean()), 3),
        }

    def _shares(self) -> dict[str, float]:
        """Who answered which share: `edge/0` is exit 0 at an edge."""
        shares = {}
        for place in (EDGE, CLOUD):
            for number in np.unique(self.exit[self.place == place]):
                chosen = (self.place == place) & (self.exit == number)
                shares[f"{PLACES[place]}/{number}"] = float(chosen.mean())
        for place in (FALLBACK, LOST):
            if share := float((self.place == place).mean()):
                shares[PLACES[place]] = share
        return shares
