"""First come, first served, solved for whole arrays at once: a worker, a link, a server that takes batches.

All but the batching server are Lindley's recursion, finish[i] = max(ready[i], finish[i-1]) + work[i], in closed form:
finish[i] = S[i] + max over j ≤ i of (ready[j] − S[j-1]), S the running sum of the work. Two accumulations, no loop.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simulations.link.capacity import Capacity

__all__ = ["drain", "serve", "serve_in_batches"]

Floats = NDArray[np.float64]


def serve(ready_s: Floats, work_s: Floats) -> Floats:
    """When a single worker finishes each job: float64 [..., n] for jobs in the order they are ready.

    A job whose *ready_s* is minus infinity is not there; its work must be 0 and its finish means nothing.
    """
    done = np.cumsum(work_s, axis=-1)
    return np.asarray(done + np.maximum.accumulate(ready_s - (done - work_s), axis=-1))


def drain(capacity: Capacity, ready_s: Floats, bits: Floats, offset_s: Floats | float = 0.0) -> Floats:
    """When the last bit of each message is on a link of *capacity*: float64 [..., n] for messages in the order ready.

    *offset_s* (it broadcasts) is where in the capacity's course a link is at time 0. Messages that are not there have
    *ready_s* minus infinity and no *bits*; their time means nothing.
    """
    there = np.isfinite(ready_s)
    start = capacity.bits_by(np.where(there, ready_s + offset_s, 0.0))
    finish = serve(np.where(there, start, -np.inf), bits)
    times_s = capacity.time_of_s(np.where(there, finish, 1.0))
    return np.asarray(np.where(there, times_s - offset_s, -np.inf))


def serve_in_batches(
    ready_s: Floats,
    need: NDArray[np.int64],
    batch_s: Callable[[NDArray[np.int64]], float],
    workers: int,
    max_batch: int,
) -> tuple[Floats, Floats]:
    """Start and finish of each job at a server that takes whatever waits, up to *max_batch* at a time.

    *ready_s*: float64 [n], ascending. *need*: int64 [n], what each job needs; *batch_s* gives the seconds of a batch
    from its jobs' needs. Each of *workers* takes, as soon as it is free, the oldest jobs that are there; all jobs of a
    batch finish together. Of several free workers the one free the longest goes first.
    """
    count = len(ready_s)
    start_s, finish_s = np.empty(count), np.empty(count)
    free_s = [-np.inf] * workers
    first = 0
    while first < count:
        begin_s = max(free_s[0], float(ready_s[first]))
        end = first + 1
        while end < count and end - first < max_batch and ready_s[end] <= begin_s:
            end += 1
        over_s = begin_s + batch_s(need[first:end])
        heapq.heapreplace(free_s, over_s)
        start_s[first:end], finish_s[first:end] = begin_s, over_s
        first = end
    return start_s, finish_s
