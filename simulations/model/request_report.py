"""The figures of requests, live and simulated alike: what was answered, by whom, how fast, and what went wrong.

Pure: records in, numbers out. Percentiles are exact, as each latency is kept, 8 bytes a request.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simulations.model.request_records import CLOUD, EDGE, FALLBACK, LOST, PLACES, Records

__all__ = ["PERCENTILES", "Report"]

PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
# More than any exit's number.
EXITS = 2**15


class Report:
    """What became of requests that had *deadline_ms* for their answer; records may be added part by part."""

    def __init__(self, deadline_ms: float) -> None:
        self.deadline_ms = deadline_ms
        self._latencies_ms: list[NDArray[np.float64]] = []
        self._counts: Counter[str] = Counter()
        self._by_exit: Counter[int] = Counter()
        self._from_s, self._until_s = math.inf, -math.inf
        self.lost_reasons: Counter[str] = Counter()
        self.fallback_reasons: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    @classmethod
    def of(cls, records: Records, deadline_ms: float) -> Self:
        """The report of *records*."""
        report = cls(deadline_ms)
        report.add(records)
        return report

    def add(self, records: Records) -> None:
        """Count *records* in."""
        if not len(records):
            return
        answered = records.place != LOST
        in_time = answered & (records.latency_ms <= self.deadline_ms)
        self._latencies_ms.append(records.latency_ms[answered])
        self._counts.update(
            requests=len(records),
            retried=int((records.attempts > 1).sum()),
            right=int(records.correct[answered].sum()),
            in_time=int(in_time.sum()),
            as_planned=int((in_time & (records.place < FALLBACK)).sum()),
            uplink_bytes=int(records.uplink_bytes.sum(dtype=np.int64)),
        )
        self._from_s = min(self._from_s, float(records.sent_s.min()))
        self._until_s = max(self._until_s, float((records.sent_s + records.latency_ms / 1e3).max()))
        self.lost_reasons.update(records.reason[records.place == LOST].tolist())
        # Behind the status stands how long the edge waited, which differs from one fallback to the next.
        self.fallback_reasons.update(_by_status(Counter(records.reason[records.place == FALLBACK].tolist())))
        self.faults.update(records.fault[records.fault.astype(np.bool_)].tolist())
        # An exit's number says nothing about a fallback or a loss.
        numbers = np.where(records.place < FALLBACK, records.exit, 0)
        keys, counts = np.unique(records.place.astype(np.int64) * EXITS + numbers, return_counts=True)
        self._by_exit.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))

    @property
    def requests(self) -> int:
        """Those that have ended."""
        return self._counts["requests"]

    @property
    def answered(self) -> int:
        """Those with an answer, right or wrong."""
        return self.requests - self.lost

    @property
    def lost(self) -> int:
        """Those without an answer by their deadline, and those that a node refused."""
        return self._by_exit[LOST * EXITS]

    @property
    def retried(self) -> int:
        """Those that were sent more than once."""
        return self._counts["retried"]

    @property
    def wrong(self) -> int:
        """Answers that were checked and found wrong."""
        return self.faults.total()

    @property
    def flawless(self) -> bool:
        """Whether there were requests, and each has an answer that nothing is wrong with."""
        return 0 < self.requests == self.answered and not self.wrong

    @property
    def accuracy(self) -> float:
        """Share of right answers among the answered; 0 if there are none."""
        return self._counts["right"] / max(self.answered, 1)

    @property
    def in_time(self) -> float:
        """Share of the requests that were answered by the deadline."""
        return self._counts["in_time"] / max(self.requests, 1)

    @property
    def as_planned(self) -> float:
        """Share of the requests that were answered by the deadline, and not by a fallback."""
        return self._counts["as_planned"] / max(self.requests, 1)

    @property
    def fallback_share(self) -> float:
        """Share of the requests that a fallback answered, or nobody."""
        return (self._by_exit[FALLBACK * EXITS] + self.lost) / max(self.requests, 1)

    @property
    def uplink_bytes_per_request(self) -> float:
        """Size of the messages to the cloud over all requests."""
        return self._counts["uplink_bytes"] / max(self.requests, 1)

    @property
    def seconds(self) -> float:
        """From the first request to the end of the last."""
        return max(self._until_s - self._from_s, 0.0)

    @property
    def throughput_per_s(self) -> float:
        """Answers a second."""
        return self._per_s(self.answered)

    @property
    def goodput_per_s(self) -> float:
        """Answers within the deadline a second."""
        return self._per_s(self._counts["in_time"])

    @property
    def latencies_ms(self) -> NDArray[np.float64]:
        """Those of the answered, float64 [n]."""
        self._latencies_ms = [np.concatenate([*self._latencies_ms, np.zeros(0)])]
        return self._latencies_ms[0]

    @property
    def mean_ms(self) -> float:
        """Mean latency of the answered; NaN if there are none."""
        return float(self.latencies_ms.mean()) if self.answered else math.nan

    def percentile_ms(self, percent: float) -> float:
        """The latency that *percent* of the answered do not exceed; NaN if there are none."""
        return float(np.percentile(self.latencies_ms, percent)) if self.answered else math.nan

    def by_place(self) -> dict[str, int]:
        """How many answers each place gave."""
        counts = Counter[str]()
        for key, count in self._by_exit.items():
            counts[PLACES[key // EXITS]] += count
        return {PLACES[place]: counts[PLACES[place]] for place in (EDGE, CLOUD, FALLBACK)}

    def share_by_exit(self) -> dict[str, float]:
        """Who answered: `edge/0`, `cloud/1`, …, `fallback`, `lost`, in this order; adds up to 1."""
        return {
            _answered_by(*divmod(key, EXITS)): count / self.requests for key, count in sorted(self._by_exit.items())
        }

    def lost_by_status(self) -> dict[str, int]:
        """Requests without an answer by the gRPC status that they ended with, most frequent first."""
        return dict(_by_status(self.lost_reasons).most_common())

    def histogram(self, bins: int) -> list[tuple[float, float, int]]:
        """Up to *bins* ranges of latency, equal in the logarithm, each as (from ms, to ms, answers)."""
        latencies_ms = np.maximum(self.latencies_ms, 1e-3)
        if not len(latencies_ms):
            return []
        low, high = float(latencies_ms.min()), float(latencies_ms.max())
        edges = np.geomspace(low, high, bins + 1) if high > low else np.array([low, high])
        edges[0], edges[-1] = low, high  # the roots are not exact, and nobody may fall out
        counts, _ = np.histogram(latencies_ms, edges)
        return [(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]

    def figures(self) -> dict[str, Any]:
        """For a program; `docs/reference/json.md` explains the keys. Where nothing was answered, latencies are None."""
        latencies = {"mean": self.mean_ms, **{name: self.percentile_ms(of) for name, of in PERCENTILES.items()}}
        latencies["max"] = self.percentile_ms(100)
        return {
            "requests": self.requests,
            "answered": self.answered,
            "lost": self.lost,
            "retried": self.retried,
            "wrong": self.wrong,
            "accuracy": self.accuracy,
            "by_place": self.by_place(),
            "share_by_exit": self.share_by_exit(),
            "latency_ms": {name: round(value, 3) if self.answered else None for name, value in latencies.items()},
            "deadline_ms": self.deadline_ms,
            "in_time": self.in_time,
            "seconds": round(self.seconds, 3),
            "throughput_per_s": round(self.throughput_per_s, 3),
            "goodput_per_s": round(self.goodput_per_s, 3),
            "uplink_bytes_per_request": round(self.uplink_bytes_per_request, 3),
            "reasons": {
                "lost": dict(self.lost_reasons.most_common()),
                "fallback": dict(self.fallback_reasons.most_common()),
                "wrong": dict(self.faults.most_common()),
            },
        }

    def _per_s(self, count: int) -> float:
        return count / self.seconds if self.seconds > 0 else 0.0


def _by_status(reasons: Counter[str]) -> Counter[str]:
    counts = Counter[str]()
    for reason, count in reasons.items():
        counts[reason.partition(":")[0]] += count
    return counts


def _answered_by(place: int, number: int) -> str:
    return PLACES[place] if place >= FALLBACK else f"{PLACES[place]}/{number}"
