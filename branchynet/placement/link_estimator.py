"""What the uplink can do now, from the offloads themselves: nothing is sent to measure.

An offload of *s* bytes spends on the network

    network_ms = rtt_ms + s · ms_per_byte + noise,

its round trip less what the cloud says it took. The two unknowns drift, so they are tracked by a Kalman filter whose
state is a random walk (Kalman 1960): each observation moves them by as much as it is surer than they are, and time that
passes makes them less sure. While all messages have one size, rate and round trip cannot be told apart: then the
estimate says so by a wide range for each, and by a narrow one for the time of a message of that size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

__all__ = ["LinkEstimate", "LinkEstimator", "Transfer"]

# A rate may well change by a third within a second, a round trip by a fifth, on a link that moves.
RATE_DRIFT_PER_S = 0.3
RTT_DRIFT_PER_S = 0.2
# How unsure the first guess is: a factor of this much either way.
PRIOR_FACTOR = 3.0
# Beyond so many standard deviations a time is a surprise. One may be an outlier; a second before two others have
# been as expected means that the link has changed.
SURPRISE = 3.0
ENOUGH_SURPRISES = 1.5
FORGIVEN = 0.5
# So many standard deviations out, a normal distribution's tail is an exponential one to three digits.
FAR_OUT = 8.0
# Noise is a share of the time that a message should take, for a slow link is late by more than a quick one.
FIRST_NOISE = 0.1
LEAST_NOISE = 0.02
LEAST_NOISE_MS = 0.1
NOISE_MEMORY = 0.9
# No observation makes the link more than fifty times as fast as it was believed to be.
LEAST_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Transfer:
    """The network time of a message: expected, and its standard deviation from not knowing the link and from noise."""

    mean_ms: float
    std_ms: float


@dataclass(frozen=True)
class LinkEstimate:
    """The link as it is believed to be: *mean* [rtt_ms, ms_per_byte], their *covariance*, and what is beside them.

    *noise*: standard deviation of a message's time around what it should be, as a share of that.
    """

    mean: tuple[float, float]
    covariance: tuple[tuple[float, float], tuple[float, float]]
    noise: float
    observations: int

    @property
    def rtt_ms(self) -> float:
        """Round trip of an empty message."""
        return self.mean[0]

    @property
    def rtt_std_ms(self) -> float:
        """How unsure `rtt_ms` is."""
        return math.sqrt(self.covariance[0][0])

    @property
    def uplink_mbps(self) -> float:
        """Rate of the uplink in Mbit/s."""
        return 8e-3 / self.mean[1]

    @property
    def uplink_range_mbps(self) -> tuple[float, float]:
        """The rate if a byte took one standard deviation longer, or shorter; unbounded above if it may take none."""
        std = math.sqrt(self.covariance[1][1])
        fast = self.mean[1] - std
        return 8e-3 / (self.mean[1] + std), 8e-3 / fast if fast > 0 else math.inf

    def transfer(self, sent_bytes: float) -> Transfer:
        """What a message of *sent_bytes* will spend on the network."""
        x = np.array([1.0, sent_bytes])
        mean_ms = float(x @ np.array(self.mean))
        variance = float(x @ np.array(self.covariance) @ x) + (self.noise * mean_ms) ** 2
        return Transfer(mean_ms, math.sqrt(variance))


class LinkEstimator:
    """The estimate as offloads come back, starting from a guess of *uplink_mbps* and *rtt_ms*.

    Raises `InvalidInput` for a guess that is not above 0.
    """

    def __init__(self, uplink_mbps: float, rtt_ms: float) -> None:
        if not 0 < uplink_mbps < math.inf or not 0 < rtt_ms < math.inf:
            raise InvalidInput(f"the first guess is {uplink_mbps} Mbit/s and {rtt_ms} ms; both must be above 0")
        self._mean = np.array([rtt_ms, 8e-3 / uplink_mbps])
        self._covariance = self._unsure()
        self._noise = FIRST_NOISE
        self._seen_s: float | None = None
        self._surprises = 0.0
        self._observations = 0

    def estimate(self, now_s: float) -> LinkEstimate:
        """What is believed at *now_s*; the longer nothing was sent, the less sure."""
        covariance = self._drifted(now_s)
        return LinkEstimate(
            (float(self._mean[0]), float(self._mean[1])),
            ((covariance[0, 0], covariance[0, 1]), (covariance[1, 0], covariance[1, 1])),
            self._noise,
            self._observations,
        )

    def observe(self, now_s: float, sent_bytes: float, network_ms: float) -> None:
        """An answer came: its message of *sent_bytes* spent *network_ms* on the network.

        Raises `InvalidInput` for a size or time that no message has.
        """
        if not 0 < sent_bytes < math.inf or not 0 <= network_ms < math.inf:
            raise InvalidInput(f"a message of {sent_bytes} bytes took {network_ms} ms; neither may be below 0")
        x = np.array([1.0, sent_bytes])
        self._covariance = self._drifted(now_s)
        self._seen_s = now_s
        self._observations += 1
        expected_ms = float(x @ self._mean)
        residual_ms = network_ms - expected_ms
        unsure = float(x @ self._covariance @ x)
        std_ms = math.sqrt(unsure + (self._noise * expected_ms) ** 2)
        surprise = abs(residual_ms) > SURPRISE * std_ms
        self._surprises = self._surprises + 1 if surprise else max(self._surprises - FORGIVEN, 0)
        if self._surprises >= ENOUGH_SURPRISES:
            # The link is another one, and what was known of it says little.
            self._covariance, self._surprises = self._unsure(), 0.0
        elif surprise:
            residual_ms = math.copysign(2 * std_ms, residual_ms)  # counts, but not for all that it says
        else:
            # What the belief's own uncertainty does not explain is noise.
            unexplained = max(residual_ms**2 - unsure, 0.0) / expected_ms**2
            noise = NOISE_MEMORY * self._noise**2 + (1 - NOISE_MEMORY) * min(unexplained, 1.0)
            self._noise = max(math.sqrt(noise), LEAST_NOISE)
        self._update(x, residual_ms, self._noise * min(expected_ms, network_ms))

    def lost(self, now_s: float, sent_bytes: float, waited_ms: float) -> None:
        """No answer came within *waited_ms*: the message took what such long ones take on average, if that is news.

        Taken for *waited_ms* itself, waits that are too short each time would teach that they are just long enough.
        """
        believed = self.estimate(now_s).transfer(sent_bytes)
        waited = (waited_ms - believed.mean_ms) / believed.std_ms
        if waited > -SURPRISE:
            self.observe(now_s, sent_bytes, believed.mean_ms + believed.std_ms * _mean_beyond(waited))

    def _update(self, x: NDArray[np.float64], residual_ms: float, noise_ms: float) -> None:
        spread, noise = self._covariance @ x, max(noise_ms, LEAST_NOISE_MS) ** 2
        gain = spread / (float(x @ spread) + noise)
        self._mean = np.maximum(self._mean + gain * residual_ms, LEAST_SHARE * self._mean)
        # A sum of squares (Joseph's form): the difference of two may round to a variance below 0.
        kept = np.eye(2) - np.outer(gain, x)
        self._covariance = kept @ self._covariance @ kept.T + noise * np.outer(gain, gain)

    def _drifted(self, now_s: float) -> NDArray[np.float64]:
        passed_s = 0.0 if self._seen_s is None else max(now_s - self._seen_s, 0.0)
        drift = np.array([RTT_DRIFT_PER_S, RATE_DRIFT_PER_S]) * self._mean
        wider = self._covariance + np.diag(drift**2 * passed_s)
        # Not knowing anything is the most that time can do.
        scale = np.sqrt(np.minimum(1.0, np.diag(self._unsure()) / np.diag(wider)))
        return np.asarray(wider * np.outer(scale, scale))

    def _unsure(self) -> NDArray[np.float64]:
        """The covariance of somebody who knows no more than the order of magnitude."""
        return np.diag((math.log(PRIOR_FACTOR) * self._mean) ** 2)


def _mean_beyond(least: float) -> float:
    """Mean of the values of a standard normal variable that are above *least*."""
    if least > FAR_OUT:
        return least + 1 / least
    density = math.exp(-(least**2) / 2) / math.sqrt(2 * math.pi)
    return density / (math.erfc(least / math.sqrt(2)) / 2)
