"""A TCP proxy that makes the way to a target as thin, far and shaky as asked.

    client ──up──> LinkProxy ──up──> target
           <─down─           <─down─

    async with LinkProxy("127.0.0.1", 8011, LinkSettings.symmetric_delay(10, None, rtt_ms=40)) as link:
        ...  # connect to 127.0.0.1, link.port

or `python -m simulations.link.proxy --help` as a process of its own. All connections share the rate of a
direction. Rates count payload bytes; connecting itself costs no round trip, since the kernel here answers
for the target. asyncio's own event loop delivers up to about 1 ms late each way; on `precise_event_loop`, which
the command uses, it is about 0.2 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import select
import selectors
import signal
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType

from branchynet.errors import InvalidInput
from branchynet.serving.address import Address
from branchynet.serving.listening import free_addresses, listen_on
from branchynet.system import rounds_waits
from branchynet.terminal import NOBODY_READS, steady_output
from simulations.link.control import obey_stdin, serve_control
from simulations.link.pipes import Lane, LinkClock, close, relay, tune
from simulations.link.shaping import Direction, LinkSettings
from simulations.link.wire import say

__all__ = ["Direction", "LinkProxy", "LinkSettings", "LinkStats", "main", "precise_event_loop"]

_LOGGER = logging.getLogger("simulations.link.proxy")
_BACKLOG = 512


@dataclass(frozen=True)
class LinkStats:
    """What went through a proxy since its start or the last reset.

    Bytes count when they are handed to the receiver's socket. *connections* were accepted from clients
    while the link was not cut; *open_connections* still exist, whenever they began.
    """

    bytes_up: int
    bytes_down: int
    connections: int
    open_connections: int


class _State(Enum):
    OPEN = auto()
    STALLED = auto()
    CUT = auto()


class LinkProxy:
    """Listens on *host*:*port* (0 picks a free one) and carries each connection to the target by *settings*.

    The target's name is resolved for each connection. *buffer_bytes* bounds what a connection may have
    waiting in each direction: in the kernel before the link, and here after it.
    Use as an async context manager; entering raises OSError if an address of *host* cannot be had, leaving
    resets what is still open. Raises InvalidInput for a *buffer_bytes* below 1.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        settings: LinkSettings,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        buffer_bytes: int = 256 * 1024,
    ) -> None:
        if buffer_bytes < 1:
            raise InvalidInput(f"buffer_bytes is {buffer_bytes}; it must be at least 1")
        self.settings = settings
        self._target = (target_host, target_port)
        self._address = (host, port)
        self._buffer_bytes = buffer_bytes
        self._clock = LinkClock()
        up_rng, down_rng = settings.generators()
        self._up = Lane(settings.up, up_rng, self._clock, buffer_bytes)
        self._down = Lane(settings.down, down_rng, self._clock, buffer_bytes)
        self._state = _State.OPEN
        self._accepted = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> LinkProxy:
        with contextlib.ExitStack() as opened:
            for address in await free_addresses(*self._address):
                listener = opened.enter_context(listen_on(address, _BACKLOG))
                # An accepted socket takes the buffer sizes over, and the window they allow is agreed at connect.
                tune(listener, self._buffer_bytes)
                self._listeners.append(listener)
            opened.pop_all()
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in self._listeners]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._accepting, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    @property
    def port(self) -> int:
        """The port listened on; known once the proxy is entered."""
        port: int = self._listeners[0].getsockname()[1]
        return port

    def now_s(self) -> float:
        """The link's time in seconds, on the clock that a `Course` goes by."""
        return self._clock.now_s()

    def stats(self) -> LinkStats:
        """The counts up to now."""
        return LinkStats(
            bytes_up=self._up.forwarded_bytes,
            bytes_down=self._down.forwarded_bytes,
            connections=self._accepted,
            open_connections=len(self._connections),
        )

    def reset_stats(self) -> None:
        """Count bytes and connections from 0 again."""
        self._up.forwarded_bytes = self._down.forwarded_bytes = self._accepted = 0

    def cut(self) -> None:
        """Reset every connection, with what is under way, and each new one until `restore`."""
        self._state = _State.CUT
        self._clock.start()
        for task in self._connections:
            task.cancel()

    def stall(self) -> None:
        """Turn into a black hole until `restore`: connections stay, new ones are taken, nothing moves."""
        self._state = _State.STALLED
        self._clock.stop()

    def restore(self) -> None:
        """End `cut` or `stall`. After a stall everything goes on where it stood, and nothing is lost."""
        self._state = _State.OPEN
        self._clock.start()

    def reshape(self, settings: LinkSettings) -> None:
        """Go on with other settings, jitter starting from their seed; what is under way keeps its times."""
        self.settings = settings
        up_rng, down_rng = settings.generators()
        self._up.reshape(settings.up, up_rng)
        self._down.reshape(settings.down, down_rng)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Most likely no file descriptor is left; some come back when connections end.
                _LOGGER.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(0.1)
                continue
            if self._state is _State.CUT:
                close(client, reset=True)
                continue
            self._accepted += 1
            task = asyncio.create_task(self._serve(client))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        orderly = False
        try:
            tune(client, self._buffer_bytes)
            await self._clock.moving()
            server = await self._connect_onward()
            orderly = await relay(client, server, self._up, self._down)
        except OSError as error:
            _LOGGER.warning("target %s:%d is not reachable: %s", *self._target, error)
        finally:
            for sock in (client, server):
                if sock is not None:
                    close(sock, reset=not orderly)

    async def _connect_onward(self) -> socket.socket:
        """A connection to the first of the target's addresses that answers; raises OSError if none does."""
        loop = asyncio.get_running_loop()
        failure = OSError("its name has no address")
        for family, kind, protocol, _, address in await loop.getaddrinfo(*self._target, type=socket.SOCK_STREAM):
            server = socket.socket(family, kind, protocol)
            try:
                tune(server, self._buffer_bytes)
                await loop.sock_connect(server, address)
            except OSError as error:
                server.close()
                failure = error
            except BaseException:
                server.close()
                raise
            else:
                return server
        raise failure


class _PreciseSelector(selectors.DefaultSelector):
    """The system's selector with waits exact to microseconds; epoll's own are in whole milliseconds."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0 and rounds_waits(selectors.DefaultSelector):
            # epoll's descriptor is itself readable when one of those that it watches is ready.
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def precise_event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop whose timers are not rounded to whole milliseconds, for links that must be exact."""
    return asyncio.SelectorEventLoop(_PreciseSelector())


def _address(lowest_port: int) -> Callable[[str], Address]:
    def read(text: str) -> Address:
        try:
            return Address.parse(text, lowest_port=lowest_port)
        except InvalidInput as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulations.link.proxy",
        description="Carry TCP connections to a target over an emulated link. Prints one JSON line when "
        'ready: {"event": "ready", "port": N}. Ends with code 0 on SIGTERM and SIGINT.',
    )
    parser.add_argument(
        "--listen", type=_address(0), required=True, metavar="HOST:PORT", help="where to listen; port 0: any free"
    )
    parser.add_argument(
        "--target", type=_address(1), required=True, metavar="HOST:PORT", help="resolved for each connection"
    )
    rate = "Mbit/s (1e6 bit/s) of payload, shared by all connections; 0 (default) is unlimited"
    parser.add_argument("--uplink-mbps", type=float, default=0.0, metavar="RATE", help=f"to the target: {rate}")
    parser.add_argument("--downlink-mbps", type=float, default=0.0, metavar="RATE", help=f"back: {rate}")
    parser.add_argument("--rtt-ms", type=float, default=0.0, metavar="MS", help="round trip, half each way (default 0)")
    parser.add_argument(
        "--jitter-ms",
        type=float,
        default=0.0,
        metavar="MS",
        help="the round trip is up to this much shorter or longer, evenly spread (default 0)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the jitter (default 0)")
    parser.add_argument(
        "--control",
        action="store_true",
        help="read commands from stdin, one a line: stats, settings, uplink RATE or FILE [SECOND], "
        "cut, stall, restore, reset (the counters to 0); each is answered by one JSON line; end when stdin, a pipe or "
        "terminal, ends",
    )
    parser.add_argument(
        "--control-listen",
        type=_address(0),
        metavar="HOST:PORT",
        help='take the same commands over TCP; the ready line then has a "control_port"',
    )
    return parser


async def _run(link: LinkProxy, *, control: bool, control_at: Address | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(link)
        ready: dict[str, object] = {"event": "ready", "port": link.port}
        if control_at is not None:
            ready["control_port"] = await stack.enter_async_context(
                serve_control(link, control_at.host, control_at.port)
            )
        say(ready)
        endings: list[asyncio.Task[object]] = [asyncio.create_task(stop.wait())]
        if control:
            endings.append(asyncio.create_task(obey_stdin(link)))
        done, pending = await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
        for ending in pending:
            ending.cancel()
        await asyncio.gather(*done)  # a failed control is not an orderly end


def _can_watch_stdin() -> bool:
    """Whether an event loop can wait for stdin: not for a file, /dev/null, or nothing at all."""
    if sys.stdin is None:
        return False
    mode = os.fstat(sys.stdin.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or sys.stdin.isatty()


@steady_output()
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; raises SystemExit with 2 for wrong arguments and 1 if the port cannot be had."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.control and not _can_watch_stdin():
        parser.error("--control needs a pipe or a terminal as stdin")
    try:
        settings = LinkSettings.symmetric_delay(
            asked.uplink_mbps or None, asked.downlink_mbps or None, asked.rtt_ms, asked.jitter_ms, asked.seed
        )
    except InvalidInput as error:
        parser.error(str(error))
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    link = LinkProxy(asked.target.host, asked.target.port, settings, asked.listen.host, asked.listen.port)
    try:
        with asyncio.Runner(loop_factory=precise_event_loop) as runner:
            runner.run(_run(link, control=asked.control, control_at=asked.control_listen))
    except BrokenPipeError:  # of standard output; those of connections are not for us
        raise SystemExit(NOBODY_READS) from None
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
