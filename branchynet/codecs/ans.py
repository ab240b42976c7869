"""Levels to as few bytes as their frequencies allow, and back: asymmetric numeral systems (Duda 2009) on one integer.

The codes at a cut are a few hundred levels and become some dozen bytes, so Python's own integers hold a whole sample:
nothing is renormalised, and nothing lost to whole words. The state starts at a *mark*, which keeps its four bytes in it
and must be what is left in the end: another mark, a missing byte or one too many are all noticed there.

Frequencies are integers, because tables of floats could round apart on two machines. The library constriction (0.5) is
five times as fast, but takes its tables as floats, loses up to a word a sample, and does not notice damaged bytes.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

__all__ = ["MARK_BYTES", "LevelTables"]

MARK_BYTES = 4
# Frequencies of a place add up to 2 to this, those of a group of places to 2 to that.
_PLACE_BITS, _GROUP_BITS = 12, 16
_PLACE_TOTAL, _GROUP_TOTAL = 1 << _PLACE_BITS, 1 << _GROUP_BITS
# Several places are coded in one step, as long as their levels together have no more than so many combinations.
_MOST_COMBINATIONS, _MOST_PLACES = 256, 4
# How many samples the channel's own distribution counts for, where a place has seen few.
_PRIOR_SAMPLES = 16.0

_Levels = NDArray[np.uint8]
_Counts = NDArray[np.int64]


class LevelTables:
    """How often each of L levels is expected at each of N places: *frequencies*, integers [N, L], rows of 4096.

    Both ends have the same integers and reckon with integers, so that no rounding can part them. Raises `InvalidInput`
    for rows that do not add up, or in which a level is impossible.
    """

    def __init__(self, frequencies: NDArray[np.integer]) -> None:
        if frequencies.ndim != 2 or not 2 <= frequencies.shape[1] <= 256 or not len(frequencies):
            raise InvalidInput(f"frequencies have shape {frequencies.shape}; they must be (places, 2 to 256 levels)")
        rows = frequencies.astype(np.int64)
        if rows.min() < 1 or (rows.sum(axis=1) != _PLACE_TOTAL).any():
            raise InvalidInput(f"each row of frequencies must be positive and add up to {_PLACE_TOTAL}")
        self.frequencies = rows.astype(np.int16)
        self.places, self._levels = rows.shape
        self._together = max(min(int(math.log(_MOST_COMBINATIONS + 0.5, self._levels)), _MOST_PLACES), 1)
        grouped = [_joint(rows[start : start + self._together]) for start in range(0, self.places, self._together)]
        self._frequencies: list[list[int]] = [group.tolist() for group in grouped]
        self._starts: list[list[int]] = [(np.cumsum(group) - group).tolist() for group in grouped]
        rarest_bits = sum(_GROUP_BITS - math.log2(min(group)) for group in self._frequencies)
        self.max_bytes = MARK_BYTES + math.ceil(rarest_bits / 8) + 1

    @classmethod
    def fitted(cls, levels: _Levels, count: int) -> LevelTables:
        """The tables that *levels*, uint8 [S, C, …] below *count*, take few bytes with; one for each place of [C, …].

        A place that has seen few samples follows its channel.
        """
        flat = levels.reshape(len(levels), levels.shape[1], -1)
        seen = np.stack([(flat == level).sum(axis=0) for level in range(count)], axis=-1).astype(np.float64)
        by_channel = seen.sum(axis=1, keepdims=True) + 1
        expected = seen + _PRIOR_SAMPLES * by_channel / by_channel.sum(axis=-1, keepdims=True)
        expected = expected.reshape(-1, count)
        shares = expected / expected.sum(axis=1, keepdims=True) * (_PLACE_TOTAL - count)
        return cls(_filled_up(np.floor(shares).astype(np.int64) + 1, _PLACE_TOTAL))

    def encode(self, levels: _Levels, mark: bytes) -> bytes:
        """*levels* [N], below L, as bytes behind *mark*, four bytes of which the last is not 0."""
        state = int.from_bytes(mark, "little")
        combined = self._combined(levels)
        for chosen, frequencies, starts in zip(
            reversed(combined), reversed(self._frequencies), reversed(self._starts), strict=True
        ):
            whole, rest = divmod(state, frequencies[chosen])
            state = (whole << _GROUP_BITS) + rest + starts[chosen]
        return state.to_bytes((state.bit_length() + 7) // 8, "little")

    def decode(self, data: bytes, mark: bytes) -> _Levels:
        """The levels [N] that `encode` was given with *mark*; `InvalidInput` if it makes *data* of none."""
        if not MARK_BYTES <= len(data) <= self.max_bytes:
            raise InvalidInput(f"the codes take {len(data)} bytes, it must be {MARK_BYTES} to {self.max_bytes}")
        state = int.from_bytes(data, "little")
        combined = []
        for frequencies, starts in zip(self._frequencies, self._starts, strict=True):
            slot = state & (_GROUP_TOTAL - 1)
            chosen = bisect_right(starts, slot) - 1
            state = frequencies[chosen] * (state >> _GROUP_BITS) + slot - starts[chosen]
            combined.append(chosen)
        if state != int.from_bytes(mark, "little") or not data[-1]:
            raise InvalidInput(
                f"{len(data)} bytes of codes are not those of {self.places} levels behind the mark {mark.hex()}: "
                "they are damaged, or were made with other weights"
            )
        digits = np.array(combined)[:, None] // self._levels ** np.arange(self._together) % self._levels
        levels: _Levels = digits.astype(np.uint8).reshape(-1)[: self.places]
        return levels

    def _combined(self, levels: _Levels) -> list[int]:
        """The levels of each group as one number, the first place's as its lowest digit."""
        padded = np.zeros(len(self._starts) * self._together, np.int64)
        padded[: self.places] = levels
        numbers: list[int] = (padded.reshape(-1, self._together) @ self._levels ** np.arange(self._together)).tolist()
        return numbers


def _joint(rows: _Counts) -> _Counts:
    """Frequencies of all combinations of the places in *rows* [K, L], as if they did not depend on each other."""
    products: _Counts = rows[0]
    for row in rows[1:]:
        products = (row[:, None] * products).reshape(-1)
    excess_bits = max(_PLACE_BITS * len(rows) - 30, 0)  # 30 + 16 bits stay within 64
    shares = (products >> excess_bits) * (_GROUP_TOTAL - len(products)) >> (_PLACE_BITS * len(rows) - excess_bits)
    joint: _Counts = _filled_up(shares[None] + 1, _GROUP_TOTAL)[0]
    return joint


def _filled_up(rows: _Counts, total: int) -> _Counts:
    """*rows* [N, L] with what they lack of *total* given to the commonest level, where it costs least."""
    rows[np.arange(len(rows)), rows.argmax(axis=1)] += total - rows.sum(axis=1)
    return rows
