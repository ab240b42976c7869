"""Edges and links that somebody else runs: containers, other machines, other terminals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from branchynet.artifact.artifact import Artifact
from branchynet.client.client import AsyncClient
from branchynet.errors import InvalidInput
from branchynet.rpc.control import get_plan, set_plan
from branchynet.serving.address import Address
from orchestrator.nodes.build import RunningFleet
from simulations.link.control import ask_link
from simulations.model.scenario import PlanModel, Scenario

__all__ = ["Attached", "AttachedFleet"]


@dataclass(frozen=True)
class Attached:
    """The edges at *targets*, the links whose controls listen at *link_controls*, and *clouds*, all `host:port`.

    They stay as they are, whatever a scenario says of devices and links; only a plan that it names is set on its edges,
    which then need --control, and taken back at the end. Raises `InvalidInput` for what is no address.
    """

    targets: Sequence[str]
    link_controls: Sequence[str] = ()
    clouds: Sequence[str] = ()

    def __post_init__(self) -> None:
        for address in (*self.targets, *self.link_controls, *self.clouds):
            Address.parse(address)

    @contextlib.asynccontextmanager
    async def running(self, scenario: Scenario) -> AsyncIterator[AttachedFleet]:
        """See `orchestrator.nodes.build.build`."""
        if len(self.targets) != scenario.edges:
            raise InvalidInput(f"{len(self.targets)} edges are attached to, the scenario has {scenario.edges}")
        fleet = AttachedFleet(scenario, self)
        async with contextlib.AsyncExitStack() as stack:
            for numbers, group in scenario.edge_groups():
                if group.plan == PlanModel():
                    continue
                manifest = Artifact.open(scenario.artifact).manifest
                plan = group.plan.plan(manifest.cut, manifest.rule)
                for target in (self.targets[number] for number in numbers):
                    before = await get_plan(target)
                    await set_plan(target, plan, manifest.content_hash)
                    stack.push_async_callback(set_plan, target, before)
            yield fleet


class AttachedFleet(RunningFleet):
    """What runs already, at the addresses of *attached*."""

    def __init__(self, scenario: Scenario, attached: Attached) -> None:
        super().__init__(scenario, {})
        self._attached = attached

    @property
    def targets(self) -> list[str]:
        """See `RunningFleet`."""
        return list(self._attached.targets)

    @property
    def cloud_targets(self) -> list[str]:
        """See `RunningFleet`."""
        return list(self._attached.clouds)

    @property
    def links(self) -> range:
        """See `RunningFleet`."""
        return range(len(self._attached.link_controls))

    async def ask_link(self, number: int, command: str) -> dict[str, Any]:
        """See `RunningFleet`."""
        if number not in self.links:
            raise InvalidInput(f"link-{number} was not attached to: edges that run already need their links' controls")
        return await ask_link(self._attached.link_controls[number], command)

    async def kill(self, node: str) -> None:
        """See `RunningFleet`."""
        raise InvalidInput(f"{node} is somebody else's, who alone can stop it")

    async def start(self, node: str) -> None:
        """See `RunningFleet`."""
        raise InvalidInput(f"{node} is somebody else's, who alone can start it")

    async def freeze(self, node: str, *, frozen: bool) -> None:
        """See `RunningFleet`."""
        raise InvalidInput(f"{node} is somebody else's, who alone can {'stop' if frozen else 'start'} it")

    async def watch(self) -> None:
        """Return never: whoever runs the nodes watches them."""
        await asyncio.Event().wait()

    async def describe(self) -> tuple[str, str]:
        """The name of the artifact that the edges serve, and what the links are set to, for people.

        Raises `Unavailable` if an edge or a link does not answer.
        """
        models = []
        for target in self.targets:
            async with AsyncClient(target) as edge:
                models.append((await edge.describe()).model)
        settings = [await self.ask_link(number, "settings") for number in self.links]
        links = (_describe(link["uplink_mbps"], link["rtt_ms"]) for link in settings)
        return ", ".join(dict.fromkeys(models)), "; ".join(dict.fromkeys(links))


def _describe(uplink_mbps: float | None, rtt_ms: float) -> str:
    rate = "no limit" if uplink_mbps is None else f"{uplink_mbps:g} Mbit/s"
    return f"{rate} up, {rtt_ms:g} ms round trip"
