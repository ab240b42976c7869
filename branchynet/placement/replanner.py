"""Which plan an edge serves by while its link and its cloud change: the planner's choice, with reasons to stay.

What offloads report moves the belief in the link (`branchynet.placement.link_estimator`), in the cloud's queue, and in
the risk that no answer comes. From time to time, and at once after an offload that was given up, all candidates are
judged anew; another plan is taken only if it is better by a margin, so that noise does not turn it to and fro.

A plan that sends nothing learns nothing of the link, and one that sends little learns late that it broke down. So when
nothing was sent for a while, a copy of the next request's input goes to the cloud, and nobody waits for its answer: a
probe costs bytes, and no request its time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.placement.candidates import Candidates
from branchynet.placement.cloud_estimator import CloudTimes
from branchynet.placement.latency_forecast import LatencyForecast, LinkState
from branchynet.placement.link_estimator import LinkEstimate
from branchynet.placement.optimise import Constraints, best, evaluate
from branchynet.placement.plan import Plan
from branchynet.placement.serving_profile import Link, ServingProfile

__all__ = ["Adaptation", "Replanner"]

# A risk that was met so long ago is half forgotten.
RISK_HALF_LIFE_S = 10.0
# Links break down and come back for seconds, so the last offloads say most about the next one.
RISK_MEMORY = 0.7
# Probes that are not answered become rarer, up to so many times the usual gap.
RAREST_PROBES = 8.0
# The pace of requests is a mean over about twenty; a pause says no more than that there was one.
PACE_MEMORY = 0.95
LONGEST_GAP_S = 10.0


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How plans are changed.

    The least *objective* (a measure of `branchynet.placement.optimise`, `accuracy` excepted) among the plans with at
    least *min_accuracy* (0..1, on the calibration split); looked for every *period_s*, taken if it is better by a share
    *gain* of what is served by now. When nothing was sent for *probe_after_s*, a probe is. With *deadline_ms*, which
    needs the objective `mean_ms`, each answer that is not there by then, or that the edge gave because the cloud's was
    not, counts that much more. Raises `InvalidInput` for values that mean nothing.
    """

    min_accuracy: float
    objective: str = "mean_ms"
    gain: float = 0.05  # without a margin noise turns plans to and fro
    period_s: float = 0.2
    # A copy, not the request itself: trying a plan on real requests costs each of them the whole timeout in an outage.
    probe_after_s: float = 1.0
    deadline_ms: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.gain < 1 or not self.period_s >= 0 or not self.probe_after_s > 0:
            raise InvalidInput(
                f"gain is {self.gain}, period_s {self.period_s}, probe_after_s {self.probe_after_s}; the gain must be "
                "0 or more and below 1, the period 0 or more, the time until a probe above 0"
            )
        if self.objective == "accuracy":
            raise InvalidInput("the objective is accuracy, which no link changes: there is nothing to adapt")
        if self.deadline_ms is not None and not (0 < self.deadline_ms < math.inf and self.objective == "mean_ms"):
            raise InvalidInput(
                f"deadline_ms is {self.deadline_ms} with the objective {self.objective}; a deadline must be above 0, "
                "and goes with mean_ms"
            )


class Replanner:
    """The plan to serve by, as offloads are reported; every call says what time it is.

    *times*: what it believes of link and cloud, for whoever else wants to know.
    Starts with the best of *candidates* for the link that was *guessed*. Raises `InvalidInput`, with the nearest value
    there is, if no candidate is accurate enough.
    """

    def __init__(
        self, candidates: Candidates, profile: ServingProfile, guessed: Link, adaptation: Adaptation, now_s: float
    ) -> None:
        self._candidates = candidates
        self._profile = profile
        self._adaptation = adaptation
        self.times = CloudTimes(
            guessed.uplink_mbps, max(guessed.rtt_ms, 0.1), profile.offload_ms, profile.framing_bytes
        )
        self._prospects = LatencyForecast(candidates, profile)
        self._risk, self._risk_s, self._given_up_ms = 0.0, now_s, 0.0
        self._gap_s, self._asked_s = math.inf, now_s
        self._looked_s = self._sent_s = now_s
        self._patience = 1.0
        accurate = Constraints(min_accuracy=adaptation.min_accuracy)
        first = best(evaluate(candidates, profile, guessed), adaptation.objective, accurate)
        self._accurate = candidates.accuracy >= adaptation.min_accuracy
        self._now, self._plan = first, candidates.plan(first)
        self._probe = self._quickest_to_send(now_s)

    @property
    def plan(self) -> Plan:
        """What `decide` said last."""
        return self._plan

    def link(self, now_s: float) -> LinkEstimate:
        """What is believed of the link."""
        return self.times.link(now_s)

    def cloud_queue_ms(self, now_s: float) -> float:
        """How long an offload is believed to wait in the cloud."""
        return self.times.queue_ms(now_s)

    def risk(self, now_s: float) -> float:
        """How likely no answer to an offload is believed to come, 0..1."""
        return float(self._risk * 0.5 ** (max(now_s - self._risk_s, 0.0) / RISK_HALF_LIFE_S))

    def answered(self, now_s: float, sent_bytes: float, network_ms: float, queue_ms: float) -> None:
        """The answer to an offload is here, as `CloudTimes.answered` receives it."""
        self.times.answered(now_s, sent_bytes, network_ms, queue_ms)
        self._risk, self._risk_s = RISK_MEMORY * self.risk(now_s), now_s
        self._sent_s, self._patience = now_s, 1.0

    def unanswered(self, now_s: float, sent_bytes: float, waited_ms: float) -> None:
        """An offload was given up after *waited_ms*."""
        self.times.unanswered(now_s, sent_bytes, waited_ms)
        self._risk, self._risk_s = RISK_MEMORY * self.risk(now_s) + (1 - RISK_MEMORY), now_s
        self._given_up_ms = waited_ms
        self._sent_s, self._patience = now_s, min(2 * self._patience, RAREST_PROBES)
        self._looked_s = -math.inf  # the next request should not time out as well

    def decide(self, now_s: float) -> Plan:
        """The plan for requests from *now_s* on; the same object while it stays. To be asked once for each request."""
        gap_s = min(max(now_s - self._asked_s, 0.0), LONGEST_GAP_S)
        self._asked_s = now_s
        self._gap_s = gap_s if math.isinf(self._gap_s) else PACE_MEMORY * self._gap_s + (1 - PACE_MEMORY) * gap_s
        if now_s - self._looked_s >= self._adaptation.period_s:
            self._looked_s = now_s
            self._look(now_s)
        return self._plan

    def probe(self, now_s: float) -> Plan | None:
        """The plan by which a copy of a request is to be sent beside it at *now_s*; None most of the time.

        Its answer is to be reported like any other, and given to nobody.
        """
        if self._probe is None or now_s - self._sent_s < self._patience * self._adaptation.probe_after_s:
            return None
        self._sent_s = now_s
        return self._probe

    def _look(self, now_s: float) -> None:
        """Change to the best candidate, if it is better than the one that is served by enough."""
        values = np.where(self._accurate, self._values(now_s), np.inf)
        chosen = int(values.argmin())
        if values[chosen] < (1 - self._adaptation.gain) * values[self._now]:
            self._now, self._plan = chosen, self._candidates.plan(chosen)

    def _values(self, now_s: float) -> NDArray[np.float64]:
        link_state = self._outlook(now_s)
        if self._adaptation.objective == "mean_ms":
            return self._prospects.expected_ms(link_state, self._adaptation.deadline_ms)
        link = Link(link_state.link.uplink_mbps, rtt_ms=link_state.link.rtt_ms)
        measures = evaluate(self._candidates, self._profile, link, cloud_queue_ms=link_state.cloud_queue_ms)
        return measures.values(self._adaptation.objective)

    def _outlook(self, now_s: float) -> LinkState:
        pace = 1 / max(self._gap_s, 1e-3)
        return LinkState(self.link(now_s), self.cloud_queue_ms(now_s), self.risk(now_s), self._given_up_ms, pace)

    def _quickest_to_send(self, now_s: float) -> Plan | None:
        """The plan that probes go by: whose offloads are back soonest. None if there is nothing to choose."""
        sends = self._accurate & (self._prospects.uplink_bytes > 0)
        if self._accurate.sum() < 2 or not sends.any():
            return None
        times_ms = np.where(sends, self._prospects.offload_ms(self._outlook(now_s)), np.inf)
        return self._candidates.plan(int(times_ms.argmin()))
