"""Asking the cloud: only where its answer can be expected in time, and never believing what it cannot have said."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from branchynet.codecs import Payload
from branchynet.codecs.payload import Sendable
from branchynet.errors import ArtifactMismatch, BranchyNetError, DeadlineExceeded, InvalidInput, Unavailable
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Progress, Runner
from branchynet.placement.cloud_estimator import CloudTimes
from branchynet.placement.offload_deadline import SMALL_BYTES, InTime, OffloadLimits, Refused, sending_ms
from branchynet.placement.replanner import Replanner
from edge_node.uplink import CloudAnswers, OffloadFailed, Uplink

__all__ = ["Offloads"]


class Offloads:
    """What an edge that runs *network* sends over *uplink* (None: there is no cloud), within *limits*.

    What offloads took is reported to *times*, or to the replanner that is followed, which keeps such times itself.
    """

    def __init__(
        self, network: Runner, uplink: Uplink | None, limits: OffloadLimits, clock_s: Callable[[], float]
    ) -> None:
        self._network = network
        self._uplink = uplink
        self._limits = limits
        self._clock_s = clock_s
        self._times, self._in_time, self._refused = CloudTimes(), InTime(), Refused()
        self._reported_to: CloudTimes | Replanner = self._times

    @property
    def possible(self) -> bool:
        """Whether there is a cloud at all."""
        return self._uplink is not None

    def report_to(self, replanner: Replanner) -> None:
        """Report every offload to *replanner* from now on, and go by its times."""
        self._reported_to, self._times = replanner, replanner.times

    async def ask(
        self, cut: int, sent: Sendable, progress: Progress, rule: ExitRule, left_ms: float, *, probing: bool = False
    ) -> CloudAnswers:
        """The cloud's answers, unless they cannot be expected in the *left_ms* or so; a probe finds out."""
        if self._uplink is None:
            raise Unavailable("this edge was given no cloud")
        samples, asked_s = len(progress.remaining), self._clock_s()
        self._refused.check(asked_s)
        size = _size(sent)
        # The link is estimated anew each time, which a small message need not wait for.
        extra_ms = sending_ms(self._times.link(asked_s), size) if size > SMALL_BYTES else 0.0
        timeout_ms = self._limits.allowance_ms(left_ms, extra_ms)
        if timeout_ms <= 0:
            raise DeadlineExceeded(
                f"{left_ms:.1f} ms are left, {self._limits.reserve_ms:g} are kept for the return latency"
            )
        if not probing:
            self._in_time.check(asked_s, self._times.expected(asked_s, size, cut, samples), timeout_ms)
        # A rule that has nothing to decide any more would be a third of the message's head.
        needed = rule if rule.remembers or not self._network.is_decided(cut) else None
        answers = await self._uplink.resume(cut, sent, needed, timeout_ms, progress.history)
        self._check(answers, cut, samples)
        self._reported_to.answered(self._clock_s(), answers.sent_bytes, answers.network_ms, answers.queue_ms)
        self._times.worked(cut, samples, max(answers.cloud_ms - answers.queue_ms, 0.0))
        return answers

    def note_failure(self, error: BranchyNetError, waited_ms: float) -> None:
        """Learn from an offload that came back as *error* after *waited_ms*: the way is slow, or sending is in vain."""
        if isinstance(error, OffloadFailed) and error.grpc_status == ArtifactMismatch.grpc_status:
            self._refused.note(self._clock_s(), str(error))
        late = error.grpc_status == DeadlineExceeded.grpc_status
        if late and isinstance(error, OffloadFailed) and error.sent_bytes > 0:
            self._reported_to.unanswered(self._clock_s(), error.sent_bytes, waited_ms)

    def _check(self, answers: CloudAnswers, cut: int, samples: int) -> None:
        """Raise `OffloadFailed` unless *answers* are what stages [*cut*, n) can give; a wrong cloud is not believed."""
        legal = [number for number in self._network.exit_of_stage[cut:] if number is not None]
        shape = (samples, self._network.classes)
        wrong = ""
        if answers.logits.shape != shape or answers.exits.shape != shape[:1]:
            wrong = f"logits of shape {answers.logits.shape} and exits of {answers.exits.shape}, not {shape}"
        elif not np.isfinite(answers.logits).all():
            wrong = "logits that are not finite"
        elif not np.isin(answers.exits, legal).all():
            wrong = f"exits {sorted(set(answers.exits.tolist()))}; behind cut {cut} there are {legal}"
        elif not 0 <= answers.queue_ms <= answers.cloud_ms < math.inf:  # later deadlines are judged by them
            wrong = f"times of {answers.cloud_ms} ms, {answers.queue_ms} of them in its queue"
        if wrong:
            raise OffloadFailed(InvalidInput(f"invalid cloud response: {wrong}"), answers.sent_bytes)


def _size(sent: Sendable) -> int:
    """Bytes of *sent* without the message's head, which is small beside what the estimate does not know."""
    return len(sent.data) if isinstance(sent, Payload) else sent.nbytes
