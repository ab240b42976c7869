"""What an edge needs of the way to its cloud, whatever carries it: gRPC, a simulated link, a test's object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from branchynet.codecs.payload import Sendable
from branchynet.errors import BranchyNetError
from branchynet.exits.rules import ExitRule, History

__all__ = ["CloudAnswers", "OffloadFailed", "Uplink"]


@dataclass(frozen=True, slots=True)
class CloudAnswers:
    """The cloud's answers for R samples, in the order they were sent.

    *exits*: int64 [R]; *logits*: float32 [R, C]; *cloud_ms*: waiting and computing there, *queue_ms* of it waiting;
    *round_trip_ms*: from the call to the reply; *sent_bytes*: size of the message.
    """

    exits: NDArray[np.int64]
    logits: NDArray[np.float32]
    cloud_ms: float
    round_trip_ms: float
    sent_bytes: int
    queue_ms: float = 0.0

    @property
    def network_ms(self) -> float:
        """What the way there and back took."""
        return max(self.round_trip_ms - self.cloud_ms, 0.0)


class OffloadFailed(BranchyNetError):
    """A message of *sent_bytes* went towards the cloud and *cause* came back instead of an answer."""

    def __init__(self, cause: BranchyNetError, sent_bytes: int) -> None:
        super().__init__(str(cause))
        self.grpc_status = cause.grpc_status
        self.sent_bytes = sent_bytes


class Uplink(Protocol):
    """The way to the cloud."""

    async def resume(
        self, cut: int, sent: Sendable, rule: ExitRule | None, timeout_ms: float, history: History | None = None
    ) -> CloudAnswers:
        """Answers for *sent* [R, …] at *cut* within *timeout_ms*, or a `BranchyNetError` that says why not.

        *sent*: the tensor as it is, uint8 or float32, or what a codec made of it. *history*: int32 [R, 2], what a rule
        with a memory knows of the samples; None for other rules, and at cut 0. *rule*: None where no
        exit that could be taken lies behind the cut. The error is an `OffloadFailed` if the message may have gone out.
        """
        ...
