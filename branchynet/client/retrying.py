"""One request, brought to an answer: retried, at the next node if there is one, until its deadline.

Inference is idempotent, so a request whose node went away may be sent again. What ends without an answer says why; it
is never dropped silently.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import tenacity
from numpy.typing import NDArray

from branchynet.client.client import AsyncClient
from branchynet.errors import BranchyNetError, Cancelled, DeadlineExceeded, InvalidInput, Unavailable
from branchynet.exits.rules import ExitRule
from branchynet.serving.prediction import Policy, Prediction

__all__ = ["NodeClient", "RequestOutcome", "RetryingClient"]

BACK_OFF = tenacity.wait_random_exponential(multiplier=0.02, max=0.5)
# What the stop of a node, gentle or not, looks like from here; a node that outlasts its grace cancels its calls.
GONE = (Unavailable, DeadlineExceeded, Cancelled)
# With less than this left there is no point in another attempt.
LAST_TRY_MS = 2.0


class NodeClient(Protocol):
    """A connection to one node, by whatever protocol; `AsyncClient` is one."""

    async def classify(
        self, images: NDArray[np.uint8], *, rule: ExitRule | None, policy: Policy, deadline_ms: float
    ) -> list[Prediction]:
        """One prediction for each of *images*, uint8 [B, C, H, W]; raises our errors."""
        ...

    async def close(self) -> None:
        """Close it; calls still running raise `Cancelled`."""
        ...


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """What became of one request.

    *predictions*: one an image, none if no answer came, and *error* then says why. *node*: index of the target that
    was asked last. *attempts*: how often it was sent. *latency_ms*: from the first attempt to the end.
    """

    predictions: tuple[Prediction, ...]
    node: int
    attempts: int
    latency_ms: float
    error: str = ""


class RetryingClient:
    """Connections to the nodes at *targets* (`host:port`), used by any number of requests at a time.

    An attempt that has no answer after *attempt_ms* is given up, as a vanished machine refuses nothing; of
    *max_attempts* (no limit if None) the last one's failure is the request's. *connect* opens a connection to a target.
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        attempt_ms: float = 5_000,
        max_attempts: int | None = None,
        connect: Callable[[str], NodeClient] = AsyncClient,
    ) -> None:
        if not targets:
            raise InvalidInput("there is no node to send requests to")
        self._clients = [connect(target) for target in targets]
        self._attempt_ms = attempt_ms
        self._max_attempts = max_attempts

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; requests still under way end without an answer."""
        for client in self._clients:
            await client.close()

    async def classify(
        self,
        images: NDArray[np.uint8],
        *,
        first: int = 0,
        rule: ExitRule | None = None,
        policy: Policy = Policy.SPLIT,
        deadline_ms: float = 10_000,
    ) -> RequestOutcome:
        """Have *images*, uint8 [B, C, H, W], classified; the node with index *first* is asked first, then the next.

        Raises what a node refuses, for instance `InvalidInput`: asking again would not help.
        """
        started_s = time.perf_counter()
        attempts, node = 0, first % len(self._clients)
        failure: BranchyNetError | None = None

        def left_ms() -> float:
            return deadline_ms - 1e3 * (time.perf_counter() - started_s)

        def pause_s(state: tenacity.RetryCallState) -> float:
            # The time that is left is used up, not given away because a full pause does not fit.
            return max(min(BACK_OFF(state), (left_ms() - LAST_TRY_MS) / 1e3), 0.0)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(GONE),
            wait=pause_s,
            stop=lambda _: left_ms() <= LAST_TRY_MS or attempts == self._max_attempts,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    node = (first + attempts) % len(self._clients)
                    attempts += 1
                    allowed_ms = max(min(self._attempt_ms, left_ms()), 1.0)
                    answers = await self._clients[node].classify(
                        images, rule=rule, policy=policy, deadline_ms=allowed_ms
                    )
                    return RequestOutcome(tuple(answers), node, attempts, deadline_ms - left_ms())
        except GONE as error:
            failure = error
        assert failure is not None
        return RequestOutcome((), node, attempts, deadline_ms - left_ms(), f"{failure.grpc_status}: {failure}")
