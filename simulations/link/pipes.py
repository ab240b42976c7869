"""The moving parts of the link proxy: a clock, a lane for each direction, a pipe for each connection's way.

    source socket ──read──> turn on the Lane ──held until due──> write ──> sink socket

A pipe takes at most one chunk from its socket before its turn; what waits behind it stays in the
kernel's buffer of limited size, so a sender feels the link as it would feel a full queue ahead of one.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct

import numpy as np

from simulations.link.shaping import Direction, Propagation

__all__ = ["Lane", "LinkClock", "close", "relay", "tune"]

# Bytes that waited in the socket while we woke up late are booked as if we had been on time, up to this
# far back. It bounds how long a proxy short of CPU may pretend that it still keeps the rate.
_CATCH_UP_S = 0.1

# Linux wakes a sleeper about this much late; the loop turns over for the rest instead of sleeping. That took
# 0.1 to 0.2 ms off each way where it was measured, and no measurable share of a core.
_WAKES_LATE_S = 1e-4

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s


class LinkClock:
    """Time as the link sees it: the event loop's clock, which stands still while the link is stalled."""

    def __init__(self) -> None:
        self._lost_s = 0.0
        self._stopped_s: float | None = None
        self._moving = asyncio.Event()
        self._moving.set()

    def now_s(self) -> float:
        """The link's time in seconds."""
        loop_s = asyncio.get_running_loop().time() if self._stopped_s is None else self._stopped_s
        return loop_s - self._lost_s

    def stop(self) -> None:
        """Freeze the link's time, and with it all that waits for it."""
        if self._stopped_s is None:
            self._stopped_s = asyncio.get_running_loop().time()
            self._moving.clear()

    def start(self) -> None:
        """Go on from the moment of `stop`."""
        if self._stopped_s is not None:
            self._lost_s += asyncio.get_running_loop().time() - self._stopped_s
            self._stopped_s = None
            self._moving.set()

    async def moving(self) -> None:
        """Wait until the link is not stalled."""
        await self._moving.wait()

    async def wait_until(self, due_s: float) -> None:
        """Wait until the link's time is *due_s*; never returns early, nor while the link is stalled."""
        await self._moving.wait()
        while (left_s := due_s - self.now_s()) > 0:
            await asyncio.sleep(max(left_s - _WAKES_LATE_S, 0.0))
            await self._moving.wait()


class Lane:
    """One direction of the link, which all its connections share.

    *buffer_bytes* is what one connection may hold here beyond what fits on the wire, when its receiver
    does not take it.
    """

    def __init__(self, direction: Direction, rng: np.random.Generator, clock: LinkClock, buffer_bytes: int) -> None:
        self.clock = clock
        self.turn = asyncio.Lock()  # asyncio's lock is first come, first served
        self.forwarded_bytes = 0
        self._buffer_bytes = buffer_bytes
        self._serialiser = direction.serialiser(-math.inf)
        self.reshape(direction, rng)

    def reshape(self, direction: Direction, rng: np.random.Generator) -> None:
        """Change rate, delay and jitter for what is booked from now on; what is under way stays so."""
        self.chunk_bytes = direction.chunk_bytes
        self.held_limit_bytes = direction.wire_bytes + self._buffer_bytes
        self.catch_up_s = 0.0 if direction.mean_mbps is None else _CATCH_UP_S
        self._serialiser = direction.serialiser(self._serialiser.free_at_s)
        self._propagation = Propagation(direction, rng)

    def book(self, size_bytes: int, ready_s: float, not_before_s: float) -> tuple[float, float]:
        """Departure and arrival of a chunk that was ready at *ready_s*; only for who holds the turn."""
        departure_s = self._serialiser.departure_s(size_bytes, ready_s)
        return departure_s, self._propagation.arrival_s(departure_s, not_before_s)


class _Pipe:
    """One connection's way through a lane, from *source* to *sink*."""

    def __init__(self, source: socket.socket, sink: socket.socket, lane: Lane) -> None:
        self._source = source
        self._sink = sink
        self._lane = lane
        # Due time and bytes; no bytes is the end of the stream, None a broken connection. Both cross
        # the link like data, after the data before them.
        self._held: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()
        self._held_bytes = 0
        self._delivered = asyncio.Event()

    async def pump(self) -> None:
        """Take chunks from the source, each in its turn, until the source ends."""
        lane, clock = self._lane, self._lane.clock
        waiting_since_s, due_s = clock.now_s(), -math.inf
        while True:
            if self._held_bytes >= lane.held_limit_bytes:
                await self._room()
                # The link was idle meanwhile: the receiver held us up, so there is nothing to catch up.
                waiting_since_s = clock.now_s()
            chunk, ready_s = await self._read(waiting_since_s)
            async with lane.turn:
                departure_s, due_s = lane.book(len(chunk or b""), ready_s, due_s)
                self._held_bytes += len(chunk or b"")
                self._held.put_nowait((due_s, chunk))
                if not chunk:
                    return
                await clock.wait_until(departure_s)
            waiting_since_s = max(departure_s, clock.now_s() - lane.catch_up_s)
            # Nothing above is sure to yield, and the other connections must get their turn.
            await asyncio.sleep(0)

    async def _read(self, waiting_since_s: float) -> tuple[bytes | None, float]:
        """The next chunk and since when it was there: *waiting_since_s* if we need not wait for it."""
        try:
            return self._source.recv(self._lane.chunk_bytes), waiting_since_s
        except BlockingIOError:
            pass
        except OSError:
            return None, waiting_since_s
        chunk: bytes | None
        try:
            chunk = await asyncio.get_running_loop().sock_recv(self._source, self._lane.chunk_bytes)
        except OSError:
            chunk = None
        return chunk, self._lane.clock.now_s()

    async def _room(self) -> None:
        while self._held_bytes >= self._lane.held_limit_bytes:
            self._delivered.clear()
            await self._delivered.wait()

    async def deliver(self) -> None:
        """Write each chunk to the sink when it is due; raises OSError when either end is broken."""
        loop = asyncio.get_running_loop()
        while True:
            due_s, chunk = await self._held.get()
            await self._lane.clock.wait_until(due_s)
            if chunk is None:
                raise ConnectionResetError("the sending side is broken")
            if not chunk:
                self._sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(self._sink, chunk)
            self._lane.forwarded_bytes += len(chunk)
            self._held_bytes -= len(chunk)
            self._delivered.set()


async def relay(client: socket.socket, server: socket.socket, up: Lane, down: Lane) -> bool:
    """Carry bytes both ways until both have ended; False if the connection broke instead.

    Each way ends by itself (half-close). When either socket breaks, both ways stop.
    """
    broken = False
    try:
        async with asyncio.TaskGroup() as group:
            for pipe in (_Pipe(client, server, up), _Pipe(server, client, down)):
                group.create_task(pipe.pump())
                group.create_task(pipe.deliver())
    except* OSError:
        broken = True
        # Even the news of a broken connection does not cross a stalled link.
        await up.clock.moving()
    return not broken


def tune(sock: socket.socket, buffer_bytes: int) -> None:
    """Make *sock* fit for a pipe: non-blocking, no Nagle, kernel buffers of about *buffer_bytes*.

    The kernel would else grow its buffers to megabytes, and a sender would take those for the link.
    """
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)


def close(sock: socket.socket, *, reset: bool) -> None:
    """Close *sock*; with *reset* the other end gets a reset instead of an orderly end."""
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()
