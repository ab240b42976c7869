"""What every candidate is expected to take over a link that is only believed in, with a deadline and others in the way.

`branchynet.placement.optimise` judges plans on a link that is known and on which each message comes through. A node at
work knows less and more: how unsure its belief is, how likely an answer is not to come at all, and how many requests
there are to wait behind at its own worker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.placement.candidates import Candidates
from branchynet.placement.link_estimator import LinkEstimate
from branchynet.placement.serving_profile import Link, ServingProfile

__all__ = ["LatencyForecast", "LinkState"]

Floats = NDArray[np.float64]
# A worker that has more to do than it can has no mean wait; it counts as one that is at work for this share of time.
MOST_BUSY = 0.95


@dataclass(frozen=True, slots=True)
class LinkState:
    """What an edge believes.

    *cloud_queue_ms*: an offload's wait in the cloud. *risk*: how likely no answer comes, 0..1, and *given_up_ms*: how
    long one waits for it then. *requests_per_s*: how many come.
    """

    link: LinkEstimate
    cloud_queue_ms: float = 0.0
    risk: float = 0.0
    given_up_ms: float = 0.0
    requests_per_s: float = 0.0


class LatencyForecast:
    """The times of all *candidates* on the devices of *profile*, ready for any `LinkState`."""

    def __init__(self, candidates: Candidates, profile: ServingProfile) -> None:
        # Over a link that takes no time; what it takes is added later.
        costs = [
            profile.costs_by_exit(way.cut, way.codec, Link(math.inf), edge_only=way.edge_only)
            for way in candidates.ways
        ]
        self._way, self._shares = candidates.way, candidates.shares
        self._bytes = np.array([cost.uplink_bytes for cost in costs])  # [W, E]
        self._there_ms = np.array([cost.busy_ms + cost.waiting_ms for cost in costs])
        self._sent = self._bytes > 0
        beside_ms = profile.request_ms + np.where(self._sent, profile.offload_ms, 0.0)
        work_ms = np.array([cost.busy_ms for cost in costs]) - beside_ms
        self._work_ms, self._work_ms2 = self._means(work_ms), self._means(work_ms**2)

    @property
    def uplink_bytes(self) -> Floats:
        """Bytes that a request sends on average, float64 [P]."""
        return self._means(self._bytes)

    def offload_ms(self, link_state: LinkState) -> Floats:
        """The time of a sample that leaves at the last exit, float64 [P]."""
        return np.asarray(self._times_ms(link_state)[0][self._way, -1])

    def expected_ms(self, link_state: LinkState, deadline_ms: float | None = None) -> Floats:
        """Mean time of a request under each candidate, float64 [P].

        With *deadline_ms*, a request whose answer is later than that or given up counts that much more.
        """
        times_ms, std_ms = self._times_ms(link_state)
        lost = np.where(self._sent, link_state.risk, 0.0)
        counted_ms = times_ms + lost * np.maximum(link_state.given_up_ms - times_ms, 0.0)
        if deadline_ms is not None:
            late = np.where(self._sent, _above(deadline_ms, times_ms, std_ms), times_ms > deadline_ms)
            # One number to choose by: the mean alone takes one outage in ten requests for a bargain.
            counted_ms = counted_ms + deadline_ms * (lost + (1 - lost) * late)
        return self._means(counted_ms) + self._wait_ms(link_state.requests_per_s)

    def _times_ms(self, link_state: LinkState) -> tuple[Floats, Floats]:
        """Time of a sample by way and exit, and its standard deviation: float64 [W, E] each."""
        link = link_state.link
        (rtt_var, both), (_, byte_var) = link.covariance
        link_ms = link.rtt_ms + self._bytes * link.mean[1]
        variance = rtt_var + 2 * both * self._bytes + byte_var * self._bytes**2 + (link.noise * link_ms) ** 2
        times_ms = self._there_ms + np.where(self._sent, link_ms + link_state.cloud_queue_ms, 0.0)
        return times_ms, np.sqrt(np.maximum(variance, 0.0))

    def _wait_ms(self, requests_per_s: float) -> Floats:
        """Mean wait for the edge's worker, if requests come at random (Pollaczek and Khinchine): float64 [P]."""
        per_ms = requests_per_s / 1e3
        busy = np.minimum(per_ms * self._work_ms, MOST_BUSY)
        return np.asarray(per_ms * self._work_ms2 / (2 * (1 - busy)))

    def _means(self, by_way: Floats) -> Floats:
        return np.asarray(np.einsum("pe,pe->p", by_way[self._way], self._shares))


def _above(limit_ms: float, mean_ms: Floats, std_ms: Floats) -> Floats:
    """How likely a normal time of that mean and deviation is above *limit_ms*."""
    scaled = (limit_ms - mean_ms) / (math.sqrt(2) * np.maximum(std_ms, 1e-9))
    return np.array([0.5 * math.erfc(value) for value in scaled.flat]).reshape(scaled.shape)
