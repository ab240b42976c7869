"""Which plan an edge serves by while its link and its cloud change: the planner's choice, with reasons to stay.

What offloads report moves the belief in the link (`branchynet.decisions.link`) and in the cloud's queue. From time to
time all candidates are judged anew; another plan is taken only if it is better by a margin, so that noise does not turn
it to and fro.

A plan that sends nothing learns nothing of the link, and one that sends messages of one size learns little of its rate.
Now and then, therefore, the candidates are judged as if the link were as fast as what was seen allows: a plan that
would be better then by the margin is tried until a few answers are here, and so is the best one that sends anything
while nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from branchynet.decisions.candidates import Candidates
from branchynet.decisions.cloud_times import CloudTimes
from branchynet.decisions.link import LinkEstimate
from branchynet.decisions.placement import Constraints, Measures, best, evaluate
from branchynet.decisions.plans import Plan
from branchynet.decisions.timing import Link, ServingProfile
from branchynet.errors import InvalidInput

__all__ = ["Adaptation", "Replanner"]

# One that is far from what was believed may be an outlier; the link's estimate follows the second and the third.
TRY_ANSWERS = 3
TRY_S = 2.0


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How plans are changed.

    The least *objective* (a measure of `branchynet.decisions.placement`, `accuracy` excepted) among the plans with at
    least *min_accuracy* (0..1, on the calibration split); looked for every *period_s*, taken if it is better by a share
    *gain* of what is served by now. Plans are tried no sooner than *probe_after_s* after the last one was. Raises
    `InvalidInput` for values that mean nothing.
    """

    min_accuracy: float
    objective: str = "mean_ms"
    gain: float = 0.1
    period_s: float = 0.5
    probe_after_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.gain < 1 or not self.period_s >= 0 or not self.probe_after_s > 0:
            raise InvalidInput(
                f"gain is {self.gain}, period_s {self.period_s}, probe_after_s {self.probe_after_s}; the gain must be "
                "0 or more and below 1, the period 0 or more, the time until a probe above 0"
            )
        if self.objective == "accuracy":
            raise InvalidInput("the objective is accuracy, which no link changes: there is nothing to adapt")


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
        self.times = CloudTimes(guessed.uplink_mbps, max(guessed.rtt_ms, 0.1), profile.offload_ms)
        self._constraints = Constraints(min_accuracy=adaptation.min_accuracy)
        self._looked_s = self._tried_s = now_s
        self._awaited = 0  # answers until what is tried can be judged
        self._now = best(self._judged(self.link(now_s), now_s), adaptation.objective, self._constraints)
        self._plan = candidates.plan(self._now)

    @property
    def plan(self) -> Plan:
        """What `decide` said last."""
        return self._plan

    @property
    def trying(self) -> bool:
        """Whether the plan of now is a try: then offloads shall go out that are not expected back in time."""
        return self._awaited > 0

    def link(self, now_s: float) -> LinkEstimate:
        """What is believed of the link."""
        return self.times.link(now_s)

    def cloud_queue_ms(self, now_s: float) -> float:
        """How long an offload is believed to wait in the cloud."""
        return self.times.queue_ms(now_s)

    def answered(self, now_s: float, sent_bytes: float, network_ms: float, queue_ms: float) -> None:
        """The answer to an offload is here, as `CloudTimes.answered` is told."""
        self.times.answered(now_s, sent_bytes, network_ms, queue_ms)
        self._heard()

    def unanswered(self, now_s: float, sent_bytes: float, waited_ms: float) -> None:
        """An offload was given up after *waited_ms*."""
        self.times.unanswered(now_s, sent_bytes, waited_ms)
        self._heard()

    def decide(self, now_s: float) -> Plan:
        """The plan for requests from *now_s* on; the same object while it stays."""
        if now_s - self._looked_s >= self._adaptation.period_s:
            self._looked_s = now_s
            self._look(now_s)
        return self._plan

    def _heard(self) -> None:
        self._awaited = max(self._awaited - 1, 0)

    def _look(self, now_s: float) -> None:
        since_try_s = now_s - self._tried_s
        if self._awaited and since_try_s < TRY_S:
            return
        if self._awaited:
            self._awaited, self._tried_s, since_try_s = 0, now_s, 0.0
        believed = self.link(now_s)
        chosen = self._better(self._judged(believed, now_s))
        if chosen is None and since_try_s >= self._adaptation.probe_after_s:
            self._tried_s = now_s
            chosen = self._worth_a_try(self._judged(believed.fastest(), now_s))
            self._awaited = 0 if chosen is None else TRY_ANSWERS
        if chosen is not None:
            self._now, self._plan = chosen, self._candidates.plan(chosen)

    def _better(self, measures: Measures) -> int | None:
        """The best candidate, if it is better than the one that is served by enough to change."""
        values = measures.values(self._adaptation.objective)
        chosen = best(measures, self._adaptation.objective, self._constraints)
        return chosen if values[chosen] < (1 - self._adaptation.gain) * values[self._now] else None

    def _worth_a_try(self, measures: Measures) -> int | None:
        """The best candidate on the fastest link there may be; whoever sends nothing has to send to know it."""
        if measures.uplink_bytes[self._now] > 0:
            return self._better(measures)
        sends = (measures.uplink_bytes > 0) & (measures.accuracy >= self._adaptation.min_accuracy)
        values = np.where(sends, measures.values(self._adaptation.objective), np.inf)
        return int(values.argmin()) if sends.any() else None

    def _judged(self, believed: LinkEstimate, now_s: float) -> Measures:
        link = Link(believed.uplink_mbps, rtt_ms=believed.rtt_ms)
        return evaluate(self._candidates, self._profile, link, cloud_queue_ms=self.cloud_queue_ms(now_s))
