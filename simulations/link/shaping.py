"""The arithmetic of an emulated link: when does a chunk of bytes leave, and when does it arrive.

Pure: *now_s* is passed in, on whatever clock the caller keeps, and randomness comes from a passed
generator. Sizes are payload bytes (no TCP or IP headers), 1 Mbit/s is 1e6 bit/s, and each direction is

    chunks ──> Serialiser (rate, first come first served) ──> Propagation (delay ± jitter) ──> receiver
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from branchynet.errors import InvalidInput
from simulations.link.capacity import Capacity

__all__ = ["Course", "CourseSerialiser", "Direction", "LinkSettings", "Propagation", "Serialiser"]

# One chunk holds the link for at most about CHUNK_S, so that a small message waits that long, and not
# for the whole of a big one. Below 512 bytes the bookkeeping would cost more than the fairness is worth.
_CHUNK_S = 0.005
_MIN_CHUNK_BYTES = 512
_MAX_CHUNK_BYTES = 16 * 1024
_UNLIMITED_CHUNK_BYTES = 64 * 1024

# Where no rate bounds what is on the wire: more than this proxy can carry, and Linux's usual largest window.
_UNLIMITED_MBPS = 10_000.0
_UNLIMITED_WIRE_BYTES = 6 * 1024 * 1024


@dataclass(frozen=True)
class Course:
    """A rate that varies: what *capacity* can carry, whose time 0 is *zero_s* on the clock of the link."""

    capacity: Capacity
    zero_s: float


@dataclass(frozen=True)
class Direction:
    """One way of a link.

    *rate_mbps* is in Mbit/s, None for no limit but that of *course*, a rate that varies. A chunk of bytes takes
    *delay_ms* to cross, and up to *jitter_ms* less or more, evenly spread; jitter above the delay would mean arrival
    before departure. Raises InvalidInput for a value that no link can have.
    """

    rate_mbps: float | None
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    course: Course | None = None

    def __post_init__(self) -> None:
        if self.rate_mbps is not None and self.course is not None:
            raise InvalidInput(f"rate_mbps is {self.rate_mbps}; it must be None for a rate that varies")
        if self.rate_mbps is not None and not (math.isfinite(self.rate_mbps) and self.rate_mbps > 0):
            raise InvalidInput(f"rate_mbps is {self.rate_mbps}; it must be above 0, or None for no limit")
        if not (math.isfinite(self.delay_ms) and self.delay_ms >= 0):
            raise InvalidInput(f"delay_ms is {self.delay_ms}; it must be 0 or more")
        if not 0 <= self.jitter_ms <= self.delay_ms:
            raise InvalidInput(
                f"jitter_ms is {self.jitter_ms}; it must be between 0 and delay_ms, which is {self.delay_ms}"
            )

    @property
    def mean_mbps(self) -> float | None:
        """The rate, or the mean of one that varies; None for no limit."""
        return self.rate_mbps if self.course is None else self.course.capacity.mean_mbps

    @property
    def chunk_bytes(self) -> int:
        """The most bytes that may hold this direction at a stretch."""
        if self.mean_mbps is None:
            return _UNLIMITED_CHUNK_BYTES
        return min(max(int(self.mean_mbps * 1e6 / 8 * _CHUNK_S), _MIN_CHUNK_BYTES), _MAX_CHUNK_BYTES)

    @property
    def wire_bytes(self) -> int:
        """How many bytes can be under way at once: the rate times the longest delay."""
        longest_s = (self.delay_ms + self.jitter_ms) / 1e3
        if self.mean_mbps is None:
            return min(math.ceil(_UNLIMITED_MBPS * 1e6 / 8 * longest_s), _UNLIMITED_WIRE_BYTES)
        return math.ceil(self.mean_mbps * 1e6 / 8 * longest_s)

    def serialiser(self, free_at_s: float) -> Serialiser | CourseSerialiser:
        """Who puts chunks on this direction's wire, which is free from *free_at_s* on."""
        if self.course is not None:
            return CourseSerialiser(self.course, free_at_s)
        return Serialiser(self.rate_mbps, free_at_s)


@dataclass(frozen=True)
class LinkSettings:
    """Both ways of a link, *up* from client to target, and the *seed* of its jitter (0 or more)."""

    up: Direction
    down: Direction
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InvalidInput(f"seed is {self.seed}; it must be 0 or more")

    @classmethod
    def symmetric_delay(
        cls,
        uplink_mbps: float | None,
        downlink_mbps: float | None,
        rtt_ms: float,
        jitter_ms: float = 0.0,
        seed: int = 0,
    ) -> LinkSettings:
        """A link whose round trip takes *rtt_ms* ± *jitter_ms*, half of both in each direction.

        Raises InvalidInput for a rate, a time or a seed out of range; *jitter_ms* may not exceed *rtt_ms*.
        """
        if not (math.isfinite(rtt_ms) and rtt_ms >= 0):
            raise InvalidInput(f"rtt_ms is {rtt_ms}; it must be 0 or more")
        if not 0 <= jitter_ms <= rtt_ms:
            raise InvalidInput(f"jitter_ms is {jitter_ms}; it must be between 0 and rtt_ms, which is {rtt_ms}")
        up = Direction(uplink_mbps, rtt_ms / 2, jitter_ms / 2)
        down = Direction(downlink_mbps, rtt_ms / 2, jitter_ms / 2)
        return cls(up, down, seed)

    def generators(self) -> tuple[np.random.Generator, np.random.Generator]:
        """The sources of jitter, up and down: independent of each other, the same for the same seed."""
        return np.random.default_rng([self.seed, 0]), np.random.default_rng([self.seed, 1])


class Serialiser:
    """Puts chunks on the wire one after the other, in the order asked, at *rate_mbps* (None: at once).

    *free_at_s* is when the wire is first free. Departures follow from the departure before and not from
    when somebody woke up to ask, so a late caller costs no throughput.
    """

    def __init__(self, rate_mbps: float | None, free_at_s: float = -math.inf) -> None:
        self._seconds_per_byte = 0.0 if rate_mbps is None else 8 / (rate_mbps * 1e6)
        self._free_at_s = free_at_s

    @property
    def free_at_s(self) -> float:
        """When the last byte accepted so far is on the wire."""
        return self._free_at_s

    def departure_s(self, size_bytes: int, now_s: float) -> float:
        """When the last of *size_bytes* that are ready at *now_s* is on the wire; takes up that time."""
        self._free_at_s = max(now_s, self._free_at_s) + size_bytes * self._seconds_per_byte
        return self._free_at_s


class CourseSerialiser:
    """The same over a rate that varies: departures are booked in bits of the course, so they are exact."""

    def __init__(self, course: Course, free_at_s: float = -math.inf) -> None:
        self._course = course
        self._free_at_s = free_at_s
        self._booked_bits = self._bits_by(free_at_s)

    @property
    def free_at_s(self) -> float:
        """When the last byte accepted so far is on the wire."""
        return self._free_at_s

    def departure_s(self, size_bytes: int, now_s: float) -> float:
        """When the last of *size_bytes* that are ready at *now_s* is on the wire; takes up that time."""
        self._booked_bits = max(self._bits_by(now_s), self._booked_bits) + 8.0 * size_bytes
        if size_bytes:
            left_s = self._course.zero_s + float(self._course.capacity.time_of_s(np.asarray(self._booked_bits)))
            self._free_at_s = max(left_s, now_s)
        # What has no size, the end of a stream, still leaves after the bytes before it.
        return max(self._free_at_s, now_s)

    def _bits_by(self, time_s: float) -> float:
        return float(self._course.capacity.bits_by(np.asarray(max(time_s - self._course.zero_s, 0.0))))


class Propagation:
    """Carries what has departed to the other end, with the delay of *direction* and jitter from *rng*."""

    def __init__(self, direction: Direction, rng: np.random.Generator) -> None:
        self._delay_s = direction.delay_ms / 1e3
        self._jitter_s = direction.jitter_ms / 1e3
        self._rng = rng

    def arrival_s(self, departure_s: float, not_before_s: float = -math.inf) -> float:
        """When a chunk that left at *departure_s* arrives.

        *not_before_s* is the arrival of the connection's chunk before: TCP hands over in order, so a quick
        chunk waits for a slow one ahead of it, and a long message sees the slow end of the jitter.
        """
        jitter_s = self._rng.uniform(-self._jitter_s, self._jitter_s)
        return max(departure_s + self._delay_s + jitter_s, not_before_s)
