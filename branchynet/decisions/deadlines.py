"""How long the cloud may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["OffloadLimits"]


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
