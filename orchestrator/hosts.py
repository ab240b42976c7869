"""A process that hosts several nodes in one event loop: a cloud, or edges with the link of each to its cloud.

    client ──► edge ──► link ──┐
           ──► edge ──► link ──┴──► cloud (another host)

A Ray actor is made of `NodeHost`. gRPC's objects belong to the process and the loop that made them, so all of them are
made in `start`, and none before.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace

import psutil
import torch

from branchynet.rpc.server import running_server
from branchynet.telemetry import configure_logging
from cloud_node.service import CloudService
from cloud_node.serving import open_cloud
from edge_node.service import EdgeService
from edge_node.serving import open_edge
from orchestrator.sites import CloudSite, EdgeSite, HostSite
from simulations.capacity import Capacity
from simulations.link_proxy import LinkProxy
from simulations.links import Course

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
    """Hosts what `start` is told; all methods are called in one event loop."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        configure_logging("warning", "json")
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._nodes: dict[str, contextlib.AsyncExitStack] = {}
        self._services: dict[str, EdgeService | CloudService] = {}
        self._links: list[tuple[EdgeSite, LinkProxy]] = []

    async def start(self, site: HostSite) -> HostSite:
        """Serve *site*; it comes back with the ports that were taken.

        Raises what a node raises that cannot be loaded, and `OSError` if a port is taken; nothing serves then.
        """
        try:
            clouds = [await self._start_cloud(cloud) for cloud in site.clouds]
            edges = [await self._start_edge(edge) for edge in site.edges]
        except BaseException:
            await self.stop()
            raise
        if site.zero_s is not None:
            await self.begin(site.uplink, site.zero_s)
        return replace(site, clouds=tuple(clouds), edges=tuple(edges))

    async def begin(self, uplink: Capacity | None, zero_s: float) -> None:
        """Let the uplinks vary as *uplink* does from *zero_s* (`time.monotonic`) on; None: they stay as they are."""
        if uplink is None:
            return
        for site, link in self._links:
            course = Course(uplink, zero_s - site.offset_s)
            link.reshape(replace(site.link, up=replace(site.link.up, rate_mbps=None, course=course)))

    async def health(self) -> Health:
        """How it is."""
        answered = {name: service.answered for name, service in self._services.items()}
        memory = self._process.memory_info().rss
        process = self._process
        return Health(process.pid, process.create_time(), process.cpu_percent(), memory, answered)

    async def stop(self) -> Health:
        """Drain all nodes, and end their links; how the host was when that was done."""
        nodes, self._nodes, self._links = self._nodes, {}, []
        await asyncio.gather(*(stack.aclose() for stack in nodes.values()))
        last = await self.health()
        self._services = {}
        return last

    async def _start_cloud(self, site: CloudSite) -> CloudSite:
        name = f"cloud-{site.number}"
        stack = self._nodes[name] = contextlib.AsyncExitStack()
        node, limit = stack.enter_context(open_cloud(site.settings))
        service = CloudService(node)
        port = await stack.enter_async_context(running_server([service.register], site.settings, limit))
        self._services[name] = service
        return replace(site, settings=site.settings.model_copy(update={"port": port}))

    async def _start_edge(self, site: EdgeSite) -> EdgeSite:
        name = f"edge-{site.number}"
        stack = self._nodes[name] = contextlib.AsyncExitStack()
        link = LinkProxy("127.0.0.1", site.cloud_port, site.link, port=site.link_port)
        await stack.enter_async_context(link)
        settings = site.settings.model_copy(update={"cloud": f"127.0.0.1:{link.port}"})
        node, limit = await stack.enter_async_context(open_edge(settings))
        service = EdgeService(node)
        port = await stack.enter_async_context(running_server([service.register], settings, limit))
        self._services[name] = service
        self._links.append((site, link))
        return replace(site, settings=settings.model_copy(update={"port": port}), link_port=link.port)
