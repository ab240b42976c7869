"""What was asked of a model and how long it took: numbers in, sums out. Reads no clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Counters", "Sum", "Times"]


@dataclass(slots=True)
class Sum:
    """How many, and how many nanoseconds together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count *count* more, which took *ns* together."""
        self.count += count
        self.ns += ns


@dataclass(frozen=True, slots=True)
class Times:
    """Where a request's nanoseconds went: reading it, waiting for the thread, computing, writing the response."""

    read_ns: int
    queue_ns: int
    infer_ns: int
    write_ns: int

    @property
    def total_ns(self) -> int:
        """From the request's arrival to its response."""
        return self.read_ns + self.queue_ns + self.infer_ns + self.write_ns


@dataclass(slots=True)
class Counters:
    """Sums over all requests so far. One that its caller gave up is in none of them.

    *images*: samples answered. *last_ms*: when the last answer was given, milliseconds since 1970, 0 before the first.
    *answered_by*: for each (place, exit) the images, and the time of their requests summed over the images.
    """

    images: int = 0
    last_ms: int = 0
    success: Sum = field(default_factory=Sum)
    failure: Sum = field(default_factory=Sum)
    queue: Sum = field(default_factory=Sum)
    read: Sum = field(default_factory=Sum)
    infer: Sum = field(default_factory=Sum)
    write: Sum = field(default_factory=Sum)
    answered_by: defaultdict[tuple[str, int], Sum] = field(default_factory=lambda: defaultdict(Sum))

    def add(self, answered_by: Iterable[tuple[str, int]], times: Times, now_ms: int) -> None:
        """Count a request that was answered: by which place and exit each image, and what it took."""
        for place_and_exit in answered_by:
            self.images += 1
            self.answered_by[place_and_exit].add(times.total_ns)
        self.last_ms = now_ms
        self.success.add(times.total_ns)
        self.queue.add(times.queue_ns)
        self.read.add(times.read_ns)
        self.infer.add(times.infer_ns)
        self.write.add(times.write_ns)

    def add_failure(self, total_ns: int) -> None:
        """Count a request that was refused or failed after *total_ns*."""
        self.failure.add(total_ns)
