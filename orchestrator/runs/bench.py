"""One node under load: what it answers a second, how fast, and what it refuses."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.client.find_node import Node, Role
from branchynet.errors import InvalidInput, Unavailable
from branchynet.serving.prediction import Policy
from orchestrator.load.generator import LoadGenerator, LoadSettings
from orchestrator.load.schedules import Lane, closed_loop, open_loop
from orchestrator.load.stopping import stop_on_signal
from simulations.model.request_report import Report
from simulations.model.scenario import Arrivals, Scenario, Workload
from simulations.model.workload import requests_of

__all__ = ["BenchLoad", "BenchRun", "check_load", "run_bench"]

TICK_S = 0.25
HISTOGRAM_BINS = 20


@dataclass(frozen=True, slots=True)
class BenchLoad:
    """How a node is loaded: *rate_per_s* (open loop) with *arrivals*, or *concurrency* at a time (closed loop).

    It ends after *requests* or *seconds*, whichever comes first (None: not by that). Each request has *batch* images
    and *deadline_ms* for its answer, and is sent again if it fails and *retry*. *warm_up* requests before are not
    measured. *policy* is for edges. Raises `InvalidInput` for a load that cannot be.
    """

    rate_per_s: float | None = None
    arrivals: Arrivals = Arrivals.POISSON
    concurrency: int = 1
    requests: int | None = None
    seconds: float | None = None
    batch: int = 1
    policy: Policy = Policy.SPLIT
    deadline_ms: float = 10_000.0
    retry: bool = False
    warm_up: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.requests is None and self.seconds is None:
            raise InvalidInput("neither requests nor seconds is given; the load would never end")

    def lanes(self, samples: int) -> list[Lane]:
        """What is sent when, out of *samples* images."""
        most = math.inf if self.requests is None else self.requests
        if self.rate_per_s is None:
            return closed_loop(samples, 1, self.concurrency, requests=most, policy=self.policy)
        seconds = math.inf if self.seconds is None else self.seconds
        if self.requests is None:
            mean = self.rate_per_s * seconds
            most = math.ceil(mean + 6 * math.sqrt(mean)) + 1  # at random as many come once in a thousand million runs
        workload = Workload(arrivals=self.arrivals, rate_per_s=self.rate_per_s, requests=int(most))
        lane = open_loop([requests_of(Scenario(seed=self.seed, workload=workload), 0, samples)], policy=self.policy)
        return [Lane(itertools.takewhile(lambda request: (request.due_s or 0.0) < seconds, lane.requests))]


@dataclass
class BenchRun:
    """A *node* under *load*: how many requests were *sent* and have *ended* so far, and the *report* of these.

    *started_s* by the monotonic clock. *sent_late_ms* as in `LoadGenerator`. *interrupted*: whether a signal ended
    it early.
    """

    node: Node
    load: BenchLoad
    report: Report
    started_s: float = field(default_factory=time.monotonic)
    elapsed_s: float = 0.0
    sent: int = 0
    ended: int = 0
    sent_late_ms: float = 0.0
    interrupted: bool = False

    def update(self, generator: LoadGenerator) -> None:
        """Count in what has ended since the last time."""
        self.sent, self.elapsed_s = generator.sent.total(), time.monotonic() - self.started_s
        self.sent_late_ms = generator.sent_late_ms
        self.report.add(generator.records(self.ended))
        self.ended = len(generator.ended)

    def figures(self, *, labelled: bool) -> dict[str, Any]:
        """For a program; `docs/reference/json.md` explains the keys. Without labels there is no accuracy."""
        load, node = self.load, self.node
        figures = self.report.figures()
        return {
            "target": node.target,
            "role": node.role.value,
            "protocol": node.protocol.value,
            "model": node.model,
            "content_hash": node.content_hash,
            "loop": "closed" if load.rate_per_s is None else "open",
            "rate_per_s": load.rate_per_s,
            "arrivals": None if load.rate_per_s is None else load.arrivals.value,
            "concurrency": load.concurrency if load.rate_per_s is None else None,
            "batch": load.batch,
            "policy": load.policy.value if node.role is Role.EDGE else None,
            "warm_up": load.warm_up,
            "interrupted": self.interrupted,
            "sent_late_ms": round(self.sent_late_ms, 3),
            **figures,
            "accuracy": figures["accuracy"] if labelled else None,
            "errors": self.report.lost_by_status(),
            "histogram": self.report.histogram(HISTOGRAM_BINS),
        }


def check_load(node: Node, load: BenchLoad) -> None:
    """Raise `InvalidInput` for a *load* that *node* cannot take."""
    if not node.input_shape:
        raise InvalidInput(f"the cloud at {node.target} does not hold stage 0, so it takes feature maps and no images")
    if not 1 <= load.batch <= node.max_batch:
        raise InvalidInput(f"batch is {load.batch}; {node.target} takes 1 to {node.max_batch} images in a request")
    if node.role is Role.CLOUD and load.policy is not Policy.SPLIT:
        raise InvalidInput(f"policy is {load.policy.value}; {node.target} is a cloud, and a policy is for an edge")


async def run_bench(
    node: Node,
    load: BenchLoad,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    on_tick: Callable[[BenchRun], None] = lambda _run: None,
) -> BenchRun:
    """Put *load* on *node* with *images*, uint8 [N, C, H, W], and *labels*, int64 [N], -1 where not known.

    *on_tick* is called four times a second with how things stand. SIGINT and SIGTERM end the load and wait for the
    requests under way; a second one does not wait. Raises what `check_load` raises, and what the node refuses and
    `Unavailable` while it warms up; later, a request that fails is lost.
    """
    check_load(node, load)
    targets, settings = {0: node.target}, LoadSettings(load.deadline_ms, load.batch, load.retry, connect=node.connect)
    with stop_on_signal() as stop:
        warming = LoadGenerator(targets, images, labels, settings)
        lanes = closed_loop(len(images), 1, load.concurrency, requests=load.warm_up, policy=load.policy)
        await warming.run(*lanes, stop=stop)
        if warming.ended and not any(ended.outcome.predictions for ended in warming.ended):
            raise Unavailable(f"no request was answered while it warmed up: {warming.ended[-1].outcome.error}")
        generator = LoadGenerator(targets, images, labels, replace(settings, keep_refusals=True))
        run = BenchRun(node, load, Report(load.deadline_ms))
        ticking = asyncio.create_task(_tick(run, generator, on_tick))
        try:
            await _send(generator, load.lanes(len(images)), stop, load.seconds)
        finally:
            ticking.cancel()
            run.update(generator)
        run.interrupted = stop.is_set()
    return run


async def _send(generator: LoadGenerator, lanes: Sequence[Lane], stop: asyncio.Event, seconds: float | None) -> None:
    """Send *lanes*; nothing new after *seconds*. Cancelled by a second signal, it gives up what is under way."""
    clock = asyncio.get_running_loop().time
    until_s = math.inf if seconds is None else clock() + seconds
    timed = [replace(lane, requests=itertools.takewhile(lambda _: clock() < until_s, lane.requests)) for lane in lanes]
    try:
        await generator.run(*timed, stop=stop)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not stop.is_set() or task is None:
            raise
        task.uncancel()


async def _tick(run: BenchRun, generator: LoadGenerator, on_tick: Callable[[BenchRun], None]) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        run.update(generator)
        on_tick(run)
