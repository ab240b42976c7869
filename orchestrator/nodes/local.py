"""Clouds, edges and a link to each, as processes on this machine.

client ──► edge-0 ──► link-0 ──┐
       ──► edge-1 ──► link-1 ──┴──► cloud-0
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.plan_file import write_plan
from branchynet.errors import InvalidInput, Unavailable
from branchynet.serving.settings import flags_of
from branchynet.system import usable_cores
from orchestrator.nodes.build import RunningFleet
from orchestrator.nodes.process import Child
from orchestrator.nodes.specs import EdgeSpec, Spec, specs_of
from orchestrator.nodes.tasks import run_all
from simulations.model.scenario import Scenario

__all__ = ["ProcessFleet", "Processes"]


@dataclass(frozen=True)
class Processes:
    """Nodes and links as processes here, their logs and what they read at their start in the folder *logs*."""

    logs: Path

    @contextlib.asynccontextmanager
    async def running(self, scenario: Scenario) -> AsyncIterator[ProcessFleet]:
        """See `orchestrator.nodes.build.build`."""
        clouds, edges = specs_of(scenario, self.logs)
        for old in self.logs.glob("*.log"):
            old.unlink()
        specs: list[Spec] = [*clouds, *edges]
        fleet = ProcessFleet(scenario, {spec.name: spec for spec in specs}, self.logs)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(fleet.stop)
            for cloud in clouds:
                await fleet.start(cloud.name)
            for number in fleet.links:
                await fleet.start(f"link-{number}")
            # Most of a node's start is the import of its engine: so many together as there are cores.
            together = usable_cores()
            for first in range(0, len(edges), together):
                await run_all(fleet.start(edge.name) for edge in edges[first : first + together])
            yield fleet


class ProcessFleet(RunningFleet):
    """The running processes; *specs* by the nodes' names. Made by `Processes.running`, which also stops them."""

    def __init__(self, scenario: Scenario, specs: dict[str, Spec], logs: Path) -> None:
        edges = [spec for spec in specs.values() if isinstance(spec, EdgeSpec)]
        super().__init__(scenario, {edge.number: (edge.course, edge.offset_s) for edge in edges if edge.course})
        self._specs = specs
        self._logs = logs
        self._children: dict[str, Child] = {}
        # Set for a part that runs; one that we have killed is awaited.
        self._runs: dict[str, asyncio.Event] = {}

    @property
    def targets(self) -> list[str]:
        """See `RunningFleet`."""
        return [f"127.0.0.1:{self.child(f'edge-{number}').port}" for number in range(self.scenario.edges)]

    @property
    def cloud_targets(self) -> list[str]:
        """See `RunningFleet`."""
        return [f"127.0.0.1:{self.child(f'cloud-{number}').port}" for number in range(self.scenario.clouds)]

    @property
    def children(self) -> list[Child]:
        """All processes, as they run now."""
        return list(self._children.values())

    def child(self, part: str) -> Child:
        """The process that is *part* now."""
        return self._children[part]

    async def ask_link(self, number: int, command: str) -> dict[str, Any]:
        """See `RunningFleet`."""
        answer = await self.child(f"link-{number}").ask(command)
        if not answer["ok"]:
            raise InvalidInput(f"link-{number} refuses {command!r}: {answer['error']}")
        return answer

    async def kill(self, node: str) -> None:
        """See `RunningFleet`."""
        self._runs[node].clear()
        self.child(node).kill()
        await self.child(node).stop()

    async def start(self, node: str) -> None:
        """See `RunningFleet`; also for the first time, and for links."""
        before = self._children.get(node)
        module, arguments = self._program(node, before.port if before else 0)
        self._children[node] = await Child.start(node, module, arguments, self._logs)
        self._runs.setdefault(node, asyncio.Event()).set()

    async def freeze(self, node: str, *, frozen: bool) -> None:
        """See `RunningFleet`."""
        os.kill(self.child(node).pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    async def watch(self) -> None:
        """Return never; raise `Unavailable` when a part ends that was not killed by us."""
        await run_all(self._watch(part) for part in self._children)

    async def stop(self) -> None:
        """Stop all parts, edges before their links and clouds."""
        for child in reversed(self.children):
            await child.stop()

    async def _watch(self, part: str) -> None:
        while True:
            child = self.child(part)
            try:
                await child.watch()
            except Unavailable:
                if self._runs[part].is_set() and self.child(part) is child:
                    raise
            await self._runs[part].wait()

    def _program(self, part: str, port: int) -> tuple[str, Sequence[str]]:
        """The module that is *part*, and its arguments, for it to listen on *port*."""
        if part.startswith("link-"):
            return "simulations.link.proxy", self._link_arguments(int(part.removeprefix("link-")))
        spec = self._specs[part]
        flags = [*flags_of(spec.settings.model_copy(update={"port": port})), "--exit-with-parent"]
        if not isinstance(spec, EdgeSpec):
            return "cloud_node", flags
        if spec.plan is not None:
            file, manifest = self._logs / f"{part}.plan.json", Artifact.open(self.scenario.artifact).manifest
            write_plan(file, spec.plan, manifest.name, manifest.content_hash)
            flags += ["--plan", str(file)]
        return "edge_node", [*flags, "--cloud", f"127.0.0.1:{self.child(f'link-{spec.number}').port}"]

    def _link_arguments(self, number: int) -> Sequence[str]:
        spec = self._specs[f"edge-{number}"]
        assert isinstance(spec, EdgeSpec)
        up, down = spec.link.up, spec.link.down
        return (
            *("--listen", "127.0.0.1:0"),
            *("--target", f"127.0.0.1:{self.child(f'cloud-{spec.cloud}').port}"),
            *("--uplink-mbps", str(up.rate_mbps), "--downlink-mbps", str(down.rate_mbps)),
            *("--rtt-ms", str(up.delay_ms + down.delay_ms), "--seed", str(spec.link.seed)),
            "--control",
        )
