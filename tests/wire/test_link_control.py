"""A link takes orders over TCP, the same as over its standard input."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running_nodes import closed_port, eventually

from branchynet.errors import InvalidInput, Unavailable
from branchynet.serving.address import Address
from orchestrator.nodes.attached import Attached
from orchestrator.nodes.build import build
from simulations.link.control import ask_link, serve_control
from simulations.link.proxy import LinkProxy, LinkSettings
from simulations.model.scenario import Scenario

ROOT = Path(__file__).parents[2]
SETTINGS = LinkSettings.symmetric_delay(10, None, rtt_ms=40, jitter_ms=4)


@contextlib.asynccontextmanager
async def controlled(target: int = 1, settings: LinkSettings = SETTINGS):
    """A link to the port *target* and the address of its control."""
    async with LinkProxy("127.0.0.1", target, settings) as link, serve_control(link, "127.0.0.1", 0) as port:
        yield link, f"127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def echo():
    """The port of a server that answers each line with itself."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            while line := await reader.readline():
                writer.write(line)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def exchange(port: int, line: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        writer.write(line)
        assert await reader.readline() == line


async def test_the_counters_can_be_read_and_reset():
    async with echo() as target, controlled(target) as (link, control):
        await exchange(link.port, b"12345678\n")
        stats = await ask_link(control, "stats")
        assert (stats["ok"], stats["bytes_up"], stats["bytes_down"], stats["connections"]) == (True, 9, 9, 1)
        await ask_link(control, "reset")
        assert (await ask_link(control, "stats"))["bytes_up"] == 0


async def test_the_settings_are_those_that_hold_now():
    async with controlled() as (link, control):
        answer = {"command": "settings", "ok": True, "uplink_mbps": 10, "downlink_mbps": None, "rtt_ms": 40}
        assert await ask_link(control, "settings") == {**answer, "jitter_ms": 4}
        link.reshape(LinkSettings.symmetric_delay(1, 2, rtt_ms=3))
        assert (await ask_link(control, "settings"))["uplink_mbps"] == 1


async def test_the_uplink_takes_another_rate_or_follows_a_recording(tmp_path: Path):
    recording = tmp_path / "a link.txt"
    recording.write_text("0 1\n10 0.5\n20 4\n")
    async with controlled() as (link, control):
        await ask_link(control, "uplink 2.5")
        assert (await ask_link(control, "settings"))["uplink_mbps"] == 2.5
        before_s = link.now_s()
        await ask_link(control, f"uplink {recording} 12.5")
        course = link.settings.up.course
        assert course is not None
        assert before_s - 12.5 <= course.zero_s <= link.now_s() - 12.5
        assert course.capacity.mean_mbps == pytest.approx(2.25)
        assert (link.settings.up.delay_ms, link.settings.up.jitter_ms) == (SETTINGS.up.delay_ms, SETTINGS.up.jitter_ms)
        assert (await ask_link(control, "settings"))["uplink_mbps"] is None
        await ask_link(control, f"uplink {recording}")
        assert link.settings.up.course.zero_s >= before_s
        await ask_link(control, "uplink 1")
        assert link.settings.up.course is None


@pytest.mark.parametrize("order", ["uplink", "uplink 0", "uplink -3", "uplink nan", "uplink nowhere.txt", "uplink . 5"])
async def test_an_uplink_that_is_none_is_refused_and_the_old_one_stays(order):
    async with controlled() as (link, control):
        with pytest.raises(InvalidInput, match=r"takes a rate in Mbit/s, or the path"):
            await ask_link(control, order)
        assert link.settings == SETTINGS


@pytest.mark.parametrize("start", ["", " 1.5"])
async def test_a_recording_is_read_as_the_order_says(tmp_path: Path, start: str):
    recording = tmp_path / "my drive.csv"
    recording.write_text("t;up;down\n0;1;1\n2000;3000;9000\n")
    async with controlled() as (link, control):
        await ask_link(control, f"uplink {recording}{start} column=up unit=kbit/s  time_unit=ms")
        course = link.settings.up.course
        assert (course.capacity.period_s, course.capacity.mean_mbps) == (2, 3)
        assert link.now_s() - course.zero_s == pytest.approx(float(start or 0), abs=0.5)
        for words, reason in (("unit=knots", "is 'knots'"), ("", "can be|called a rate"), ("column=x", "called 'x'")):
            with pytest.raises(InvalidInput, match=reason):
                await ask_link(control, f"uplink {recording} {words}")


async def test_a_recording_holds_its_rate(tmp_path: Path):
    (tmp_path / "link.txt").write_text("0 0\n0.5 0\n100 4\n")
    async with echo() as target, controlled(target) as (link, control):
        await ask_link(control, f"uplink {tmp_path / 'link.txt'}")
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        await exchange(link.port, b"x" * 999 + b"\n")
        assert loop.time() - started_s > 0.4, "nothing leaves in the first half second"


async def test_a_link_is_cut_and_restored_by_order():
    async with echo() as target, controlled(target) as (link, control):
        await ask_link(control, "cut")
        with pytest.raises((ConnectionError, AssertionError)):
            await exchange(link.port, b"lost\n")
        await ask_link(control, "restore")
        await exchange(link.port, b"found\n")


async def test_what_is_no_order_is_refused_by_name():
    async with controlled() as (_, control):
        with pytest.raises(InvalidInput, match=r"explode.*must be one of: stats, settings, uplink, cut"):
            await ask_link(control, "explode")


async def test_one_caller_may_give_many_orders_beside_another():
    async with controlled() as (_, control):
        address = Address.parse(control)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        with contextlib.closing(writer):
            for command in ("stall", "restore", "stats"):
                assert (await ask_link(control, "stats"))["ok"]
                writer.write(f"{command}\n".encode())
                assert json.loads(await reader.readline())["command"] == command


@pytest.mark.parametrize("rubbish", [b"x" * 100_000, b"\xff\xfe\n", b"\n", b"half a line"])
async def test_rubbish_harms_only_its_sender(rubbish):
    async with controlled() as (_, control):
        address = Address.parse(control)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            writer.write(rubbish)
            writer.write_eof()
            answer = await reader.read()
            assert answer == b"" or not json.loads(answer)["ok"]
        assert (await ask_link(control, "stats"))["ok"]


async def test_a_link_that_is_not_there_is_unavailable():
    with closed_port() as port, pytest.raises(Unavailable, match=f"no link answers at 127.0.0.1:{port}"):
        await ask_link(f"127.0.0.1:{port}", "stats")


async def test_a_silent_link_is_given_up():
    server = await asyncio.start_server(lambda _reader, writer: asyncio.sleep(0.5, writer.close()), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match="no link answers"):
            await ask_link(f"127.0.0.1:{port}", "stats", timeout_s=0.1)


async def test_an_address_that_is_none_is_refused_before_anybody_is_asked():
    with pytest.raises(InvalidInput, match="'host:70000' is no address"):
        await ask_link("host:70000", "stats")


async def test_attached_links_are_described_and_summed_up():
    async with echo() as target, controlled(target) as (first, one), controlled(target) as (second, two):
        await exchange(first.port, b"12345\n")
        await exchange(second.port, b"123\n")
        async with build(Scenario(), Attached(["nobody:1"], [one, two])) as fleet:
            assert await fleet.uplink_bytes() == 10
            await fleet.reset_links()
            assert await fleet.uplink_bytes() == 0


async def test_to_attach_takes_as_many_edges_as_there_are_and_a_link_to_ask():
    with pytest.raises(InvalidInput, match="0 edges are attached to, the scenario has 1"):
        async with build(Scenario(), Attached([], ["127.0.0.1:1"])):
            pass
    async with build(Scenario(), Attached(["127.0.0.1:1"])) as fleet:
        with pytest.raises(InvalidInput, match="link-0 was not attached to"):
            await fleet.ask_link(0, "stats")


async def run_module(module: str, *arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )


async def test_the_programs_talk_to_each_other():
    addresses = ("--listen", "127.0.0.1:0", "--target", "127.0.0.1:1", "--control-listen", "127.0.0.1:0")
    link = await run_module("simulations.link.proxy", *addresses, "--rtt-ms", "7")
    assert link.stdout is not None
    try:
        ready: dict[str, Any] = json.loads(await link.stdout.readline())
        control = f"127.0.0.1:{ready['control_port']}"
        for command, code in (("settings", 0), ("explode", 2)):
            asked = await run_module("simulations.link.control", control, command)
            out, err = await asked.communicate()
            assert asked.returncode == code, err
            assert code or json.loads(out)["rtt_ms"] == 7
        _, idle = await asyncio.open_connection("127.0.0.1", ready["control_port"])
        with contextlib.closing(idle):
            link.send_signal(signal.SIGTERM)
            assert await link.communicate() == (b"", b"")
        assert link.returncode == 0
        gone = await run_module("simulations.link.control", control, "stats")
        _, err = await gone.communicate()
        assert (gone.returncode, err.count(b"\n")) == (1, 1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            link.kill()


async def test_a_control_port_that_is_taken_is_said_in_a_line():
    async with echo() as taken:
        addresses = ("--listen", "127.0.0.1:0", "--target", "127.0.0.1:1", "--control-listen", f"127.0.0.1:{taken}")
        link = await run_module("simulations.link.proxy", *addresses)
        out, err = await link.communicate()
    assert (link.returncode, out) == (1, b"")
    assert str(taken).encode() in err.splitlines()[-1]
    assert b"Traceback" not in err


async def test_idle_callers_do_not_keep_a_link_alive():
    async with controlled() as (_, control):
        address = Address.parse(control)
        reader, writer = await asyncio.open_connection(address.host, address.port)

        async def ended() -> bool:
            return reader.at_eof()

    await eventually(ended, "the caller is sent home")
    writer.close()
