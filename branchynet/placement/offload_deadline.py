"""How long the cloud may take, and whether it is worth asking."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import ArtifactMismatch, DeadlineExceeded
from branchynet.placement.cloud_estimator import Expected
from branchynet.placement.link_estimator import LinkEstimate

__all__ = ["SMALL_BYTES", "InTime", "OffloadLimits", "Refused", "sending_ms"]

# What is known is as good as nothing after so long a silence: a round trip that drifts like the link's estimate is then
# as unsure as it was at first.
OLD_S = 30.0
# Of requests that are probably too late, one in so long a time finds out.
TRY_S = 1.0
# A message up to this size is sent within the timeout, or its link is too slow for it.
SMALL_BYTES = 64 * 1024
LONGEST_SENDING_MS = 60_000.0
# A cloud that holds another artifact is asked again after so long: it may have been deployed anew.
REFUSED_S = 10.0


@dataclass(frozen=True, slots=True)
class OffloadLimits:
    """*timeout_ms*: longest wait for the cloud, beside what it takes to send a large message. *reserve_ms*: kept back
    from a deadline for the return latency."""

    timeout_ms: float
    reserve_ms: float

    @overload
    def allowance_ms(self, remaining_ms: float, sending_ms: float = ...) -> float: ...
    @overload
    def allowance_ms(self, remaining_ms: NDArray[np.float64], sending_ms: float = ...) -> NDArray[np.float64]: ...
    def allowance_ms(
        self, remaining_ms: float | NDArray[np.float64], sending_ms: float = 0.0
    ) -> float | NDArray[np.float64]:
        """How long the cloud may take when the caller still waits *remaining_ms* (infinite: for ever).

        *sending_ms*: see the function of this name. Not above 0 when there is no time left to ask.
        """
        allowed = np.minimum(self.timeout_ms + sending_ms, np.asarray(remaining_ms) - self.reserve_ms)
        return allowed if allowed.ndim else float(allowed)


def sending_ms(link: LinkEstimate, sent_bytes: float) -> float:
    """What the bytes of a message beyond `SMALL_BYTES` take on *link*, reckoned slow by one standard deviation.

    A batch of large feature maps takes seconds on a thin uplink, which says nothing about the cloud.
    """
    slow_mbps = link.uplink_range_mbps[0]
    return min(8e-3 * max(sent_bytes - SMALL_BYTES, 0.0) / slow_mbps, LONGEST_SENDING_MS)


class Refused:
    """Whether the cloud said that it holds another artifact: then every message would be sent for nothing."""

    def __init__(self) -> None:
        self._until_s, self._reason = -math.inf, ""

    def note(self, now_s: float, reason: str) -> None:
        """The cloud refused an offload for *reason*."""
        self._until_s, self._reason = now_s + REFUSED_S, reason

    def check(self, now_s: float) -> None:
        """Raise `ArtifactMismatch` until `REFUSED_S` after the last refusal."""
        if now_s < self._until_s:
            raise ArtifactMismatch(self._reason)


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
