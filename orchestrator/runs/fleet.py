"""A scenario on real nodes: its requests sent to a fleet, and what became of them.

The requests come from the driver's own event loop, not from actors: no loss of a host can lose what has been measured,
all edges share one clock, and a few hundred requests a second are little work beside the nodes that answer them.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from branchynet.data.datasets import Dataset
from branchynet.serving.prediction import Place
from orchestrator.load.generator import Ended, LoadGenerator, LoadSettings
from orchestrator.load.schedules import open_loop
from orchestrator.nodes.build import build, run_faults
from orchestrator.nodes.ray_fleet import Host, RayActors
from orchestrator.nodes.specs import check_real
from orchestrator.nodes.tasks import task_group
from simulations.model.request_records import Records
from simulations.model.scenario import Scenario
from simulations.model.workload import all_requests

__all__ = ["FleetRun", "HostLoad", "run_fleet"]

TICK_S = 0.25
# The hosts receive the start before the first request is sent.
LEAD_S = 0.5
# Requests behind the percentiles shown during a run.
RECENT = 2_000


@dataclass
class HostLoad:
    """What was sent to the edges of *host* so far, and what came of it; nothing for a cloud's host.

    *retried*: requests sent more than once. *latencies_ms* holds those of the latest answers.
    """

    host: Host
    sent: int = 0
    answered: int = 0
    fallback: int = 0
    retried: int = 0
    lost: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def add(self, ended: Ended) -> None:
        """Count a request that has ended."""
        self.retried += ended.outcome.attempts > 1
        if not ended.outcome.predictions:
            self.lost += 1
            return
        self.answered += 1
        self.fallback += ended.outcome.predictions[0].place is Place.FALLBACK
        self.latencies_ms.append(ended.latency_ms)

    def percentile_ms(self, percent: float) -> float | None:
        """Of the latest answers; None if there are none."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else None


@dataclass(frozen=True)
class FleetRun:
    """What became of a run: *records* of all requests that ended, which are all unless *stopped_by* names a signal."""

    records: Records
    hosts: tuple[Host, ...]
    wall_s: float
    stopped_by: int | None

    @property
    def restarts(self) -> int:
        """How often a host was lost and its nodes were started again."""
        return sum(host.restarts for host in self.hosts)


async def run_fleet(
    scenario: Scenario,
    dataset: Dataset,
    edge_hosts: int,
    on_tick: Callable[[list[HostLoad]], None] = lambda _loads: None,
) -> FleetRun:
    """Start the nodes of *scenario*, its edges on *edge_hosts* hosts, send its requests, drain the nodes.

    Ray must be up (`ray_session`). *on_tick* is called four times a second with how things stand. SIGINT and SIGTERM
    end the run early, in order. Raises `InvalidInput` for a scenario that real nodes cannot carry out,
    `UnknownModel`, and `Unavailable` if a host does not start.
    """
    run = _Run(scenario, dataset, edge_hosts, on_tick)
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    work = asyncio.create_task(run.work())
    try:
        ends: list[asyncio.Future[Any]] = [work, stopped]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not work.done():
            work.cancel()
        await asyncio.wait([work])
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    if not work.cancelled():
        work.result()
    return run.result(stopped.result() if stopped.done() else None)


class _Run:
    """One run's parts, of which some may not have come about when it is stopped early."""

    def __init__(
        self, scenario: Scenario, dataset: Dataset, edge_hosts: int, on_tick: Callable[[list[HostLoad]], None]
    ) -> None:
        check_real(scenario)
        self._scenario, self._backing = scenario, RayActors(edge_hosts, self._watch_start)
        self._targets: dict[int, str] = {}
        self._requests = open_loop(all_requests(scenario, len(dataset)))
        limits = LoadSettings(deadline_ms=scenario.limits.deadline_ms)
        self._generator = LoadGenerator(self._targets, dataset.images, dataset.labels, limits, self._count)
        self._on_tick = on_tick
        self._loads: list[HostLoad] = []
        self._load_of: dict[int, HostLoad] = {}
        self._started_s = self._ended_s = 0.0

    async def work(self) -> None:
        """All of it."""
        async with task_group() as group:
            ticking = group.create_task(self._tick())
            await self._send()
            ticking.cancel()

    async def _send(self) -> None:
        async with build(self._scenario, self._backing) as fleet:
            self._targets.update(enumerate(fleet.targets))
            self._started_s = time.monotonic() + LEAD_S  # also the event loop's clock
            await fleet.begin(self._started_s)
            self._load_of = {edge.number: load for load in self._loads for edge in load.host.edges}
            beside = asyncio.gather(fleet.watch(), run_faults(fleet, self._started_s))
            sending = asyncio.ensure_future(self._generator.run(self._requests, start_s=self._started_s))
            try:
                ends: list[asyncio.Future[Any]] = [beside, sending]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                await (sending if sending.done() else beside)
            finally:
                self._ended_s = time.monotonic()
                for task in (beside, sending):
                    task.cancel()
                await asyncio.gather(beside, sending, return_exceptions=True)

    def result(self, stopped_by: int | None) -> FleetRun:
        """What there is now."""
        hosts = tuple(load.host for load in self._loads)
        return FleetRun(self._generator.records(), hosts, max(self._ended_s - self._started_s, 0.0), stopped_by)

    def _watch_start(self, hosts: list[Host]) -> None:
        self._loads = [HostLoad(host) for host in hosts]

    def _count(self, ended: Ended) -> None:
        self._load_of[ended.request.edge].add(ended)

    async def _tick(self) -> None:
        while True:
            for load in self._loads:
                load.sent = sum(self._generator.sent[edge.number] for edge in load.host.edges)
            self._on_tick(self._loads)
            await asyncio.sleep(TICK_S)
