"""How long the cloud may take, and whether it is worth asking."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from branchynet.decisions.cloud_times import Expected
from branchynet.errors import DeadlineExceeded

__all__ = ["InTime", "OffloadLimits"]

# What is known is as good as nothing after so long a silence: a round trip that drifts like the link's estimate is then
# as unsure as it was at first.
OLD_S = 30.0
# Of requests that are probably too late, one in so long a time finds out.
TRY_S = 1.0


@dataclass(frozen=True, slots=True)
class OffloadLimits:
    """*timeout_ms*: longest wait for the cloud. *reserve_ms*: kept back from a deadline for the way home."""

    timeout_ms: float
    reserve_ms: float

    @overload
    def allowance_ms(self, remaining_ms: float) -> float: ...
    @overload
    def allowance_ms(self, remaining_ms: NDArray[np.float64]) -> NDArray[np.float64]: ...
    def allowance_ms(self, remaining_ms: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
        """How long the cloud may take when the caller still waits *remaining_ms* (infinite: for ever).

        Not above 0 when there is no time left to ask.
        """
        allowed = np.minimum(self.timeout_ms, np.asarray(remaining_ms) - self.reserve_ms)
        return allowed if allowed.ndim else float(allowed)


class InTime:
    """Whether the cloud's answer can be expected in the time that it may take.

    The cloud is asked if the expected time is short enough, or if nothing is known yet. If it is too long, but not by
    more than one standard deviation (about one chance in six), the request is a try, and so is any after a silence of
    `OLD_S`: one in `TRY_S` is let through. What is expected becomes less sure while nothing is sent, and what comes of
    a try is known for the next one; so a link that mended is found, and one that stays slow is tried less and less.
    """

    def __init__(self) -> None:
        self._tried_s = -math.inf

    def check(self, now_s: float, expected: Expected | None, allowed_ms: float) -> None:
        """Raise `DeadlineExceeded` if an answer within *allowed_ms* is not to be expected."""
        if expected is None or expected.mean_ms <= allowed_ms:
            return
        doubtful = expected.mean_ms - expected.std_ms <= allowed_ms or expected.age_s >= OLD_S
        if doubtful and now_s - self._tried_s >= TRY_S:
            self._tried_s = now_s
            return
        raise DeadlineExceeded(
            f"{allowed_ms:.1f} ms are left, an answer from the cloud takes about {expected.mean_ms:.1f} ms"
        )
