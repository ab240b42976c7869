"""What an edge knows of the way to its cloud, from its own offloads: when can the next answer be expected?

An answer takes the link's time (`branchynet.placement.link_estimator`), the cloud's queue, and the cloud's work. A
queue changes soon and is forgotten soon. Work depends on where a sample enters and on how many come together: it is
kept for each cut and each size of a batch, up to a factor of two, and nothing is made up for those that never came.
"""

from __future__ import annotations

from dataclasses import dataclass

from branchynet.placement.link_estimator import LinkEstimate, LinkEstimator

__all__ = ["CloudTimes", "Expected"]

# A queue that was met so long ago is half forgotten.
QUEUE_HALF_LIFE_S = 3.0


@dataclass(frozen=True, slots=True)
class Expected:
    """An answer's time, sending included: its mean, its standard deviation, and how long ago the cloud was heard of."""

    mean_ms: float
    std_ms: float
    age_s: float


class CloudTimes:
    """Link, queue and work as offloads come back, starting from a guess of the link that is hardly believed.

    *overhead_ms*, *overhead_bytes*: the part of an offload's network time that is not the link's, and what the link
    carries beside a message, where they are known: a profile's `offload_ms` and `framing_bytes`. Raises `InvalidInput`
    for a guess that is not above 0.
    """

    def __init__(
        self, uplink_mbps: float = 10.0, rtt_ms: float = 50.0, overhead_ms: float = 0.0, overhead_bytes: int = 0
    ) -> None:
        self._link = LinkEstimator(uplink_mbps, rtt_ms)
        self._overhead_ms, self._overhead_bytes = overhead_ms, overhead_bytes
        self._queue_ms, self._queue_s = 0.0, 0.0
        self._heard_s = 0.0
        # By cut and bit length of the number of samples: the last time, and the one before.
        self._work_ms: dict[tuple[int, int], tuple[float, float]] = {}

    def link(self, now_s: float) -> LinkEstimate:
        """What is believed of the link."""
        return self._link.estimate(now_s)

    def queue_ms(self, now_s: float) -> float:
        """How long an offload is believed to wait in the cloud."""
        return float(self._queue_ms * 0.5 ** (max(now_s - self._queue_s, 0.0) / QUEUE_HALF_LIFE_S))

    def expected(self, now_s: float, sent_bytes: float, cut: int, samples: int) -> Expected | None:
        """When the answer to *samples* samples at *cut*, *sent_bytes* large, is here; None before any offload."""
        link = self.link(now_s)
        if not link.observations:
            return None
        transfer = link.transfer(sent_bytes + self._overhead_bytes)
        # The lesser of two: one that was interrupted says nothing, and a cloud that became quicker is believed at once.
        work_ms = min(self._work_ms.get((cut, samples.bit_length()), (0.0, 0.0)))
        mean_ms = transfer.mean_ms + self._overhead_ms + self.queue_ms(now_s) + work_ms
        return Expected(mean_ms, transfer.std_ms, max(now_s - self._heard_s, 0.0))

    def answered(self, now_s: float, sent_bytes: float, network_ms: float, queue_ms: float) -> None:
        """The answer to an offload is here: *network_ms* is its round trip less the cloud's time, *queue_ms* of that
        time was spent waiting there."""
        self._link.observe(now_s, sent_bytes + self._overhead_bytes, max(network_ms - self._overhead_ms, 0.0))
        known_ms = self.queue_ms(now_s)
        self._queue_ms, self._queue_s = known_ms + (queue_ms - known_ms) / 2, now_s
        self._heard_s = now_s

    def worked(self, cut: int, samples: int, work_ms: float) -> None:
        """The cloud worked *work_ms*, queue not counted, on *samples* samples that came at *cut*."""
        key = cut, samples.bit_length()
        self._work_ms[key] = work_ms, self._work_ms.get(key, (work_ms,))[0]

    def unanswered(self, now_s: float, sent_bytes: float, waited_ms: float) -> None:
        """An offload was given up after *waited_ms*."""
        self._link.lost(now_s, sent_bytes + self._overhead_bytes, waited_ms)
        self._heard_s = now_s
