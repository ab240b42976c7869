"""One cloud, several edges and a link to each, as processes on this machine.

client ──► edge-0 ──► link-0 ──┐
       ──► edge-1 ──► link-1 ──┴──► cloud
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from branchynet.engine import Engine
from branchynet.errors import InvalidInput
from orchestrator.processes import Child
from orchestrator.tasks import run_all

__all__ = ["LocalTopology", "Topology"]


@dataclass(frozen=True, slots=True)
class Topology:
    """What to start. *rtt_ms* is the emulated round trip of each link, *uplink_mbps* and *downlink_mbps* its rates.

    *codec* and *image_codec* are how the edges send feature maps and images, *cut* how many stages they hold (the
    artifact's own cut if None). They take *times* as long for what they compute (`orchestrator.weak_edge`). With
    *control* the nodes let themselves be profiled. *variants*: a topology for each edge, of which the link and what
    edges are told count. *adapt*: a plan file for each edge, which is then as slow as its profile says; or none.
    """

    artifact: str = "lenet-fashion"
    edges: int = 2
    uplink_mbps: float = 10.0
    downlink_mbps: float = 50.0
    rtt_ms: float = 40.0
    offload_timeout_ms: float = 2_000.0
    seed: int = 0
    engine: Engine = Engine.EAGER
    codec: str = "fp32"
    image_codec: str = "raw"
    cut: int | None = None
    times: float = 1
    control: bool = False
    variants: tuple[Topology, ...] = ()
    adapt: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.edges < 1:
            raise InvalidInput(f"edges is {self.edges}; at least one is needed")
        if self.variants and len(self.variants) != self.edges:
            raise InvalidInput(f"{len(self.variants)} variants are given for {self.edges} edges; one each, or none")
        if len(self.adapt) not in (0, self.edges):
            raise InvalidInput(f"{len(self.adapt)} plan files for {self.edges} edges; give one each, or none")

    def of(self, number: int) -> Topology:
        """What edge *number* and its link are started by."""
        return self.variants[number] if self.variants else self


class LocalTopology:
    """The running processes. Made by `LocalTopology.running`, which also stops them."""

    def __init__(self, topology: Topology, logs: Path) -> None:
        self.topology = topology
        self._logs = logs
        self._children: dict[str, Child] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, topology: Topology, logs: Path) -> AsyncIterator[LocalTopology]:
        """Start everything, logs under *logs*; stop everything when the block ends, however it ends.

        Raises `Unavailable` if a part does not start.
        """
        for old in logs.glob("*.log"):
            old.unlink()
        self, numbers = cls(topology, logs), range(topology.edges)
        async with contextlib.AsyncExitStack() as stack:

            async def start(name: str, module: str, arguments: Sequence[str]) -> None:
                self._children[name] = await Child.start(name, module, arguments, logs)
                stack.push_async_callback(self._stop, name)

            await start("cloud", "cloud_node", self._node_arguments())
            for number in numbers:
                await start(f"link-{number}", "simulations.link_proxy", self._link_arguments(number))
            # Most of a node's start is the import of torch: so many together as there are cores.
            together = os.cpu_count() or 1
            for first in numbers[::together]:
                group = numbers[first : first + together]
                await run_all(start(f"edge-{number}", *self._edge(number)) for number in group)
            yield self

    @property
    def cloud(self) -> Child:
        """The cloud that runs now."""
        return self._children["cloud"]

    @property
    def links(self) -> list[Child]:
        """The links, in the order of their edges."""
        return [self._children[f"link-{number}"] for number in range(self.topology.edges)]

    @property
    def edges(self) -> list[Child]:
        """The edges that run now."""
        return [self._children[f"edge-{number}"] for number in range(self.topology.edges)]

    @property
    def targets(self) -> list[str]:
        """The edges' addresses, `host:port`."""
        return [f"127.0.0.1:{edge.port}" for edge in self.edges]

    async def restart_cloud(self, *, down_s: float = 0.0) -> None:
        """Kill the cloud as a crash would, wait *down_s*, and start it again on the same port."""
        port = await self._crash("cloud")
        await asyncio.sleep(down_s)
        self._children["cloud"] = await Child.start("cloud", "cloud_node", self._node_arguments(port), self._logs)

    async def restart_edge(self, number: int, *, down_s: float = 0.0) -> None:
        """Kill an edge as a crash would, wait *down_s*, and start it again on the same port."""
        name = f"edge-{number}"
        port = await self._crash(name)
        await asyncio.sleep(down_s)
        self._children[name] = await Child.start(name, *self._edge(number, port), self._logs)

    async def watch(self) -> None:
        """Return never; raise `Unavailable` when any part that runs now ends by itself."""
        await run_all(child.watch() for child in self._children.values())

    async def reset_links(self) -> None:
        """Set the links' byte counters to zero."""
        for link in self.links:
            await link.ask("reset")

    async def uplink_bytes(self) -> int:
        """Bytes that crossed the links towards the cloud since the last reset, gRPC's own included."""
        return sum([int((await link.ask("stats"))["bytes_up"]) for link in self.links])

    async def _stop(self, name: str) -> None:
        """Stop the part that has the *name* now, which a restart may have replaced."""
        await self._children[name].stop()

    async def _crash(self, name: str) -> int:
        """Kill a part; the port it had."""
        child = self._children[name]
        child.kill()
        await child.stop()
        return child.port

    def _link_arguments(self, number: int) -> tuple[str, ...]:
        topology = self.topology.of(number)
        return (
            *("--listen", "127.0.0.1:0"),
            *("--target", f"127.0.0.1:{self.cloud.port}"),
            *("--uplink-mbps", str(topology.uplink_mbps)),
            *("--downlink-mbps", str(topology.downlink_mbps)),
            *("--rtt-ms", str(topology.rtt_ms)),
            *("--seed", str(topology.seed + number)),
            "--control",
        )

    def _node_arguments(self, port: int = 0) -> tuple[str, ...]:
        topology = self.topology
        return (
            *("--artifact", topology.artifact, "--engine", topology.engine),
            *("--port", str(port), "--grace-s", "2", "--exit-with-parent"),
            *(["--control"] if topology.control else []),
        )

    def _edge(self, number: int, port: int = 0) -> tuple[str, tuple[str, ...]]:
        """The module that is edge *number*, and its arguments."""
        topology = self.topology.of(number)
        arguments = (
            *self._node_arguments(port),
            *("--cloud", f"127.0.0.1:{self.links[number].port}"),
            *("--offload-timeout-ms", str(topology.offload_timeout_ms)),
            *("--codec", topology.codec, "--image-codec", topology.image_codec),
            *(() if topology.cut is None else ("--cut", str(topology.cut))),
        )
        if self.topology.adapt:
            plans = str(self.topology.adapt[number])
            return "orchestrator.weak_edge", ("--as-profiled", plans, "--adapt", plans, *arguments)
        if topology.times == 1:
            return "edge_node", arguments
        return "orchestrator.weak_edge", ("--times", str(topology.times), *arguments)
