"""Is the simulator right? The same requests through real nodes over the emulated link, and through the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from branchynet.decisions.exits import ExitRule
from branchynet.errors import InvalidInput
from branchynet.training.datasets import Dataset
from orchestrator.live import send_requests
from orchestrator.local import LocalTopology, Topology
from simulations.records import Records
from simulations.scenarios import Arrivals, LinkModel, PlanModel, Scenario, Workload
from simulations.simulator import Measured, simulate
from simulations.workload import Requests, requests_of

__all__ = ["Comparison", "compare", "scenarios_to_compare"]

TOLERANCE = 0.10
WARM_UP = 20


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
        """The comparison's JSON; `docs/figures.md` explains the keys."""
        deadline_ms = self.scenario.limits.deadline_ms
        return {
            "scenario": self.scenario.model_dump(mode="json"),
            "live": self.live.summary(deadline_ms),
            "simulated": self.simulated.summary(deadline_ms),
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
            link=LinkModel(uplink=4.0, rtt_ms=60),
            plan=PlanModel(criterion=own.criterion, thresholds=own.thresholds),
        ),
        Scenario(
            name="raw input, far away",
            artifact=artifact,
            workload=Workload(arrivals=Arrivals.PERIODIC, rate_per_s=8, requests=requests),
            link=LinkModel(uplink=2.0, rtt_ms=120),
            plan=PlanModel(cut=0),
        ),
        Scenario(
            name="all offloaded, a queue",
            artifact=artifact,
            edges=2,
            workload=Workload(rate_per_s=12, requests=requests),
            # Six tenths of the link's time is taken: what comes in a burst waits.
            link=LinkModel(uplink=12 * split_message_bits / 0.6 / 1e6, rtt_ms=40),
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

    Raises `InvalidInput` for what the local nodes cannot be: several clouds, a link that varies, slower devices, a cut
    that is neither 0 nor the artifact's own.
    """
    own_cut = measured.own_plan.cut
    plan = scenario.plan.plan(own_cut, measured.own_plan.rule)
    ordinary = Scenario.model_fields
    if scenario.clouds != 1 or not isinstance(scenario.link.uplink, float) or plan.cut not in (0, own_cut):
        raise InvalidInput(f"{scenario.name!r} needs one cloud, a constant uplink, and cut 0 or {own_cut}")
    if (scenario.edge, scenario.cloud) != (ordinary["edge"].default, ordinary["cloud"].default):
        raise InvalidInput(f"{scenario.name!r} has slower or batching nodes; the real ones are as they are")
    requests = requests_of(scenario, 0, len(dataset))
    topology = Topology(
        artifact=scenario.artifact,
        edges=scenario.edges,
        uplink_mbps=scenario.link.uplink,
        downlink_mbps=scenario.link.downlink_mbps,
        rtt_ms=scenario.link.rtt_ms,
        offload_timeout_ms=scenario.limits.offload_timeout_ms,
        seed=scenario.seed,
    )
    warm_up = scenario.model_copy(update={"workload": Workload(rate_per_s=20, requests=WARM_UP)})
    async with LocalTopology.running(topology, logs) as running:
        targets = dict(enumerate(running.targets))

        async def send(wanted: Requests, on_one: Callable[[], None]) -> Records:
            return await send_requests(
                wanted,
                targets,
                dataset.images,
                dataset.labels,
                plan,
                cloud=0,
                deadline_ms=scenario.limits.deadline_ms,
                on_answer=lambda _delivery, _edge: on_one(),
            )

        await send(requests_of(warm_up, 0, len(dataset)), lambda: None)
        live = await send(requests, on_answer)
    return Comparison(scenario, live, simulate(scenario, measured))
