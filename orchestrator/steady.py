"""A steady load, and the proof that none of its requests was lost and none of its answers is wrong.

Open loop: requests leave at their times whether or not earlier ones were answered, as cameras send. Each is brought to
an answer by a `Courier`. What the answers must be is asked of the same nodes before the load begins, so that whatever
happens to them meanwhile can be held against it.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import BranchyNetError, InvalidInput, Unavailable
from branchynet.prediction import Place, Policy, Prediction
from orchestrator.delivery import Courier, Delivery
from orchestrator.load import run_load
from orchestrator.local import LocalTopology

__all__ = ["Expected", "Load", "Tally", "crash_and_restart", "expect", "figures", "run_steady"]

NEWS_EVERY_S = 2.0
_LATENCIES = {"p50": 50, "p95": 95, "p99": 99, "max": 100}


@dataclass(frozen=True, slots=True)
class Load:
    """*rate_per_s* requests a second for *seconds*, each of which waits *deadline_ms* for its answer."""

    rate_per_s: float = 40.0
    seconds: float = math.inf
    deadline_ms: float = 10_000.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise InvalidInput(f"rate_per_s is {self.rate_per_s}; it must be above 0")
        if not self.seconds > 0:
            raise InvalidInput(f"seconds is {self.seconds}; it must be above 0")


@dataclass(frozen=True, slots=True)
class Expected:
    """The right answer to one image: its *label*, the *place* that gives it, and the edge's own label."""

    label: int
    place: Place
    edge_label: int

    def fault(self, answer: Prediction) -> str:
        """What is wrong with *answer*; empty if nothing is.

        The edge answers by itself what it is sure of, and for an absent cloud what the cloud would have answered.
        """
        label = self.label
        if answer.place is not self.place:
            if (self.place, answer.place) != (Place.CLOUD, Place.FALLBACK):
                return f"answered by {answer.place.value}, expected {self.place.value}"
            label = self.edge_label
        return "" if answer.label == label else f"{answer.place.value} says {answer.label}, expected {label}"


@dataclass
class Tally:
    """What became of the requests. Reasons are counted: why requests have no answer, what is wrong with answers."""

    sent: int = 0
    by_place: Counter[str] = field(default_factory=Counter)
    by_edge: Counter[str] = field(default_factory=Counter)
    tried_again: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def answered(self) -> int:
        """Requests with an answer, right or wrong."""
        return self.by_place.total()

    @property
    def flawless(self) -> bool:
        """Whether there were requests, and each has its right answer."""
        return 0 < self.sent == self.answered and not self.wrong

    def add(self, delivery: Delivery, target: str, expected: Expected) -> None:
        """Count one finished request, which the edge at *target* was the last to be asked."""
        self.tried_again += delivery.attempts > 1
        if delivery.prediction is None:
            self.lost[delivery.error] += 1
            return
        self.by_place[delivery.prediction.place.value] += 1
        self.by_edge[target] += 1
        self.latencies_ms.append(delivery.latency_ms)
        if fault := expected.fault(delivery.prediction):
            self.wrong[fault] += 1

    def percentile_ms(self, percent: float) -> float:
        """The latency that *percent* of the answers do not exceed; NaN without an answer."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else math.nan


async def expect(targets: Sequence[str], images: NDArray[np.uint8]) -> list[Expected]:
    """Ask the edges at *targets* for the right answers to *images*, uint8 [N, C, H, W], while all is well.

    Raises `Unavailable` if all is not well: no edge, or no cloud.
    """
    split = (await run_load(targets, images, Policy.SPLIT, in_flight_per_edge=2)).predictions
    alone = (await run_load(targets, images, Policy.EDGE_ONLY, in_flight_per_edge=2)).predictions
    for answer in split:
        if answer.place is Place.FALLBACK:
            raise Unavailable(f"the cloud must answer when the load begins: {answer.fallback_reason}")
    return [Expected(one.label, one.place, other.label) for one, other in zip(split, alone, strict=True)]


async def run_steady(
    targets: Sequence[str],
    images: NDArray[np.uint8],
    expected: Sequence[Expected],
    load: Load,
    stop: asyncio.Event,
    *,
    on_news: Callable[[float, Tally], None] = lambda _seconds, _tally: None,
) -> Tally:
    """Send *images* over and over to the edges at *targets* by turns until *load* is over or *stop* is set.

    Waits for the answers under way. *on_news* is told every two seconds how long it has gone on and the tally of these
    two seconds. Raises nothing for what happens to a request: the tally says it.
    """
    total, news = Tally(), Tally()
    clock = asyncio.get_running_loop().time
    started_s = clock()

    async def send(courier: Courier, number: int) -> None:
        image = number % len(images)
        for tally in (total, news):
            tally.sent += 1
        try:
            delivery = await courier.deliver(images[image], first=number, deadline_ms=load.deadline_ms)
        except BranchyNetError as error:
            delivery = Delivery(None, number % len(targets), 1, 0.0, f"{error.grpc_status}: {error}")
        for tally in (total, news):
            tally.add(delivery, targets[delivery.edge], expected[image])

    async def report() -> None:
        nonlocal news
        for round_ in itertools.count(1):
            await asyncio.sleep(started_s + round_ * NEWS_EVERY_S - clock())
            told, news = news, Tally()
            on_news(round_ * NEWS_EVERY_S, told)

    async with Courier(targets) as courier:
        reporting = asyncio.create_task(report())
        try:
            async with asyncio.TaskGroup() as group:
                for number in itertools.count():
                    due_s = number / load.rate_per_s
                    if due_s >= load.seconds or await _stopped(stop, started_s + due_s - clock()):
                        break
                    group.create_task(send(courier, number))
                total.seconds = clock() - started_s
        finally:
            reporting.cancel()
    return total


async def crash_and_restart(running: LocalTopology, seconds: float, say: Callable[[str], None]) -> None:
    """Kill an edge, then the cloud, and start each again: a fifth of *seconds* dead, a fifth before and after it."""
    calm_s = down_s = seconds / 5
    await asyncio.sleep(calm_s)
    say("edge-0 is killed")
    await running.restart_edge(0, down_s=down_s)
    say("edge-0 serves again")
    await asyncio.sleep(calm_s)
    say("the cloud is killed")
    await running.restart_cloud(down_s=down_s)
    say("the cloud serves again")
    await asyncio.sleep(calm_s)


def figures(tally: Tally, load: Load) -> dict[str, Any]:
    """The steady load's JSON; `docs/figures.md` explains the keys."""
    return {
        "rate_per_s": load.rate_per_s,
        "seconds": round(tally.seconds, 1),
        "sent": tally.sent,
        "answered": tally.answered,
        "by_place": {place.value: tally.by_place[place.value] for place in Place},
        "by_edge": dict(sorted(tally.by_edge.items())),
        "tried_again": tally.tried_again,
        "lost": tally.lost.total(),
        "wrong": tally.wrong.total(),
        "reasons": {**tally.lost, **tally.wrong},
        "latency_ms": {name: _rounded(tally.percentile_ms(percent)) for name, percent in _LATENCIES.items()},
    }


def _rounded(value: float) -> float | None:
    """For JSON, which knows no NaN."""
    return None if math.isnan(value) else round(value, 3)


async def _stopped(stop: asyncio.Event, within_s: float) -> bool:
    """Whether *stop* is set before *within_s* has passed."""
    try:
        async with asyncio.timeout(max(0.0, within_s)):
            await stop.wait()
    except TimeoutError:
        return False
    return True
