"""The link proxy as the process it runs as: exact in rate and delay, obedient, and never left behind.

Timing is asserted here on purpose, since a link that is not what it says spoils every result made over it.
A busy machine only ever adds time, some milliseconds here and there; so what is timed takes 0.1 s or more,
and each figure is a median of several.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[2]


class Link:
    """A running `python -m simulations.link.proxy --control`."""

    def __init__(self, target: int, *options: str) -> None:
        self.process = subprocess.Popen(
            command(target, "--control", *options),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ready = self.read()
        assert ready["event"] == "ready"
        self.port: int = ready["port"]

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def tell(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()


def command(target: int, *options: str) -> list[str]:
    addresses = ["--listen", "127.0.0.1:0", "--target", f"127.0.0.1:{target}"]
    return [sys.executable, "-m", "simulations.link.proxy", *addresses, *options]


@contextlib.contextmanager
def link_to(target: int, *options: str) -> Iterator[Link]:
    """A link that must end by itself, in good order and with nothing to say, once its stdin is closed."""
    link = Link(target, *options)
    try:
        yield link
        _, complaints = link.process.communicate(timeout=30)
        assert (link.process.returncode, complaints) == (0, "")
    finally:
        link.process.kill()
        link.process.communicate()


def receive(sock: socket.socket, size_bytes: int) -> None:
    while size_bytes:
        data = sock.recv(min(size_bytes, 65536))
        if not data:
            raise ConnectionError("ended early")
        size_bytes -= len(data)


def exchange(sock: socket.socket) -> None:
    """Serve requests of `UP DOWN` and UP more bytes; answer each with DOWN bytes."""
    with sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while header := sock.recv(16, socket.MSG_WAITALL):
            up, down = map(int, header.split())
            receive(sock, up)
            sock.sendall(bytes(down))


@pytest.fixture(scope="module")
def target() -> Iterator[int]:
    """The port of a server that takes and gives as many bytes as it is told to."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=exchange, args=(listener.accept()[0],), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    accepting.join()
    listener.close()


@contextlib.contextmanager
def calling(port: int) -> Iterator[Callable[[int, int], float]]:
    """A connection, as a function that sends and receives so many bytes and returns the seconds it took."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask(up: int, down: int) -> float:
            message = b"%7d %8d" % (up, down) + bytes(up)
            began_s = time.perf_counter()
            sock.sendall(message)
            receive(sock, down)
            return time.perf_counter() - began_s

        yield ask


def assert_within_5_percent(measure: Callable[[], float], expected: float, repetitions: int) -> None:
    """The median of some measurements must be right, at the fifth attempt at the latest."""
    medians = []
    # More than once, because a neighbour on a shared core can slow half of the repetitions at one time, while
    # a link with wrong arithmetic is wrong at all of them.
    for _ in range(5):
        medians.append(statistics.median(measure() for _ in range(repetitions)))
        if medians[-1] == pytest.approx(expected, rel=0.05):
            return
    pytest.fail(f"measured {medians}, expected {expected} ± 5 %")


@pytest.mark.parametrize(("rate_mbps", "size_bytes"), [(0.25, 8_000), (10, 400_000), (200, 5_000_000)])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_transfer_takes_bytes_over_rate(target: int, way: str, rate_mbps: float, size_bytes: int) -> None:
    with link_to(target, f"--{way}link-mbps", str(rate_mbps)) as link, calling(link.port) as ask:
        ask(0, 1)  # the connection onward is there
        # The request's 16 bytes go up as well, and the last byte that comes back tells that all went up.
        crossing = 16 + size_bytes if way == "up" else size_bytes
        asked = (size_bytes, 1) if way == "up" else (0, size_bytes)
        assert_within_5_percent(lambda: ask(*asked), crossing * 8 / (rate_mbps * 1e6), repetitions=3)


@pytest.mark.parametrize("rtt_ms", [100, 200])
def test_a_ping_takes_the_round_trip(target: int, rtt_ms: int) -> None:
    with link_to(target, "--rtt-ms", str(rtt_ms)) as link, calling(link.port) as ask:
        ask(0, 1)
        assert_within_5_percent(lambda: ask(0, 1), rtt_ms / 1e3, repetitions=7)


def test_rate_and_delay_add_up(target: int) -> None:
    options = ["--uplink-mbps", "10", "--downlink-mbps", "5", "--rtt-ms", "50"]
    with link_to(target, *options) as link, calling(link.port) as ask:
        ask(0, 1)
        expected_s = 0.05 + 50_016 * 8 / 10e6 + 25_000 * 8 / 5e6
        assert_within_5_percent(lambda: ask(50_000, 25_000), expected_s, repetitions=5)


def test_control_lines_are_obeyed_and_answered(target: int) -> None:
    with link_to(target) as link:
        with calling(link.port) as ask:
            ask(100, 10)
            stats = {"bytes_up": 116, "bytes_down": 10, "connections": 1, "open_connections": 1}
            assert link.tell("stats") == {"command": "stats", "ok": True, **stats}
            assert link.tell("reset") == {"command": "reset", "ok": True}
            assert link.tell("stats")["bytes_up"] == 0
            assert link.tell("stall") == {"command": "stall", "ok": True}
            assert link.tell("restore") == {"command": "restore", "ok": True}
            ask(0, 1)
            assert link.tell("cut") == {"command": "cut", "ok": True}
            with pytest.raises(ConnectionError):
                ask(0, 1)
        answer = link.tell("explode")
        assert answer == {
            "command": "explode",
            "ok": False,
            "error": "must be one of: stats, settings, uplink, cut, stall, restore, reset",
        }
        assert link.tell("restore")["ok"]
        with calling(link.port) as ask:
            ask(0, 1)


def test_it_ends_when_its_parent_is_killed(target: int) -> None:
    # The parent holds the only other end of the child's stdin, and is given no chance to clean up.
    program = (
        "import subprocess, sys, time;child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *command(target, "--control")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        port = json.loads(parent.stdout.readline())["port"]
        parent.kill()
        # The child holds our pipe too: the end of the file is the end of both.
        assert parent.stdout.read() == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order_with_connections_open(target: int, number: signal.Signals) -> None:
    with subprocess.Popen(
        command(target, "--rtt-ms", "40"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        with calling(json.loads(process.stdout.readline())["port"]) as ask:
            ask(0, 1)
            process.send_signal(number)
            assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == 0


def test_an_unreachable_target_is_a_warning_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    link = Link(nobody)
    with pytest.raises(ConnectionError), calling(link.port) as ask:
        ask(0, 1)
    _, complaints = link.process.communicate(timeout=30)
    assert link.process.returncode == 0
    assert complaints.startswith(f"WARNING simulations.link.proxy: target 127.0.0.1:{nobody} is not reachable")
    assert complaints.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--rtt-ms", "-1"], 2, "rtt_ms is -1.0"),
        (["--listen", "9001"], 2, "'9001' is no address: it has no port"),
        (["--listen", "http://127.0.0.1:9001"], 2, "it begins with http://"),
        (["--target", "127.0.0.1:0"], 2, "its port is '0', it must be 1 to 65535"),
        (["--control-listen", "::1:9001"], 2, "an IPv6 host stands in brackets"),
        (["--control"], 2, "--control needs a pipe or a terminal as stdin"),
        (["--listen", "127.0.0.1:{taken}"], 1, "cannot listen on 127.0.0.1:{taken}: the port is taken by"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(options: list[str], code: int, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = [option.format(taken=port) for option in options]
        done = subprocess.run(
            command(1, *options),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == code
    assert message.format(taken=port) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
