"""One compute thread beside an event loop, so that the loop never waits for a network's layers.

It can stand in for a slower device: each call then takes *slowdown* times as long as it would. A limit on the CPU's
time would not do, as it takes effect by periods of many milliseconds, in which a stage of one millisecond runs at full
speed or not at all. What gRPC and the event loop do is as fast as ever.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

from branchynet.errors import InvalidInput

__all__ = ["Timed", "Worker"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Timed(Generic[R]):
    """A result with how long it waited for the thread and how long it took on it."""

    value: R
    queue_ms: float
    compute_ms: float


class Worker:
    """Runs calls one after the other on a thread of its own. Cancelling a call that still waits removes it.

    Each call takes *slowdown* times as long as it takes this machine. Raises `InvalidInput` for a *slowdown* below 1.
    """

    def __init__(self, name: str, slowdown: float = 1.0) -> None:
        if not 1 <= slowdown < math.inf:
            raise InvalidInput(f"slowdown is {slowdown:g}; it must be 1 or more, as nothing makes this machine faster")
        self._slowdown = slowdown
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Timed[R]:
        """The result of *call* with its times; what it raises is raised here."""
        submitted_s = time.perf_counter()

        def timed() -> Timed[R]:
            started_s = time.perf_counter()
            value = call(*args, **kwargs)
            if self._slowdown > 1:
                # Asleep, and not computing it again: a device of its own would leave this machine to the other nodes,
                # of which one process or one machine may host dozens.
                time.sleep((self._slowdown - 1) * (time.perf_counter() - started_s))
            ended_s = time.perf_counter()
            return Timed(value, 1e3 * (started_s - submitted_s), 1e3 * (ended_s - started_s))

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        self._thread.shutdown(wait=True, cancel_futures=True)
