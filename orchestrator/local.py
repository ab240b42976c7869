"""One cloud, several edges and a link to each, as processes on this machine.

client ──► edge-0 ──► link-0 ──┐
       ──► edge-1 ──► link-1 ──┴──► cloud
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from branchynet.errors import InvalidInput
from orchestrator.processes import Child
from orchestrator.tasks import run_all

__all__ = ["LocalTopology", "Topology"]


@dataclass(frozen=True, slots=True)
class Topology:
    """What to start. *rtt_ms* is the emulated round trip of each link, *uplink_mbps* and *downlink_mbps* its rates."""

    artifact: str = "lenet-fashion"
    edges: int = 2
    uplink_mbps: float = 10.0
    downlink_mbps: float = 50.0
    rtt_ms: float = 40.0
    offload_timeout_ms: float = 2_000.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.edges < 1:
            raise InvalidInput(f"edges is {self.edges}; at least one is needed")


class LocalTopology:
    """The running processes. Made by `LocalTopology.running`, which also stops them."""

    def __init__(self, topology: Topology, logs: Path, cloud: Child) -> None:
        self.topology = topology
        self.cloud = cloud
        self.links: list[Child] = []
        self.edges: list[Child] = []
        self._logs = logs

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, topology: Topology, logs: Path) -> AsyncIterator[LocalTopology]:
        """Start everything, logs under *logs*; stop everything when the block ends, however it ends.

        Raises `Unavailable` if a part does not start.
        """
        for old in logs.glob("*.log"):
            old.unlink()
        async with contextlib.AsyncExitStack() as stack:

            async def start(name: str, module: str, *arguments: str) -> Child:
                child = await Child.start(name, module, arguments, logs)
                stack.push_async_callback(child.stop)
                return child

            self = cls(topology, logs, await _start_cloud(topology, logs, port=0))
            stack.push_async_callback(self._stop_cloud)
            for index in range(topology.edges):
                self.links.append(await start(f"link-{index}", "simulations.link_proxy", *self._link_arguments(index)))
            edges: dict[int, Child] = {}

            async def start_edge(index: int, link: Child) -> None:
                way_out = (
                    "--cloud",
                    f"127.0.0.1:{link.port}",
                    "--offload-timeout-ms",
                    str(topology.offload_timeout_ms),
                )
                arguments = (*_node_arguments(topology, port=0), *way_out)
                edges[index] = await start(f"edge-{index}", "edge_node", *arguments)

            # Together: most of a node's start is the import of torch.
            await run_all(start_edge(index, link) for index, link in enumerate(self.links))
            self.edges += [edges[index] for index in range(topology.edges)]
            yield self

    async def restart_cloud(self, *, down_s: float = 0.0) -> None:
        """Kill the cloud as a crash would, wait *down_s*, and start it again on the same port."""
        port = self.cloud.port
        self.cloud.kill()
        await self.cloud.stop()
        await asyncio.sleep(down_s)
        self.cloud = await _start_cloud(self.topology, self._logs, port)

    async def watch(self) -> None:
        """Return never; raise `Unavailable` when any part that runs now ends by itself."""
        await run_all(child.watch() for child in [self.cloud, *self.links, *self.edges])

    async def reset_links(self) -> None:
        """Set the links' byte counters to zero."""
        for link in self.links:
            await link.ask("reset")

    async def uplink_bytes(self) -> int:
        """Bytes that crossed the links towards the cloud since the last reset, gRPC's own included."""
        return sum([int((await link.ask("stats"))["bytes_up"]) for link in self.links])

    async def _stop_cloud(self) -> None:
        """Stop the cloud that runs now, which a restart may have replaced."""
        await self.cloud.stop()

    def _link_arguments(self, index: int) -> tuple[str, ...]:
        topology = self.topology
        return (
            *("--listen", "127.0.0.1:0"),
            *("--target", f"127.0.0.1:{self.cloud.port}"),
            *("--uplink-mbps", str(topology.uplink_mbps)),
            *("--downlink-mbps", str(topology.downlink_mbps)),
            *("--rtt-ms", str(topology.rtt_ms)),
            *("--seed", str(topology.seed + index)),
            "--control",
        )


def _node_arguments(topology: Topology, port: int) -> tuple[str, ...]:
    return ("--artifact", topology.artifact, "--port", str(port), "--grace-s", "2", "--exit-with-parent")


async def _start_cloud(topology: Topology, logs: Path, port: int) -> Child:
    return await Child.start("cloud", "cloud_node", _node_arguments(topology, port), logs)
