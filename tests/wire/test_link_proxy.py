"""The link proxy on real sockets: what it carries, whom it holds up, how it breaks.

That its rate and delay are those asked for is tested on the command, in test_link_proxy_command.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import statistics
import time

import numpy as np
import pytest
from socket_peers import calling, count, echo, hang_up, pings_ms, reset, serving, until, upload_s

from branchynet.errors import InvalidInput
from simulations.link.capacity import PiecewiseRate
from simulations.link.proxy import Direction, LinkProxy, LinkSettings
from simulations.link.shaping import Course

CLEAR = LinkSettings(Direction(None), Direction(None))


# --- sharing the link ---------------------------------------------------------------------------------


async def test_the_two_directions_do_not_slow_each_other_down() -> None:
    async with (
        serving(echo) as target,
        LinkProxy("127.0.0.1", target, LinkSettings(Direction(4), Direction(8))) as link,
        calling(link.port) as (reader, writer),
    ):
        # The echo comes back on the wider way while the rest still goes up: 0.4 s, not 0.4 + 0.2 s.
        began_s = time.perf_counter()
        writer.write(bytes(200_000))
        await reader.readexactly(200_000)
        assert time.perf_counter() - began_s == pytest.approx(0.4, rel=0.15)


async def test_connections_share_the_rate_fairly() -> None:
    async with (
        serving(count) as target,
        LinkProxy("127.0.0.1", target, LinkSettings(Direction(8), Direction(None))) as link,
    ):
        first_s, second_s = await asyncio.gather(upload_s(link.port, 200_000), upload_s(link.port, 200_000))
    assert max(first_s, second_s) == pytest.approx(0.4, rel=0.15)
    assert min(first_s, second_s) > 0.3, "neither had to wait for the whole of the other"


async def test_a_small_message_does_not_wait_for_the_whole_of_a_big_one() -> None:
    async with (
        serving(echo) as target,
        LinkProxy("127.0.0.1", target, LinkSettings(Direction(2), Direction(None))) as link,
        calling(link.port) as (_, writer),
    ):
        writer.write(bytes(250_000))  # holds the uplink for a second
        await until(lambda: link.stats().bytes_up > 10_000)
        assert statistics.median(await pings_ms(link.port, 5)) < 60
        assert link.stats().bytes_up < 200_000, "the big one was still going"
        link.cut()


async def test_a_sender_feels_a_thin_link_and_not_a_bottomless_buffer() -> None:
    settings = LinkSettings(Direction(0.25), Direction(None))
    async with serving(count) as target, LinkProxy("127.0.0.1", target, settings, buffer_bytes=64 * 1024) as link:
        with socket.create_connection(("127.0.0.1", link.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
            client.setblocking(False)
            taken_bytes, ends_s = 0, time.perf_counter() + 0.3
            while time.perf_counter() < ends_s:
                with contextlib.suppress(BlockingIOError):
                    taken_bytes += client.send(bytes(16 * 1024))
                await asyncio.sleep(0.001)
            # Linux doubles what it is asked for: 128 KiB there and 128 KiB here, and what has crossed.
            assert taken_bytes < 400_000
            link.cut()


async def test_a_receiver_that_does_not_read_stops_the_sender_and_nobody_else() -> None:
    reading = asyncio.Event()

    async def lazy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(1) == b"!":
            await reading.wait()
        writer.write(b"?")
        await echo(reader, writer)

    async with (
        serving(lazy) as target,
        LinkProxy("127.0.0.1", target, LinkSettings(Direction(400), Direction(None))) as link,
        calling(link.port) as (reader, writer),
    ):
        sent = random.Random(0).randbytes(20_000_000)
        writer.write(b"!" + sent)
        await asyncio.sleep(0.5)
        assert link.stats().bytes_up < 10_000_000, "the kernels' buffers, and not all that was sent"
        assert statistics.median(await pings_ms(link.port, 3)) < 50
        reading.set()
        assert await reader.readexactly(1 + len(sent)) == b"?" + sent


# --- what arrives -------------------------------------------------------------------------------------


async def test_no_byte_is_lost_or_changed_with_both_ways_busy() -> None:
    sent = random.Random(1).randbytes(4_000_000)
    settings = LinkSettings(Direction(150, 10, 10), Direction(200, 15, 5), seed=1)
    async with serving(echo) as target, LinkProxy("127.0.0.1", target, settings) as link:

        async def round_trip(data: bytes) -> str:
            async with calling(link.port) as (reader, writer):
                writer.write(data)
                writer.write_eof()
                return hashlib.sha256(await reader.read()).hexdigest()

        parts = [sent, sent[::-1]]
        received = await asyncio.gather(*(round_trip(part) for part in parts))
        assert received == [hashlib.sha256(part).hexdigest() for part in parts]
        assert (link.stats().bytes_up, link.stats().bytes_down) == (8_000_000, 8_000_000)


async def test_jitter_stays_in_range_and_follows_the_seed() -> None:
    async def sample(seed: int) -> list[float]:
        settings = LinkSettings.symmetric_delay(None, None, rtt_ms=50, jitter_ms=50, seed=seed)
        async with LinkProxy("127.0.0.1", target, settings) as link:
            return await pings_ms(link.port, 15)

    async with serving(echo) as target:
        first, again, other = await asyncio.gather(sample(1), sample(1), sample(2))
    assert min(first + other) >= 0
    assert statistics.quantiles(first + other, n=10)[-1] < 105
    assert statistics.stdev(first) > 8, "a triangle of ± 50 ms has a deviation of 20 ms"

    def distance(ours: list[float], theirs: list[float]) -> float:
        return statistics.median(abs(a - b) for a, b in zip(ours, theirs, strict=True))

    assert distance(first, again) < 4 < distance(first, other)


async def test_half_close_leaves_the_other_way_open() -> None:
    settings = LinkSettings.symmetric_delay(10, 10, rtt_ms=20)
    async with serving(count) as target, LinkProxy("127.0.0.1", target, settings) as link:
        await upload_s(link.port, 30_000)
        assert (link.stats().bytes_up, link.stats().bytes_down) == (30_000, 5)
        await until(lambda: link.stats().open_connections == 0)


async def test_counts_are_exact_and_can_start_again() -> None:
    async with serving(echo) as target, LinkProxy("127.0.0.1", target, CLEAR) as link:
        await pings_ms(link.port, 7)
        await pings_ms(link.port, 3)
        stats = link.stats()
        assert (stats.bytes_up, stats.bytes_down, stats.connections) == (10, 10, 2)
        link.reset_stats()
        async with calling(link.port) as (reader, writer):
            writer.write(b"hello")
            await reader.readexactly(5)
            stats = link.stats()
            assert (stats.bytes_up, stats.bytes_down, stats.connections) == (5, 5, 1)
            assert stats.open_connections >= 1


async def test_reshape_changes_a_living_connection() -> None:
    async with (
        serving(echo) as target,
        LinkProxy("127.0.0.1", target, CLEAR) as link,
        calling(link.port) as (reader, writer),
    ):

        async def ping_ms() -> float:
            began_s = time.perf_counter()
            writer.write(b"?")
            await reader.readexactly(1)
            return (time.perf_counter() - began_s) * 1e3

        assert statistics.median([await ping_ms() for _ in range(3)]) < 20
        link.reshape(LinkSettings.symmetric_delay(None, None, rtt_ms=60))
        assert statistics.median([await ping_ms() for _ in range(3)]) == pytest.approx(65, abs=5.1)
        link.reshape(CLEAR)
        assert statistics.median([await ping_ms() for _ in range(3)]) < 20


# --- how it breaks ------------------------------------------------------------------------------------


async def test_cut_kills_and_refuses_until_restored() -> None:
    async with serving(echo) as target, LinkProxy("127.0.0.1", target, CLEAR) as link:
        async with calling(link.port) as (reader, writer):
            writer.write(b"?")
            await reader.readexactly(1)
            link.cut()
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
        with pytest.raises(ConnectionResetError):
            async with calling(link.port) as (reader, _):
                await reader.readexactly(1)
        assert link.stats().connections == 1, "a refused connection does not count"
        assert link.stats().open_connections == 0
        link.restore()
        assert len(await pings_ms(link.port, 2)) == 2


async def test_a_stall_moves_nothing_and_loses_nothing() -> None:
    sent = random.Random(2).randbytes(300_000)
    settings = LinkSettings.symmetric_delay(8, None, rtt_ms=20)
    async with (
        serving(echo) as target,
        LinkProxy("127.0.0.1", target, settings) as link,
        calling(link.port) as (reader, writer),
    ):
        began_s = time.perf_counter()
        writer.write(sent)
        received = await reader.readexactly(50_000)
        link.stall()
        late = asyncio.create_task(pings_ms(link.port, 1))
        await asyncio.sleep(0.05)  # what was already in a socket may still be read
        before = link.stats()
        await asyncio.sleep(0.25)
        assert link.stats() == before
        assert not late.done(), "a new connection is taken, and hears nothing"
        link.restore()
        received += await reader.readexactly(len(sent) - len(received))
        assert received == sent
        # The link did not work off the stall faster than its rate: 0.3 s of bytes, 0.3 s of standing still.
        assert time.perf_counter() - began_s == pytest.approx(0.62, rel=0.15)
        assert len(await late) == 1


async def test_cut_ends_a_stall_too() -> None:
    async with (
        serving(echo) as target,
        LinkProxy("127.0.0.1", target, CLEAR) as link,
        calling(link.port) as (reader, writer),
    ):
        link.stall()
        writer.write(b"?")
        await until(lambda: link.stats().open_connections == 1)
        link.cut()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)


@pytest.mark.parametrize("side", ["client", "target"])
async def test_a_connection_that_breaks_on_one_side_breaks_on_the_other(side: str) -> None:
    ends: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    over = asyncio.Event()

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.put_nowait((reader, writer))
        await over.wait()

    async with (
        serving(keep) as target,
        LinkProxy("127.0.0.1", target, LinkSettings.symmetric_delay(None, None, rtt_ms=40)) as link,
        calling(link.port) as client_end,
    ):
        target_end = await ends.get()
        breaking, other = (client_end, target_end) if side == "client" else (target_end, client_end)
        breaking[1].write(b"last words")
        await breaking[1].drain()
        await asyncio.sleep(0.005)  # a reset overtakes what its own kernel and the proxy's have not passed on
        reset(breaking[1])
        assert await other[0].readexactly(10) == b"last words", "the news crosses the link after the data"
        with pytest.raises(ConnectionResetError):
            await other[0].read()
        over.set()
        await until(lambda: link.stats().open_connections == 0)


async def test_an_unreachable_target_closes_the_connection_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    async with LinkProxy("localhost", nobody, CLEAR) as link:
        with pytest.raises(ConnectionResetError):
            async with calling(link.port) as (reader, _):
                await reader.readexactly(1)
    assert f"target localhost:{nobody} is not reachable" in caplog.text


async def test_leaving_the_proxy_closes_what_is_open_and_frees_the_port() -> None:
    async with serving(echo) as target:
        async with LinkProxy("127.0.0.1", target, CLEAR) as link:
            port = link.port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"?")
            await reader.readexactly(1)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        await hang_up(writer)
        async with LinkProxy("127.0.0.1", target, CLEAR, port=port) as link:
            assert link.port == port


def test_a_proxy_without_a_buffer_is_refused() -> None:
    with pytest.raises(InvalidInput, match="buffer_bytes is 0"):
        LinkProxy("127.0.0.1", 1, CLEAR, buffer_bytes=0)


async def test_a_rate_that_varies_holds_bytes_back_until_its_course_lets_them_go() -> None:
    capacity = PiecewiseRate(np.array([0.3, 10.0]), np.array([0.0, 1.0]))
    async with (
        serving(echo) as port,
        LinkProxy("127.0.0.1", port, CLEAR) as link,
        calling(link.port) as (reader, writer),
    ):
        zero_s = asyncio.get_running_loop().time()
        link.reshape(LinkSettings(Direction(None, course=Course(capacity, zero_s)), Direction(None)))
        writer.write(bytes(25_000))
        await reader.readexactly(25_000)
        took_s = asyncio.get_running_loop().time() - zero_s
    # 0.3 s of silence, then 25,000 bytes at 1 Mbit/s.
    assert 0.5 <= took_s < 0.6
