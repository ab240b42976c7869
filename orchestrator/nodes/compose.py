"""`python -m orchestrator.nodes.compose`: docker-compose.yml built, started, measured, hurt, and taken down again.

The client container prints the demonstration's table, then runs a soak test on both edges while an edge and the
cloud are stopped and started, and must find that no request was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from branchynet.errors import BranchyNetError, InvalidInput, Unavailable
from branchynet.terminal import complain, shown_lines, steady_output

__all__ = ["Compose", "find_compose", "main"]

FILE = Path(__file__).parents[2] / "docker-compose.yml"
NODES = ("cloud", "link-a", "link-b", "edge-a", "edge-b")
HEALTHY_TIMEOUT_S = 120.0
# What the containers go through in the soak test, as a scenario would say it: part, kind, at_s, for_s. A node that is
# killed there is stopped here. This program runs where only Python is, so it imports no scenario unasked.
FAULTS = (("edge-0", "kill", 5.0, 6.0), ("cloud-0", "kill", 25.0, 6.0))
SERVICES = {"edge-0": "edge-a", "edge-1": "edge-b", "cloud-0": "cloud", "link-0": "link-a", "link-1": "link-b"}
CALM_S = 5.0
ORDERS = {"kill": ("stop", "start"), "freeze": ("pause", "unpause"), "cut": ("stop", "start")}
LONGEST_LOAD_S = 600
TAIL_LINES = 30
TAKEN_PORT_SIGNS = ("port is already allocated", "address already in use")

Say = Callable[[str], None]
Happening = tuple[str, str, float, float]


class Compose:
    """The project *name* of docker-compose.yml, run by *command* (`docker compose` or `docker-compose`).

    *variables* are set for it, above those of this process.
    """

    def __init__(self, command: Sequence[str], name: str, variables: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._variables = {**os.environ, **(variables or {})}
        self._command = (*command, "--project-name", name, "--file", str(FILE))

    async def __call__(self, *arguments: str) -> str:
        """What `compose ARGUMENTS` prints; raises `Unavailable` with the end of its messages if it fails."""
        return await _output(*self._command, *arguments, variables=self._variables)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Compose]:
        """Start the nodes; remove all that the project started when the block ends, however it ends."""
        try:
            try:
                await self("up", "--detach", "--no-build", *NODES)
            except Unavailable as failure:
                if any(sign in str(failure) for sign in TAKEN_PORT_SIGNS):
                    raise Unavailable(f"{failure}\nEDGE_A_PORT and EDGE_B_PORT choose other ports") from None
                raise
            yield self
        finally:
            await self("--profile", "demo", "down", "--volumes", "--remove-orphans", "--timeout", "10")

    async def wait_healthy(self, *services: str) -> float:
        """Wait until *services* are healthy; the seconds it took.

        Raises `Unavailable`, with the ends of their logs, if they are not within two minutes.
        """
        started_s = time.monotonic()
        identifiers = (await self("ps", "-q", *services)).split()
        if len(identifiers) < len(services):
            raise Unavailable(f"{len(identifiers)} containers of {', '.join(services)} exist; {await self.logs()}")
        while True:
            template = "{{.Name}} {{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}"
            states = (await _output("docker", "inspect", "--format", template, *identifiers)).splitlines()
            if all(state.endswith(" running healthy") for state in states):
                return time.monotonic() - started_s
            if time.monotonic() - started_s > HEALTHY_TIMEOUT_S:
                raise Unavailable(
                    f"not healthy within {HEALTHY_TIMEOUT_S:g} s: {'; '.join(states)}\n{await self.logs()}"
                )
            await asyncio.sleep(0.3)

    async def logs(self) -> str:
        """The ends of all containers' logs."""
        return await self("logs", "--no-color", "--tail", "10")

    @contextlib.asynccontextmanager
    async def client(self, role: str, *command: str) -> AsyncIterator[str]:
        """A client container that runs *command*, what it prints passed on; yields its name, and removes it."""
        name = f"{self.name}-{role}"
        await self("run", "--detach", "--no-deps", "--name", name, "client", *command)
        try:
            async with _passing_on("docker", "logs", "--follow", name):
                yield name
        finally:
            await _output("docker", "rm", "--force", "--volumes", name)


async def find_compose(asked: str = "") -> tuple[tuple[str, ...], str]:
    """The compose command on this machine, or the one *asked* for, and its version.

    Raises `Unavailable` if there is none, or no Docker engine answers.
    """
    await _output("docker", "version", "--format", "{{.Server.Version}}")
    failures = []
    for command in [tuple(shlex.split(asked))] if asked else [("docker", "compose"), ("docker-compose",)]:
        try:
            return command, (await _output(*command, "version", "--short")).strip()
        except Unavailable as failure:
            failures.append(str(failure))
    raise Unavailable("no compose is installed: " + "; ".join(failures))


async def run(asked: argparse.Namespace, say: Say) -> None:
    """The whole demonstration; raises `Unavailable` if a part of it fails."""
    command, version = await find_compose(asked.compose)
    variables, faults = ({}, FAULTS) if asked.scenario is None else read_for_containers(asked.scenario)
    compose = Compose(command, asked.project, variables)
    say(f"{' '.join(command)} {version}, project {asked.project}")
    say("1/5 building the image (minutes at the first time) …")
    started_s = time.monotonic()
    await compose("build", "cloud")
    say(f"    built in {time.monotonic() - started_s:.0f} s")
    say(f"2/5 starting {', '.join(NODES)} …")
    async with compose.running():
        say(f"    all healthy after {await compose.wait_healthy(*NODES):.0f} s")
        say("3/5 the demonstration's table, measured by a client container")
        async with compose.client("table", "branchynet", "demo", "--images", str(asked.images)) as name:
            await _finish(name, asked.out)
        say(f"4/5 a soak test at {asked.rate:g} images/s, while containers are stopped and started")
        load = ("--soak", str(LONGEST_LOAD_S), "--rate", f"{asked.rate:g}", "--images", "200")
        async with compose.client("soak", "branchynet", "demo", *load) as name:
            await _happen(compose, faults, say)
            await _output("docker", "kill", "--signal", "INT", name)
            await _finish(name, asked.out)
        say("5/5 taking everything down …")
    say(f"done: no request was lost; figures and plot in {asked.out}")


def read_for_containers(path: Path) -> tuple[dict[str, str], Sequence[Happening]]:
    """The variables of docker-compose.yml that make its links those of the scenario in *path*, and its faults.

    Raises `InvalidInput` for a scenario that says anything else.
    """
    from simulations.model.scenario import Scenario, read_scenario

    scenario = read_scenario(path)
    link = scenario.link
    if scenario != Scenario(name=scenario.name, edges=2, link=link, faults=scenario.faults):
        raise InvalidInput(f"{path}: of a scenario, containers have `edges = 2`, the link and the faults only")
    if not isinstance(link.uplink_mbps, float):
        raise InvalidInput(f"{path}: the uplink of a container has a constant rate, not {link.uplink_mbps}")
    variables = {"UPLINK_MBPS": link.uplink_mbps, "DOWNLINK_MBPS": link.downlink_mbps, "RTT_MS": link.rtt_ms}
    faults = [(fault.part, str(fault.kind), fault.at_s, fault.for_s) for fault in scenario.faults]
    return {name: f"{value:g}" for name, value in variables.items()}, faults


async def _happen(compose: Compose, faults: Sequence[Happening], say: Say) -> None:
    """Have *faults* happen one after the other, and wait a calm moment after the last."""
    started_s = time.monotonic()
    for part, kind, at_s, for_s in sorted(faults, key=lambda fault: fault[2]):
        service, (begin, end) = SERVICES[part], ORDERS[kind]
        await asyncio.sleep(started_s + at_s - time.monotonic())
        say(f"  ──►   {begin} {service} …")
        await compose(begin, service)
        await asyncio.sleep(for_s)
        await compose(end, service)
        await compose.wait_healthy(service)
        say(f"  ──►   {service} is back, and healthy")
    await asyncio.sleep(CALM_S)


async def _finish(name: str, out: Path) -> None:
    """Wait for the client container to end, and take its figures to *out*; raises `Unavailable` if it failed."""
    code = (await _output("docker", "wait", name)).strip()
    out.mkdir(parents=True, exist_ok=True)
    await _output("docker", "cp", f"{name}:/out/.", str(out))
    if code != "0":
        raise Unavailable(f"the client {name} ended with code {code}; its output above has the reason")


async def _output(*command: str, variables: Mapping[str, str] | None = None) -> str:
    """Standard output of *command*; raises `Unavailable` with the end of what it wrote if it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=variables,
            # A Ctrl-C on the terminal is for us: we take down in order what these started.
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"`{shlex.join(command)}` cannot be run: {error.strerror}") from None
    try:
        out, err = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.returncode != 0:
        tail = "\n".join((out + err).decode(errors="replace").strip().splitlines()[-TAIL_LINES:])
        raise Unavailable(f"`{shlex.join(command)}` failed with code {process.returncode}:\n{tail}")
    return out.decode(errors="replace")


@contextlib.asynccontextmanager
async def _passing_on(*command: str) -> AsyncIterator[None]:
    """What *command* prints goes to our standard output; a block that ends in good order waits for its end."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )
    try:
        yield
        await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.nodes.compose",
        description="Build and start docker-compose.yml, print the demonstration's table, stop and start nodes under "
        "load, and take everything down. Ports: EDGE_A_PORT, EDGE_B_PORT; links: UPLINK_MBPS, RTT_MS.",
    )
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="of the table (default 1000)")
    parser.add_argument("--rate", type=float, default=40.0, metavar="R", help="images a second (default 40)")
    parser.add_argument("--out", type=Path, default=Path("out/compose"), help="for figures (default out/compose)")
    parser.add_argument(
        "--scenario", type=Path, metavar="FILE", help="its links and faults (default: edge-a and the cloud are stopped)"
    )
    parser.add_argument("--compose", default="", metavar="COMMAND", help="docker compose or docker-compose")
    project = os.environ.get("COMPOSE_PROJECT_NAME", "branchynet-demo")
    parser.add_argument("--project", default=project, metavar="NAME", help=f"default {project}")
    return parser


async def _until_told(work: Coroutine[Any, Any, None]) -> None:
    """Run *work*; Ctrl-C and SIGTERM cancel it once, so that a second Ctrl-C does not stop it from taking down."""
    task = asyncio.ensure_future(work)

    def stop() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await task


@steady_output()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 if nothing was lost, 1 if something failed, 130 if it was interrupted."""
    asked = _parser().parse_args(arguments)

    def say(text: str) -> None:
        print(shown_lines(text), flush=True)

    try:
        asyncio.run(_until_told(run(asked, say)))
    except BranchyNetError as error:
        complain("compose-demo", error)
        return 1
    except asyncio.CancelledError:
        complain("compose-demo", "interrupted; everything that it started is taken down")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
