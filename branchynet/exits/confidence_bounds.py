"""What a finite sample proves about a mean: p-values, and limits of a share.

Every p-value here is for the claim "the mean loss is *tolerated* or more": where it is at most δ, the claim is refuted
with confidence 1 - δ, for any distribution of the losses and any number of samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

__all__ = ["Bound", "binomial_cdf", "check_share", "first_true", "share_limits"]

Floats = NDArray[np.float64]
Losses = NDArray[np.int8]

LARGEST_BET = 0.9


class Bound(StrEnum):
    """How a p-value is reckoned.

    - `binomial`: exact, for losses 0 and 1 only.
    - `hoeffding-bentkus`: Bates et al. 2021, "Distribution-free, risk-controlling prediction sets", section 3.1, for
      losses in 0 … 1. A loss that can be -1 is moved there and halved, which costs nearly all power.
    - `betting`: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting". A gambler who
      stakes a bet on each "loss < tolerated" has no gain to expect if the claim is true, so the chance of ever owning
      1/δ times the start is at most δ (Ville 1939). The bet follows the losses' variance, which for rare losses of
      either sign is far below the worst case.
    """

    BINOMIAL = "binomial"
    HOEFFDING_BENTKUS = "hoeffding-bentkus"
    BETTING = "betting"

    def p_values(self, losses: Losses, least: int, tolerated: float, confidence: float) -> Floats:
        """One p-value, float64 [R], for each row of *losses*, int8 [R, N]: N samples in a random order.

        *least*: the lowest loss there can be, 0 or -1; the highest is 1. *confidence*: what betting aims at; its
        p-values are valid for any. Raises `InvalidInput` for no samples, a *tolerated* or *confidence* outside (0, 1),
        or the binomial bound with negative losses.
        """
        check_share("tolerated loss", tolerated)
        check_share("confidence", confidence)
        if losses.shape[1] == 0:
            raise InvalidInput("0 samples prove nothing")
        if self is Bound.BETTING:
            return _betting(losses, tolerated, confidence)
        if self is Bound.HOEFFDING_BENTKUS:
            # Moving and stretching to 0 … 1 does to the tolerated loss what it does to the losses.
            width = 1 - least
            return _hoeffding_bentkus(
                (losses.mean(axis=1) - least) / width, losses.shape[1], (tolerated - least) / width
            )
        if least < 0:
            raise InvalidInput("the binomial bound is for losses 0 and 1; this loss can be -1")
        return np.asarray(binomial_cdf(losses.shape[1], tolerated)[losses.sum(axis=1, dtype=np.int64)])

    def samples_needed(self, least: int, tolerated: float, confidence: float) -> int:
        """The fewest samples that prove a mean below *tolerated*: each of them without a loss."""

        def enough(samples: int) -> bool:
            free = np.zeros((1, samples), dtype=np.int8)
            return bool(self.p_values(free, least, tolerated, confidence)[0] <= 1 - confidence)

        return first_true(enough)


def binomial_cdf(samples: int, share: float) -> Floats:
    """P(X ≤ k) for k = 0 … *samples*, float64 [samples + 1], of X ~ Binomial(*samples*, *share*), 0 < share < 1."""
    k = np.arange(samples + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, samples + 1)))])
    log_mass = log_factorial[-1] - log_factorial - log_factorial[::-1]
    log_mass += k * math.log(share) + (samples - k) * math.log1p(-share)
    return np.asarray(np.minimum(np.cumsum(np.exp(log_mass)), 1.0))


def share_limits(count: int, samples: int, error: float) -> tuple[float, float]:
    """Lower and upper limit of a share that *count* of *samples* showed (Clopper and Pearson 1934).

    Each lies on the wrong side of the true share with probability *error* at most. Raises `InvalidInput` unless
    0 ≤ *count* ≤ *samples*.
    """
    if not 0 <= count <= samples or samples < 1:
        raise InvalidInput(f"{count} of {samples} samples is no share")
    lower = 0.0 if count == 0 else 1.0 - _upper_limit(samples - count, samples, error)
    return lower, _upper_limit(count, samples, error)


def check_share(name: str, value: float) -> None:
    """Raise `InvalidInput` unless 0 < *value* < 1."""
    if not 0.0 < value < 1.0:
        raise InvalidInput(f"the {name} is {value}; it must lie between 0 and 1")


def first_true(test: Callable[[int], bool]) -> int:
    """The smallest number from 1 on for which *test*, false before and true from there, is true."""
    high = 1
    while not test(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if test(middle) else (middle, high)
    return high


@functools.lru_cache(maxsize=1024)
def _upper_limit(count: int, samples: int, error: float) -> float:
    """The share, to 1e-9 and rounded up, at which *count* or fewer have probability *error*."""
    if count == samples:
        return 1.0
    low, high = count / samples, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(samples, middle)[count] > error else (low, middle)
    return high


def _hoeffding_bentkus(means: Floats, samples: int, tolerated: float) -> Floats:
    """P-values of *means*, float64 [R], of losses in 0 … 1."""
    below = np.minimum(means, tolerated)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(below > 0, below * np.log(below / tolerated), 0.0)
        divergence += np.where(below < 1, (1 - below) * np.log((1 - below) / (1 - tolerated)), 0.0)
    # A mean of whole losses must not be lifted to the next count by rounding.
    counts = np.ceil(samples * means - 1e-6).astype(np.int64)
    bentkus = math.e * binomial_cdf(samples, tolerated)[counts]
    return np.asarray(np.minimum(np.minimum(np.exp(-samples * divergence), bentkus), 1.0))


def _betting(losses: Losses, tolerated: float, confidence: float) -> Floats:
    """P-values by the predictable plug-in bets of Waudby-Smith and Ramdas, section 4, for fixed N."""
    samples = losses.shape[1]
    seen = np.arange(1, samples + 1) + 1
    mean = (np.cumsum(losses, axis=1, dtype=np.float64) + tolerated) / seen
    variance = (np.cumsum((losses - mean) ** 2, axis=1) + 0.25) / seen
    # A bet may know what came before it, not the loss it is on.
    variance = np.concatenate([np.full((len(losses), 1), 0.25), variance[:, :-1]], axis=1)
    bets = np.sqrt(-2 * math.log(1 - confidence) / (samples * variance))
    bets = np.minimum(bets, LARGEST_BET / (1 - tolerated))  # at a loss of 1 a tenth of the capital is left
    capital = np.cumsum(np.log1p(-bets * (losses - tolerated)), axis=1).max(axis=1)
    return np.asarray(np.exp(-np.maximum(capital, 0.0)))
