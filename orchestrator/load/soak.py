"""A soak test: an open loop that goes on while nodes come and go, and checks each answer against what was expected.

What the answers must be is asked of the same nodes before the load begins. So the client needs no weights, and an
answer that came to the wrong request is found as well as a wrong one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.data.datasets import Dataset
from branchynet.errors import Unavailable
from branchynet.serving.prediction import Place, Policy, Prediction
from orchestrator.load.generator import DEADLINE_MS, LoadGenerator, LoadSettings
from orchestrator.load.schedules import closed_loop, constant_rate
from simulations.model.request_records import Records
from simulations.model.scenario import Fault

__all__ = ["Expected", "crashes", "expect", "run_soak"]

NEWS_EVERY_S = 2.0
CONCURRENCY = 2


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
        return "" if answer.label == label else f"{answer.place.value} answered {answer.label}, expected {label}"


async def expect(targets: Sequence[str], images: NDArray[np.uint8]) -> list[Expected]:
    """Ask the edges at *targets* for the right answers to *images*, uint8 [N, C, H, W], while all is well.

    Raises `Unavailable` if all is not well: no edge, or no cloud.
    """
    split, edge_only = [await _answers(targets, images, policy) for policy in (Policy.SPLIT, Policy.EDGE_ONLY)]
    for answer in split:
        if answer.place is Place.FALLBACK:
            raise Unavailable(f"the cloud must answer when the load begins: {answer.fallback_reason}")
    return [Expected(one.label, one.place, other.label) for one, other in zip(split, edge_only, strict=True)]


async def _answers(targets: Sequence[str], images: NDArray[np.uint8], policy: Policy) -> list[Prediction]:
    """The answer to each of *images*; raises what a node refuses, and `Unavailable` if one has no answer."""
    generator = LoadGenerator(dict(enumerate(targets)), images, np.full(len(images), -1))
    await generator.run(*closed_loop(len(images), len(targets), CONCURRENCY, requests=len(images), policy=policy))
    ended = sorted(generator.ended, key=lambda ended: ended.request.number)
    for one in ended:
        if one.outcome.error:
            raise Unavailable(f"all nodes must answer when the load begins: {one.outcome.error}")
    return [one.outcome.predictions[0] for one in ended]


async def run_soak(
    targets: Sequence[str],
    dataset: Dataset,
    expected: Sequence[Expected],
    rate_per_s: float,
    stop: asyncio.Event,
    *,
    seconds: float = float("inf"),
    deadline_ms: float = DEADLINE_MS,
    on_news: Callable[[float, int, Records], None] = lambda _seconds, _sent, _records: None,
) -> Records:
    """Send the images of *dataset* over and over to the edges at *targets* by turns, for *seconds* or until *stop*.

    A request whose edge is gone goes to the next one. Waits for the answers under way. *on_news* is called every two
    seconds with how long it has gone on, how many requests were sent in these two seconds, and what became of those
    that ended in them. Raises nothing for what happens to a request: its row has the reason.
    """

    def fault(row: int, answer: Prediction) -> str:
        return expected[row].fault(answer)

    settings = LoadSettings(deadline_ms=deadline_ms, failover=True, keep_refusals=True, fault=fault)
    generator = LoadGenerator(dict(enumerate(targets)), dataset.images, dataset.labels, settings)
    clock = asyncio.get_running_loop().time
    started_s = clock()

    async def report() -> None:
        sent = ended = 0
        for number in itertools.count(1):
            await asyncio.sleep(started_s + number * NEWS_EVERY_S - clock())
            news, sent_now = generator.records(ended), generator.sent.total()
            on_news(number * NEWS_EVERY_S, sent_now - sent, news)
            sent, ended = sent_now, ended + len(news)

    reporting = asyncio.create_task(report())
    try:
        await generator.run(
            constant_rate(rate_per_s, len(dataset), len(targets), seconds), start_s=started_s, stop=stop
        )
    finally:
        reporting.cancel()
    return generator.records()


def crashes(seconds: float) -> tuple[Fault, Fault]:
    """An edge that is killed, then the cloud: each is away for a fifth of *seconds*, with a fifth before and after."""
    fifth_s = seconds / 5
    return (
        Fault(part="edge-0", kind="kill", at_s=fifth_s, for_s=fifth_s),
        Fault(part="cloud-0", kind="kill", at_s=3 * fifth_s, for_s=fifth_s),
    )
