"""Plain TCP peers for the two ends of a link: servers that echo or count, and callers that time them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """The port of a server on loopback; a broken connection just ends its handler."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await handler(reader, writer)
        await hang_up(writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        _, stuck = await asyncio.wait(tasks, timeout=2) if tasks else (None, set())
        assert not stuck, "the proxy left a connection to the target open"


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def calling(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        await hang_up(writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection as a crashed machine's kernel would; a plain abort ends it in good order."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read to the end, then answer with how much it was: works only if half-close does."""
    total = 0
    while data := await reader.read(65536):
        total += len(data)
    writer.write(b"%d" % total)


async def upload_s(port: int, size_bytes: int) -> float:
    async with calling(port) as (reader, writer):
        began_s = time.perf_counter()
        writer.write(bytes(size_bytes))
        writer.write_eof()
        assert await reader.read() == b"%d" % size_bytes
        return time.perf_counter() - began_s


async def pings_ms(port: int, number: int) -> list[float]:
    """Round trips of single bytes, one after the other on one connection to an echo."""
    async with calling(port) as (reader, writer):
        times_ms = []
        for _ in range(number):
            began_s = time.perf_counter()
            writer.write(b"?")
            assert await reader.readexactly(1) == b"?"
            times_ms.append((time.perf_counter() - began_s) * 1e3)
        return times_ms


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the counters have no event to wait for
            await asyncio.sleep(0.005)
