"""Real nodes on hosts that are Ray actors: started, watched, started again on the same ports when lost, drained."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field, replace
from typing import Any

import psutil

from branchynet.errors import Unavailable
from orchestrator.hosts import Health, NodeHost
from orchestrator.sites import HostSite
from orchestrator.tasks import run_all

__all__ = ["Fleet", "Host"]

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

    *restarts*: how often it was lost and its nodes were started again. *answered_before*: requests that lost processes
    had answered when they were last looked at, by node.
    """

    name: str
    site: HostSite
    actor: Any
    health: Health | None = None
    up: bool = False
    restarts: int = 0
    peak_rss_bytes: int = 0
    answered_before: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> dict[str, int]:
        """Requests answered, by node."""
        now = self.health.answered if self.health is not None else {}
        return {name: self.answered_before[name] + now.get(name, 0) for name in self.site.names}

    def note(self, health: Health) -> None:
        """Take in how the host is now."""
        if self.health is not None and self.health.pid != health.pid:
            self.answered_before.update(self.health.answered)
        self.health, self.up = health, bool(health.answered)
        self.peak_rss_bytes = max(self.peak_rss_bytes, health.rss_bytes)


class Fleet:
    """The running hosts. Made by `Fleet.running`, which also stops them; Ray must be up (`ray_session`)."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, clouds: list[HostSite], edges: list[HostSite]) -> AsyncIterator[Fleet]:
        """Start all nodes, each site of *edges* asking cloud *i* mod the number of *clouds*; drain them at the end.

        Raises what a node raises that cannot start, and `Unavailable` if a host is lost before it serves.
        """
        import ray

        # Nodes wait far more than they compute: no CPU is set aside for a host.
        actors = ray.remote(num_cpus=0, max_restarts=-1)(NodeHost)
        named = [(f"cloud host {number}", site) for number, site in enumerate(clouds)]
        named += [(f"edge host {number}", site) for number, site in enumerate(edges)]
        self = cls([Host(name, site, actors.remote()) for name, site in named])
        try:
            # The clouds' ports go into the links of the edges.
            await run_all(self._start(host) for host in self.hosts[: len(clouds)])
            ports = [host.site.clouds[0].settings.port for host in self.hosts[: len(clouds)]]
            for host in self.hosts[len(clouds) :]:
                sites = (replace(edge, cloud_port=ports[edge.number % len(ports)]) for edge in host.site.edges)
                host.site = replace(host.site, edges=tuple(sites))
            await run_all(self._start(host) for host in self.hosts[len(clouds) :])
            yield self
        finally:
            await self._stop()

    @property
    def targets(self) -> dict[int, str]:
        """Where each edge listens, by its number."""
        return {edge.number: f"127.0.0.1:{edge.settings.port}" for host in self.hosts for edge in host.site.edges}

    async def begin(self, zero_s: float) -> None:
        """Let uplinks that vary do so from *zero_s* (`time.monotonic`) on, also after a restart."""
        for host in self.hosts:
            host.site = replace(host.site, zero_s=zero_s)
        await run_all(_of(host.actor.begin.remote(host.site.uplink, zero_s)) for host in self.hosts)

    async def watch(self) -> None:
        """Return never: look at every host, and start the nodes of one that was lost or hangs on the ports they had."""
        await run_all(self._watch(host) for host in self.hosts)

    async def _start(self, host: Host) -> None:
        from ray.exceptions import RayActorError

        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                host.site = await _of(host.actor.start.remote(host.site))
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
                if not host.up:  # a process that Ray has started anew
                    await _of(host.actor.start.remote(host.site))
                    host.restarts += 1
            except TimeoutError:
                host.up = False
                silent_polls += 1
                if silent_polls % HUNG_POLLS == 0:
                    _end(host)
            except RayActorError:
                host.up = False
            except OSError:  # a port is not free yet
                continue

    async def _stop(self) -> None:
        """Drain every host that can be asked to, then end its process and see it gone."""
        import ray

        await asyncio.gather(*(_stopped(host) for host in self.hosts))
        processes = [process for host in self.hosts if (process := _process(host)) is not None]
        for host in self.hosts:
            ray.kill(host.actor, no_restart=True)  # returns before the process has ended
        await asyncio.to_thread(_see_gone, processes)


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
