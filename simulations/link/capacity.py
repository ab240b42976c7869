"""How many bits a link direction can have carried by a time, and back: a rate that varies in time as two functions.

A first-come-first-served link is a queue in *work*, not in time: bits leave in the order they came, and the last of
them is gone when the carried bits reach their sum. With `bits_by` and its inverse `time_of_s` such a queue is solved
exactly over any rate; see `simulations.model.queues.drain`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

__all__ = ["Capacity", "ConstantRate", "DeliveryLog", "PiecewiseRate", "markov_rate"]

Floats = NDArray[np.float64]
# What one line of a Mahimahi log stands for.
DELIVERY_BITS = 8 * 1500
# More than the relative error of a sum of some thousand messages.
ROUNDING = 1e-14


class Capacity(Protocol):
    """What one direction of a link can carry, from time 0 on."""

    @property
    def period_s(self) -> float:
        """After how long it starts anew; 0 if it is the same at all times."""
        ...

    @property
    def mean_mbps(self) -> float:
        """Its mean rate."""
        ...

    def bits_by(self, time_s: Floats) -> Floats:
        """Bits that can have left before each *time_s* (0 or more) if there were always some to send."""
        ...

    def time_of_s(self, bits: Floats) -> Floats:
        """The first time by which *bits* (above 0) can have left."""
        ...


@dataclass(frozen=True)
class ConstantRate:
    """The same rate at all times. Raises `InvalidInput` for a rate that is not a finite number above 0."""

    mbps: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mbps) and self.mbps > 0):
            raise InvalidInput(f"a link's rate is {self.mbps} Mbit/s; it must be above 0")

    @property
    def period_s(self) -> float:
        """See `Capacity`."""
        return 0.0

    @property
    def mean_mbps(self) -> float:
        """See `Capacity`."""
        return self.mbps

    def bits_by(self, time_s: Floats) -> Floats:
        """See `Capacity`."""
        return time_s * (1e6 * self.mbps)

    def time_of_s(self, bits: Floats) -> Floats:
        """See `Capacity`."""
        return bits / (1e6 * self.mbps)


@dataclass(frozen=True, eq=False)
class PiecewiseRate:
    """Rate *mbps*[i], float64 [K], until *ends_s*[i], float64 [K] ascending from above 0; then from the start again.

    A rate may be 0 for a while: nothing leaves then. Raises `InvalidInput` for times or rates that make no link.
    """

    ends_s: Floats
    mbps: Floats

    def __post_init__(self) -> None:
        if not len(self.ends_s) or self.ends_s.shape != self.mbps.shape:
            raise InvalidInput(f"{len(self.ends_s)} times with {len(self.mbps)} rates; as many of both are needed")
        if not np.isfinite(self.ends_s).all() or (np.diff(self.ends_s, prepend=0.0) <= 0).any():
            raise InvalidInput("the times of a varying rate must ascend from above 0")
        if not np.isfinite(self.mbps).all() or self.mbps.min() < 0 or self.mbps.max() == 0:
            raise InvalidInput("the rates of a link must be 0 or more, and not all 0")

    @cached_property
    def _marks_s(self) -> Floats:
        return np.concatenate([[0.0], self.ends_s])

    @cached_property
    def _marks_bits(self) -> Floats:
        return np.concatenate([[0.0], np.cumsum(np.diff(self._marks_s) * self.mbps * 1e6)])

    @property
    def period_s(self) -> float:
        """See `Capacity`."""
        return float(self.ends_s[-1])

    @property
    def mean_mbps(self) -> float:
        """See `Capacity`."""
        return float(self._marks_bits[-1] / self.period_s / 1e6)

    def bits_by(self, time_s: Floats) -> Floats:
        """See `Capacity`."""
        turns = np.floor(time_s / self.period_s)
        within = np.interp(time_s - turns * self.period_s, self._marks_s, self._marks_bits)
        return np.asarray(turns * self._marks_bits[-1] + within)

    def time_of_s(self, bits: Floats) -> Floats:
        """See `Capacity`."""
        total = self._marks_bits[-1]
        # Sums of many messages are rounded, and a hair's breadth must not carry a last bit over a silence.
        surely = bits * (1 - ROUNDING)
        # A whole number of turns ends with the last bit of a turn, not with the first of the next.
        turns = np.maximum(np.ceil(surely / total) - 1, 0.0)
        left = np.clip(bits - turns * total, 0.0, total)
        # Leftmost: the moment the last bit left, not the end of a silence after it.
        behind = np.searchsorted(self._marks_bits, surely - turns * total, side="left")
        piece = np.clip(behind - 1, 0, len(self.mbps) - 1)
        # Before a silence that opens the turn, 0 bits are reached at once; then the piece may have no rate.
        rate = np.where(self.mbps[piece] > 0, self.mbps[piece] * 1e6, np.inf)
        return np.asarray(turns * self.period_s + self._marks_s[piece] + (left - self._marks_bits[piece]) / rate)


@dataclass(frozen=True, eq=False)
class DeliveryLog:
    """A Mahimahi log: at each of *times_s*, float64 [K] not descending from 0 or more, 1,500 bytes may leave at once.

    Bytes of several messages share a delivery; what of it nobody had to send is lost. After the last one (or *length_s*
    if that is later) the log starts anew.
    """

    times_s: Floats
    length_s: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.times_s) or not np.isfinite(self.times_s).all():
            raise InvalidInput("a delivery log needs at least one time")
        if self.times_s[0] < 0 or (np.diff(self.times_s) < 0).any() or self.period_s <= 0:
            raise InvalidInput("the times of a delivery log must not descend, and must end above 0")

    @property
    def period_s(self) -> float:
        """See `Capacity`."""
        return max(float(self.times_s[-1]), self.length_s)

    @property
    def mean_mbps(self) -> float:
        """See `Capacity`."""
        return len(self.times_s) * DELIVERY_BITS / self.period_s / 1e6

    def bits_by(self, time_s: Floats) -> Floats:
        """See `Capacity`: a delivery at the very time is still to come."""
        turns = np.maximum(np.ceil(time_s / self.period_s) - 1, 0.0)
        past = np.searchsorted(self.times_s, time_s - turns * self.period_s, side="left")
        return np.asarray((turns * len(self.times_s) + past) * DELIVERY_BITS)

    def time_of_s(self, bits: Floats) -> Floats:
        """See `Capacity`."""
        number = np.maximum(np.ceil(bits / DELIVERY_BITS), 1.0) - 1
        turns, index = np.divmod(number, len(self.times_s))
        return np.asarray(turns * self.period_s + self.times_s[index.astype(np.int64)])


def markov_rate(
    mbps: tuple[float, ...], mean_stay_s: tuple[float, ...], length_s: float, rng: np.random.Generator
) -> PiecewiseRate:
    """One course of a link that jumps between the rates *mbps*.

    It stays in state i for an exponential time of mean *mean_stay_s*[i] and goes to any other with equal chance. Raises
    `InvalidInput` for fewer than two states or a stay that is not above 0.
    """
    if len(mbps) < 2 or len(mbps) != len(mean_stay_s) or min(mean_stay_s) <= 0:
        raise InvalidInput(f"rates {mbps} with mean stays {mean_stay_s}: two or more of both are needed, stays above 0")
    state, now_s = int(rng.integers(len(mbps))), 0.0
    ends, rates = [], []
    while now_s < length_s:
        now_s += rng.exponential(mean_stay_s[state])
        ends.append(min(now_s, length_s))
        rates.append(mbps[state])
        state = int((state + rng.integers(1, len(mbps))) % len(mbps))
    return PiecewiseRate(np.array(ends), np.array(rates))
