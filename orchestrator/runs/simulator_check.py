"""Is the simulator right? The same requests through real nodes over the emulated link, and through the simulator."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from branchynet.data.datasets import Dataset
from branchynet.exits.rules import ExitRule
from orchestrator.load.generator import LoadGenerator, LoadSettings
from orchestrator.load.schedules import open_loop
from orchestrator.nodes.build import build
from orchestrator.nodes.local import Processes
from simulations.model.request_records import Records
from simulations.model.request_report import Report
from simulations.model.scenario import Arrivals, LinkModel, PlanModel, Scenario, Workload
from simulations.model.simulator import Measured, simulate
from simulations.model.workload import all_requests

__all__ = ["Comparison", "compare", "scenarios_to_compare"]

TOLERANCE = 0.10
WARM_UP = 20
# Links that vary begin with the first request.
LEAD_S = 0.2


@dataclass(frozen=True)
class Comparison:
    """What real nodes and the simulator made of the same requests, row by row."""

    scenario: Scenario
    live: Records
    simulated: Records

    @property
    def mean_ms(self) -> tuple[float, float]:
        """Mean latency, live and simulated."""
        return float(self.live.latency_ms.mean()), float(self.simulated.latency_ms.mean())

    @property
    def deviation(self) -> float:
        """By how much the simulated mean differs from the live one, as a fraction of the live one."""
        live, simulated = self.mean_ms
        return simulated / live - 1

    @property
    def same_exits(self) -> bool:
        """Whether every request left at the same exit and the same place."""
        return np.array_equal(self.live.exit, self.simulated.exit) and np.array_equal(
            self.live.place, self.simulated.place
        )

    @property
    def same_bytes(self) -> bool:
        """Whether every request sent the same number of bytes."""
        return np.array_equal(self.live.uplink_bytes, self.simulated.uplink_bytes)

    @property
    def agrees(self) -> bool:
        """All of it: mean latency within a tenth, exits and bytes equal."""
        return abs(self.deviation) <= TOLERANCE and self.same_exits and self.same_bytes

    def figures(self) -> dict[str, Any]:
        """The comparison's JSON; `docs/reference/json.md` explains the keys."""
        deadline_ms = self.scenario.limits.deadline_ms
        return {
            "scenario": self.scenario.model_dump(mode="json"),
            "live": Report.of(self.live, deadline_ms).figures(),
            "simulated": Report.of(self.simulated, deadline_ms).figures(),
            "deviation": round(self.deviation, 4),
            "same_exits": self.same_exits,
            "same_bytes": self.same_bytes,
            "agrees": self.agrees,
        }


def scenarios_to_compare(artifact: str, measured: Measured, requests: int = 120) -> list[Scenario]:
    """Three links and plans that stress different parts: the plain split, the raw input far away, a queue at the link.

    *requests* at each edge.
    """
    own = measured.own_plan.rule
    everyone_on = ExitRule.never(measured.table.exits)
    split_message_bits = 8 * measured.profile.message_bytes[measured.own_plan.cut]
    return [
        Scenario(
            name="some leave early",
            artifact=artifact,
            edges=2,
            workload=Workload(rate_per_s=8, requests=requests),
            link=LinkModel(uplink_mbps=4.0, rtt_ms=60),
            plan=PlanModel(criterion=own.criterion, thresholds=own.thresholds),
        ),
        Scenario(
            name="raw input, far away",
            artifact=artifact,
            workload=Workload(arrivals=Arrivals.PERIODIC, rate_per_s=8, requests=requests),
            link=LinkModel(uplink_mbps=2.0, rtt_ms=120),
            plan=PlanModel(cut=0),
        ),
        Scenario(
            name="all offloaded, a queue",
            artifact=artifact,
            edges=2,
            workload=Workload(rate_per_s=12, requests=requests),
            # Six tenths of the link's time is taken: what comes in a burst waits.
            link=LinkModel(uplink_mbps=12 * split_message_bits / 0.6 / 1e6, rtt_ms=40),
            plan=PlanModel(criterion=everyone_on.criterion, thresholds=everyone_on.thresholds),
        ),
    ]


async def compare(
    scenario: Scenario,
    measured: Measured,
    dataset: Dataset,
    logs: Path,
    on_answer: Callable[[], None] = lambda: None,
) -> Comparison:
    """Run *scenario* through real nodes and through the simulator; rows are positions in *dataset*.

    Raises `InvalidInput` for what only one of the two can be: faults, faster devices, a cloud that takes batches.
    """
    simulated = simulate(scenario, measured)
    limits = LoadSettings(deadline_ms=scenario.limits.deadline_ms)
    warm_up = scenario.replaced(workload=Workload(rate_per_s=20, requests=WARM_UP))
    async with build(scenario, Processes(logs)) as fleet:
        targets = dict(enumerate(fleet.targets))

        async def go(wanted: Scenario, start_s: float, on_one: Callable[[], None]) -> Records:
            generator = LoadGenerator(targets, dataset.images, dataset.labels, limits, lambda _ended: on_one())
            await generator.run(open_loop(all_requests(wanted, len(dataset))), start_s=start_s)
            return generator.records()

        await go(warm_up, time.monotonic(), lambda: None)
        start_s = time.monotonic() + LEAD_S  # also the event loop's clock
        await fleet.begin(start_s)
        live = await go(scenario, start_s, on_answer)
    return Comparison(scenario, live, simulated)
