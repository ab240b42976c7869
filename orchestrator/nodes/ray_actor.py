"""A process that hosts several nodes in one event loop: a cloud, or edges with the link of each to its cloud.

    client ──► edge ──► link ──┐
           ──► edge ──► link ──┴──► cloud (another host)

An edge and its link share the process, so that a host that is lost takes its links along, as a lost site does.

A Ray actor is made of `NodeHost`. gRPC's objects belong to the process and the loop that made them, so all of them are
made in `start`, and none before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil

from branchynet.rpc.control import ControlService
from branchynet.rpc.server import running_server
from branchynet.serving.logging import configure_logging
from cloud_node.build import open_cloud
from cloud_node.service import CloudService
from edge_node.build import open_edge
from edge_node.service import EdgeService
from orchestrator.nodes.specs import CloudSpec, EdgeSpec, Spec
from simulations.link.control import obey
from simulations.link.proxy import LinkProxy

__all__ = ["Health", "NodeHost"]


@dataclass(frozen=True)
class Health:
    """A host at this moment.

    *created_s*: when its process began, by the machine's clock. *cpu_percent*: of one core, since the last look.
    *answered*: how many requests each node has answered since the process began, by the node's name; a host that serves
    nothing (it has just been started again) has none.
    """

    pid: int
    created_s: float
    cpu_percent: float
    rss_bytes: int
    answered: dict[str, int]


class NodeHost:
    """Hosts what `start` receives; all methods are called in one event loop."""

    def __init__(self) -> None:
        configure_logging("warning", "json")
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._nodes: dict[str, contextlib.AsyncExitStack] = {}
        self._services: dict[str, EdgeService | CloudService] = {}
        self._links: dict[int, LinkProxy] = {}

    async def start(self, specs: Sequence[Spec]) -> tuple[Spec, ...]:
        """Serve *specs*; they come back with the ports that were taken.

        Raises what a node raises that cannot be loaded, and `OSError` if a port is taken; nothing serves then.
        """
        try:
            return tuple([await self._start(spec) for spec in specs])
        except BaseException:
            await self.stop()
            raise

    async def ask_link(self, number: int, command: str) -> dict[str, object]:
        """Have the link of edge *number* obey *command*; its answer."""
        return obey(self._links[number], command)

    async def health(self) -> Health:
        """How it is."""
        answered = {name: service.answered for name, service in self._services.items()}
        memory = self._process.memory_info().rss
        process = self._process
        return Health(process.pid, process.create_time(), process.cpu_percent(), memory, answered)

    async def stop(self) -> Health:
        """Drain all nodes, and end their links; how the host was when that was done."""
        nodes, self._nodes, self._links = self._nodes, {}, {}
        await asyncio.gather(*(stack.aclose() for stack in nodes.values()))
        last = await self.health()
        self._services = {}
        return last

    async def _start(self, spec: Spec) -> Spec:
        stack = self._nodes[spec.name] = contextlib.AsyncExitStack()
        start: Any = self._start_cloud if isinstance(spec, CloudSpec) else self._start_edge
        started: Spec = await start(spec, stack)
        return started

    async def _start_cloud(self, spec: CloudSpec, stack: contextlib.AsyncExitStack) -> CloudSpec:
        node, limit = stack.enter_context(open_cloud(spec.settings))
        service, control = CloudService(node), ControlService(node.prober, spec.settings)
        services = [service.register, control.register]
        port = await stack.enter_async_context(running_server(services, spec.settings, limit))
        self._services[spec.name] = service
        return replace(spec, settings=spec.settings.model_copy(update={"port": port}))

    async def _start_edge(self, spec: EdgeSpec, stack: contextlib.AsyncExitStack) -> EdgeSpec:
        link = LinkProxy("127.0.0.1", spec.cloud_port, spec.link, port=spec.link_port)
        await stack.enter_async_context(link)
        settings = spec.settings.model_copy(update={"cloud": f"127.0.0.1:{link.port}"})
        node, limit = await stack.enter_async_context(open_edge(settings, spec.plan))
        service, control = EdgeService(node), ControlService(node.prober, settings, node)
        port = await stack.enter_async_context(running_server([service.register, control.register], settings, limit))
        self._services[spec.name] = service
        self._links[spec.number] = link
        return replace(spec, settings=settings.model_copy(update={"port": port}), link_port=link.port)
