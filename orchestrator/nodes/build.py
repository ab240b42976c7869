"""A scenario's nodes and links, running: as processes here, as Ray actors, or somebody else's.

async with build(scenario, Processes(Path("logs"))) as fleet:
    ...  # fleet.targets: where the edges listen

Parts have names: `edge-0`, `cloud-0`, and `link-0`, which is that of edge 0 to its cloud.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from branchynet.rpc.health_check import check
from orchestrator.nodes.tasks import run_all
from simulations.model.scenario import Fault, Scenario

__all__ = ["Backing", "RunningFleet", "build", "run_faults"]

_BEGINS = {"kill": "is killed", "freeze": "freezes", "cut": "is cut"}


class RunningFleet(ABC):
    """The running parts of *scenario*. *courses*: the recorded links that uplinks follow, by edge, and where from."""

    def __init__(self, scenario: Scenario, courses: Mapping[int, tuple[Path, float]]) -> None:
        self.scenario = scenario
        self._courses = courses
        self._zero_s: float | None = None

    @property
    @abstractmethod
    def targets(self) -> list[str]:
        """Where the edges listen, `host:port`, in the order of their numbers."""

    @property
    @abstractmethod
    def cloud_targets(self) -> list[str]:
        """Where the clouds listen, as far as that is known."""

    @property
    def links(self) -> range:
        """The links' numbers."""
        return range(self.scenario.edges)

    @abstractmethod
    async def ask_link(self, number: int, command: str) -> dict[str, Any]:
        """The answer of a link to *command* (see `simulations.link.control`); `InvalidInput` for what it refuses."""

    @abstractmethod
    async def kill(self, node: str) -> None:
        """End the *node* at once, as a crash would, until it is started."""

    @abstractmethod
    async def start(self, node: str) -> None:
        """Start the *node* again that was killed, where it was."""

    @abstractmethod
    async def freeze(self, node: str, *, frozen: bool) -> None:
        """Let the *node* do nothing while it is *frozen*."""

    @abstractmethod
    async def watch(self) -> None:
        """Return never; raise `Unavailable` when a part ends by itself, or start it again."""

    async def begin(self, zero_s: float) -> None:
        """Let uplinks that vary do so from *zero_s* (`time.monotonic`) on."""
        self._zero_s = zero_s
        await run_all(self._follow_course(number) for number in self._courses)

    async def reset_links(self) -> None:
        """Set the links' byte counters to zero."""
        for number in self.links:
            await self.ask_link(number, "reset")

    async def link_stats(self) -> list[dict[str, int]]:
        """What crossed each link since the last reset, gRPC's own bytes included."""
        return [await self.ask_link(number, "stats") for number in self.links]

    async def uplink_bytes(self) -> int:
        """Bytes that crossed all links towards the clouds since the last reset."""
        return sum(stats["bytes_up"] for stats in await self.link_stats())

    async def health(self) -> dict[str, bool]:
        """Whether each node serves, by its name."""
        nodes = {f"edge-{number}": target for number, target in enumerate(self.targets)}
        nodes |= {f"cloud-{number}": target for number, target in enumerate(self.cloud_targets)}
        answers = await asyncio.gather(*(asyncio.to_thread(check, target) for target in nodes.values()))
        return {name: answer == "SERVING" for name, answer in zip(nodes, answers, strict=True)}

    async def inflict(self, fault: Fault) -> None:
        """Have *fault* happen now, and end; back when its part works again."""
        if fault.is_link:
            await self.ask_link(fault.number, "cut" if fault.kind == "cut" else "stall")
            await asyncio.sleep(fault.for_s)
            await self.ask_link(fault.number, "restore")
        elif fault.kind == "kill":
            await self.kill(fault.part)
            await asyncio.sleep(fault.for_s)
            await self.start(fault.part)
        else:
            await self.freeze(fault.part, frozen=True)
            await asyncio.sleep(fault.for_s)
            await self.freeze(fault.part, frozen=False)

    async def _follow_course(self, number: int) -> None:
        """Have link *number* follow its course, if it has one and the run has begun."""
        if self._zero_s is not None and number in self._courses:
            path, offset_s = self._courses[number]
            await self.ask_link(number, f"uplink {path} {time.monotonic() - self._zero_s + offset_s:.6f}")


Fleet_co = TypeVar("Fleet_co", bound=RunningFleet, covariant=True)


class Backing(Protocol[Fleet_co]):
    """A way to have nodes: `Processes`, `RayActors`, `Attached`."""

    def running(self, scenario: Scenario) -> AbstractAsyncContextManager[Fleet_co]:
        """The parts of *scenario* while the block runs."""
        ...


def build(scenario: Scenario, on: Backing[Fleet_co]) -> AbstractAsyncContextManager[Fleet_co]:
    """The parts of *scenario*, running while the block does; what was started is stopped, however the block ends.

    Raises `InvalidInput` for a scenario that real nodes cannot carry out, `UnknownModel`, and `Unavailable` if a part
    does not start or does not answer.
    """
    return on.running(scenario)


async def run_faults(
    fleet: RunningFleet, start_s: float | None = None, on_event: Callable[[str], None] = lambda _event: None
) -> None:
    """Have the scenario's faults happen, *start_s* (`time.monotonic`, now) being their time 0, until all have ended.

    *on_event* receives the beginning and the end of each.
    """
    zero_s = time.monotonic() if start_s is None else start_s

    async def happen(fault: Fault) -> None:
        await asyncio.sleep(zero_s + fault.at_s - time.monotonic())
        on_event(f"{fault.part} {_BEGINS[fault.kind]}")
        await fleet.inflict(fault)
        on_event(f"{fault.part} {'carries' if fault.is_link else 'serves'} again")

    await run_all(happen(fault) for fault in fleet.scenario.faults)
