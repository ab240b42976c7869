"""Real nodes on hosts that are Ray actors: started, watched, started again on the same ports when lost, drained."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from branchynet.errors import InvalidInput, Unavailable
from orchestrator.nodes.build import RunningFleet
from orchestrator.nodes.ray_actor import Health, NodeHost
from orchestrator.nodes.specs import CloudSpec, EdgeSpec, Spec, specs_of
from orchestrator.nodes.tasks import run_all
from simulations.model.scenario import Scenario

__all__ = ["Host", "RayActors", "RayFleet"]

POLL_S = 0.5
POLL_TIMEOUT_S = 2.0
# A host that has not answered this many times is taken for hung, and ended so that it can be started again.
HUNG_POLLS = 5
START_TIMEOUT_S = 120.0
# A host may take so long to drain, and its process then so long to end.
STOP_TIMEOUT_S = 15.0
END_TIMEOUT_S = 5.0


@dataclass
class Host:
    """An actor, what it hosts, how it was when it answered last, and whether it does (*up*).

    *restarts*: how often it was lost and its nodes were started again, which is not
    done while it is *kept_down* and after which it is *back*. *answered_before*:
    requests that lost processes had answered when they were last looked at, by node.
    """

    name: str
    specs: tuple[Spec, ...]
    actor: Any
    health: Health | None = None
    up: bool = False
    kept_down: bool = False
    back: asyncio.Event = field(default_factory=asyncio.Event)
    restarts: int = 0
    peak_rss_bytes: int = 0
    answered_before: Counter[str] = field(default_factory=Counter)

    @property
    def edges(self) -> list[EdgeSpec]:
        """The edges that it hosts."""
        return [spec for spec in self.specs if isinstance(spec, EdgeSpec)]

    @property
    def answered(self) -> dict[str, int]:
        """Requests answered, by node."""
        now = self.health.answered if self.health is not None else {}
        return {spec.name: self.answered_before[spec.name] + now.get(spec.name, 0) for spec in self.specs}

    @property
    def nodes_up(self) -> int:
        """How many of its nodes serve."""
        return len(self.health.answered) if self.health is not None and self.up else 0

    def note(self, health: Health) -> None:
        """Take in how the host is now."""
        if self.health is not None and self.health.pid != health.pid:
            self.answered_before.update(self.health.answered)
        self.health, self.up = health, bool(health.answered)
        self.peak_rss_bytes = max(self.peak_rss_bytes, health.rss_bytes)


@dataclass(frozen=True)
class RayActors:
    """Nodes in Ray actors: each cloud in one, all edges with their links in *hosts*. Ray must be up (`ray_session`).

    *on_hosts* receives the hosts before their nodes are started, which takes a while that is worth watching.
    """

    hosts: int
    on_hosts: Callable[[list[Host]], None] = lambda _hosts: None

    @contextlib.asynccontextmanager
    async def running(self, scenario: Scenario) -> AsyncIterator[RayFleet]:
        """See `orchestrator.nodes.build.build`."""
        import ray

        with tempfile.TemporaryDirectory(prefix="branchynet-fleet-") as folder:
            clouds, edges = specs_of(scenario, Path(folder))
            count = min(self.hosts, len(edges))
            named: list[tuple[str, Sequence[Spec]]] = [(f"cloud host {cloud.number}", [cloud]) for cloud in clouds]
            named += [(f"edge host {number}", edges[number::count]) for number in range(count)]
            # Nodes wait far more than they compute: no CPU is set aside for a host.
            actors = ray.remote(num_cpus=0, max_restarts=-1)(NodeHost)
            fleet = RayFleet(scenario, edges, [Host(name, tuple(specs), actors.remote()) for name, specs in named])
            self.on_hosts(fleet.hosts)
            try:
                await fleet.start_all()
                yield fleet
            finally:
                await fleet.stop()


class RayFleet(RunningFleet):
    """The running *hosts*: watched, started again on the same ports when lost. Made by `RayActors.running`."""

    def __init__(self, scenario: Scenario, edges: Sequence[EdgeSpec], hosts: list[Host]) -> None:
        super().__init__(scenario, {edge.number: (edge.course, edge.offset_s) for edge in edges if edge.course})
        self.hosts = hosts

    @property
    def targets(self) -> list[str]:
        """See `RunningFleet`."""
        return self._targets("edge", self.scenario.edges)

    @property
    def cloud_targets(self) -> list[str]:
        """See `RunningFleet`."""
        return self._targets("cloud", self.scenario.clouds)

    async def start_all(self) -> None:
        """Start all nodes; raises what a node raises that cannot start, and `Unavailable` if a host is lost."""
        # The clouds' ports go into the links of the edges.
        await run_all(self._start(host) for host in self.hosts if not host.edges)
        clouds = {spec.number: spec for host in self.hosts for spec in host.specs if isinstance(spec, CloudSpec)}
        for host in self.hosts:
            if host.edges:
                host.specs = tuple(replace(edge, cloud_port=clouds[edge.cloud].settings.port) for edge in host.edges)
        await run_all(self._start(host) for host in self.hosts if host.edges)

    async def ask_link(self, number: int, command: str) -> dict[str, Any]:
        """See `RunningFleet`."""
        answer: dict[str, Any] = await _of(self._host(f"edge-{number}").actor.ask_link.remote(number, command))
        if not answer["ok"]:
            raise InvalidInput(f"link-{number} refuses {command!r}: {answer['error']}")
        return answer

    async def kill(self, node: str) -> None:
        """See `RunningFleet`; with its whole host, as nodes that share a process die together."""
        host = self._host(node)
        host.kept_down, host.up = True, False
        host.back.clear()
        _end(host)

    async def start(self, node: str) -> None:
        """See `RunningFleet`: whoever watches does so, and this waits for it."""
        host = self._host(node)
        host.kept_down = False
        async with asyncio.timeout(START_TIMEOUT_S):
            await host.back.wait()

    async def freeze(self, node: str, *, frozen: bool) -> None:
        """See `RunningFleet`; with its whole host. One that hangs for long is taken for lost, and started again."""
        process = _process(self._host(node))
        if process is not None:
            process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    async def watch(self) -> None:
        """Return never: look at every host, and start the nodes of one that was lost or hangs on the ports they had."""
        await run_all(self._watch(host) for host in self.hosts)

    async def stop(self) -> None:
        """Drain every host that can be asked to, then end its process and see it gone."""
        import ray

        await asyncio.gather(*(_stopped(host) for host in self.hosts))
        processes = [process for host in self.hosts if (process := _process(host)) is not None]
        for host in self.hosts:
            ray.kill(host.actor, no_restart=True)  # returns before the process has ended
        await asyncio.to_thread(_see_gone, processes)

    def _host(self, node: str) -> Host:
        """The host of *node*."""
        return next(host for host in self.hosts if any(spec.name == node for spec in host.specs))

    def _targets(self, kind: str, count: int) -> list[str]:
        ports = {spec.name: spec.settings.port for host in self.hosts for spec in host.specs}
        return [f"127.0.0.1:{ports[f'{kind}-{number}']}" for number in range(count)]

    async def _start(self, host: Host) -> None:
        from ray.exceptions import RayActorError

        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                starting = asyncio.ensure_future(_of(host.actor.start.remote(host.specs)))
                try:
                    while not (await asyncio.wait([starting], timeout=POLL_S))[0]:
                        host.note(await _of(host.actor.health.remote()))
                    host.specs = await starting
                finally:
                    starting.cancel()
                host.note(await _of(host.actor.health.remote()))
        except (RayActorError, TimeoutError) as error:
            raise Unavailable(f"{host.name} did not start: {type(error).__name__}") from None

    async def _watch(self, host: Host) -> None:
        from ray.exceptions import RayActorError

        silent_polls = 0
        while True:
            await asyncio.sleep(POLL_S)
            try:
                async with asyncio.timeout(POLL_TIMEOUT_S):
                    health = await _of(host.actor.health.remote())
                silent_polls = 0
                host.note(health)
                if not host.up and not host.kept_down:  # a process that Ray has started anew
                    await self._start_again(host)
            except TimeoutError:
                host.up = False
                silent_polls += 1
                if silent_polls % HUNG_POLLS == 0:
                    _end(host)
            except RayActorError:
                host.up = False
            except OSError:  # a port is not free yet
                continue

    async def _start_again(self, host: Host) -> None:
        await _of(host.actor.start.remote(host.specs))
        host.restarts += 1
        await run_all(self._follow_course(edge.number) for edge in host.edges)
        host.back.set()


def _see_gone(processes: list[psutil.Process]) -> None:
    """Wait until *processes*, which were asked to end, have ended; one that does not hear it is ended."""
    _, deaf = psutil.wait_procs(processes, END_TIMEOUT_S)
    for process in deaf:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(deaf, END_TIMEOUT_S)


def _end(host: Host) -> None:
    """End the process of *host*, if it is still there; Ray would ask it to end, which a hung one does not hear."""
    process = _process(host)
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _process(host: Host) -> psutil.Process | None:
    """That of *host* when it last answered, if it still runs."""
    if host.health is None:
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(host.health.pid)
        # A host that Ray is starting anew is silent as well, and somebody else may have the number of the old one.
        if process.create_time() == host.health.created_s:
            return process
    return None


async def _stopped(host: Host) -> None:
    from ray.exceptions import RayActorError

    with contextlib.suppress(RayActorError, TimeoutError):
        async with asyncio.timeout(STOP_TIMEOUT_S):
            host.note(await _of(host.actor.stop.remote()))


async def _of(reference: Awaitable[Any]) -> Any:
    """What an actor's method returns; what it raised is raised as it was, without Ray's account of it."""
    from ray.exceptions import RayTaskError

    try:
        return await reference
    except RayTaskError as error:
        raise error.cause from None
