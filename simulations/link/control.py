"""Orders to a running link: one line each, answered by one JSON line, over standard input or TCP.

`python -m simulations.link.control HOST:PORT COMMAND` gives one order from a shell.

Whoever reaches the TCP port may cut the link: listen where only friends are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from branchynet.errors import InvalidInput, Unavailable
from branchynet.serving.address import Address
from branchynet.serving.listening import free_addresses
from branchynet.terminal import NOBODY_READS, complain, steady_output
from simulations.link.wire import json_line, say

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from simulations.link.shaping import LinkSettings

__all__ = ["ask_link", "main", "obey", "obey_stdin", "serve_control"]

COMMANDS = ("stats", "settings", "uplink", "cut", "stall", "restore", "reset")
UPLINK = (
    "uplink takes a rate in Mbit/s, or the path of a recorded link and, if wanted, where in it to start, in seconds, "
    "and column=…, unit=…, time_unit=… (without spaces)"
)
LONGEST_LINE_BYTES = 1024
_HOW_TO_READ = re.compile(r"\s+(column|unit|time_unit)=(\S+)\s*$")


class ControlledLink(Protocol):
    """What is asked of a link that obeys: `simulations.link.proxy.LinkProxy` is one."""

    settings: LinkSettings

    def stats(self) -> DataclassInstance:
        """What went through it, as a dataclass of numbers."""

    def reset_stats(self) -> None:
        """Count from zero again."""

    def cut(self) -> None:
        """Close every connection and refuse new ones."""

    def stall(self) -> None:
        """Carry nothing, and let connections wait."""

    def restore(self) -> None:
        """Carry again."""

    def reshape(self, settings: LinkSettings) -> None:
        """Carry by other *settings* from now on."""

    def now_s(self) -> float:
        """Seconds since the link began."""


def obey(link: ControlledLink, command: str) -> dict[str, object]:
    """Do what one control line says; the answer.

    `uplink 2.5` is that rate from now on, and `uplink FILE 30` the recorded one in FILE, from its 30th second on; at
    the end may stand how to read it: `uplink FILE 30 column=UL_bitrate unit=kbit/s time_unit=s`.
    """
    if command.split()[:1] == ["uplink"]:
        return _reshape_uplink(link, command)
    actions = {"cut": link.cut, "stall": link.stall, "restore": link.restore, "reset": link.reset_stats}
    if command == "stats":
        return {"command": command, "ok": True, **asdict(link.stats())}
    if command == "settings":
        return {"command": command, "ok": True, **_settings(link)}
    if command in actions:
        actions[command]()
        return {"command": command, "ok": True}
    return {"command": command, "ok": False, "error": f"must be one of: {', '.join(COMMANDS)}"}


async def obey_stdin(link: ControlledLink) -> None:
    """Obey standard input, a pipe or terminal, until it ends, or until nobody reads the answers."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    with contextlib.closing(transport), contextlib.suppress(BrokenPipeError):
        while line := await reader.readline():
            say(obey(link, _command(line)))


@contextlib.asynccontextmanager
async def serve_control(link: ControlledLink, host: str, port: int) -> AsyncIterator[int]:
    """Obey whoever connects to *host*:*port* (0 picks a free one) while the block runs; yields the port.

    Raises OSError if the address cannot be had.
    """
    callers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def obey_caller(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        callers[task] = writer
        task.add_done_callback(callers.pop)
        # A line that never ends is no order, and is not kept in memory to find out.
        with contextlib.closing(writer), contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                writer.write(json_line(obey(link, _command(line))))
                await writer.drain()

    addresses = await free_addresses(host, port)
    hosts, port = [address.host for address in addresses], addresses[0].port
    server = await asyncio.start_server(obey_caller, hosts, port, limit=LONGEST_LINE_BYTES)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in callers.values():
            writer.transport.abort()  # a cancelled handler of a stream would be logged as an error of ours
        await asyncio.gather(*callers, return_exceptions=True)


async def ask_link(address: str, command: str, *, timeout_s: float = 5.0) -> dict[str, Any]:
    """The answer of the link whose control listens at *address* (HOST:PORT).

    Raises `Unavailable` if none comes within *timeout_s*, and `InvalidInput` for what the link refuses.
    """
    at = Address.parse(address)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(at.host, at.port)
            with contextlib.closing(writer):
                writer.write(f"{command}\n".encode())
                answer = json.loads(await reader.readline())
    except (OSError, ValueError, RecursionError) as error:  # a timeout is an OSError, and half a line is no JSON
        raise Unavailable(f"no link answers at {address}: {error or f'not within {timeout_s:g} s'}") from None
    if not isinstance(answer, dict) or not answer.get("ok"):
        raise InvalidInput(f"the link at {address} refuses {command!r}: {answer}")
    return answer


def _reshape_uplink(link: ControlledLink, command: str) -> dict[str, object]:
    try:
        change = _uplink(command.split(maxsplit=1)[1], link.now_s())
        link.reshape(replace(link.settings, up=replace(link.settings.up, **change)))
    except (IndexError, ValueError, OSError) as error:  # our errors of wrong values are ValueErrors
        reason = UPLINK if isinstance(error, IndexError) else f"{error}; {UPLINK}"
        return {"command": command, "ok": False, "error": reason}
    return {"command": command, "ok": True}


def _uplink(asked: str, now_s: float) -> dict[str, Any]:
    """The fields of a `Direction` that has the rate *asked* for."""
    from simulations.link.shaping import Course  # who only gives orders needs no numpy
    from simulations.link.traces import Reading, read_trace

    try:
        return {"rate_mbps": float(asked), "course": None}
    except ValueError:
        path, start = asked, 0.0
    said: dict[str, str] = {}
    while found := _HOW_TO_READ.search(path):
        path, said[found[1]] = path[: found.start()], found[2]
    if not Path(path).exists() and len(words := path.rsplit(maxsplit=1)) == 2:
        path, start = words[0], float(words[1])
    capacity = read_trace(Path(path), Reading(**said))
    return {"rate_mbps": None, "course": Course(capacity, now_s - start % capacity.period_s)}


def _settings(link: ControlledLink) -> dict[str, object]:
    up, down = link.settings.up, link.settings.down
    return {
        "uplink_mbps": up.rate_mbps,
        "downlink_mbps": down.rate_mbps,
        "rtt_ms": up.delay_ms + down.delay_ms,
        "jitter_ms": up.jitter_ms + down.jitter_ms,
    }


def _command(line: bytes) -> str:
    return line.decode(errors="replace").strip()


@steady_output()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the link's answer; 0 if it obeyed, 1 if it does not answer, 2 if it refuses."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.link.control", description="Give one order to a running link; print its answer."
    )
    parser.add_argument("address", metavar="HOST:PORT", help="the link's --control-listen")
    parser.add_argument("command", metavar="COMMAND", help=", ".join(COMMANDS))
    asked = parser.parse_args(arguments)
    try:
        say(asyncio.run(ask_link(asked.address, asked.command)))
    except (Unavailable, InvalidInput) as error:
        complain(parser.prog, error)
        return 1 if isinstance(error, Unavailable) else 2
    except BrokenPipeError:
        return NOBODY_READS
    return 0


if __name__ == "__main__":
    sys.exit(main())
