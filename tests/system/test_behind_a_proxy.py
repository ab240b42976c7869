"""Where the environment names a proxy for the web, nodes reach each other and are reached all the same."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_nodes import closed_port
from running_programs import ROOT, behind_proxy, program

from branchynet.client.client import Client
from branchynet.errors import SettingsError, Unavailable
from branchynet.rpc.channel import USE_PROXY, open_blocking_channel
from branchynet.rpc.health_check import check


@pytest.fixture(scope="module")
def dead_proxy() -> Iterator[dict[str, str]]:
    """The variables of an office whose proxy does not answer."""
    with closed_port() as port:
        yield behind_proxy(port)


@pytest.fixture(scope="module")
def edge(dead_proxy: dict[str, str]) -> Iterator[str]:
    """The target of an edge that has a cloud, both started there."""
    with (
        program("cloud_node", "--port=0", env=dead_proxy) as cloud,
        program("edge_node", "--port=0", f"--cloud=127.0.0.1:{cloud.ready()}", env=dead_proxy) as running,
    ):
        yield f"127.0.0.1:{running.ready()}"


def command(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_classify_reaches_the_edge_and_the_edge_its_cloud(
    dead_proxy: dict[str, str], edge: str, tmp_path: Path
) -> None:
    asked = ("-m", "cli.main", "classify", "--sample=8", "--policy=cloud-only", f"--edge={edge}")
    done = command(dead_proxy, *asked, f"--json={tmp_path / 'answers.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    answers = json.loads((tmp_path / "answers.json").read_text())["answers"]
    assert [answer["where"] for answer in answers] == ["cloud"] * 8


@pytest.mark.parametrize(
    "arguments",
    [("-m", "branchynet.rpc.health_check"), ("examples/reflection_only.py",), ("examples/tritonclient_hello.py",)],
)
def test_so_do_health_checks_and_examples(dead_proxy: dict[str, str], edge: str, arguments: tuple[str, ...]) -> None:
    done = command(dead_proxy, *arguments, edge)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that notes what it is asked for, and refuses it."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    caller, _ = listener.accept()
                    with caller:
                        asked.append(caller.recv(4096).decode().partition("\r\n")[0])
                        caller.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_a_proxy_is_used_if_asked_for_and_never_to_this_machine(
    proxy: tuple[str, list[str]], edge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = proxy
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, address)
    # An address that no network has: only a proxy could lead there.
    for wanted, seen in (("0", []), ("", []), ("1", ["CONNECT 192.0.2.1:8001 HTTP/1.1"])):
        monkeypatch.setenv(USE_PROXY, wanted)
        with Client("192.0.2.1:8001") as client, pytest.raises(Unavailable):
            client.describe(timeout_ms=500)
        assert asked[:1] == seen
    asked.clear()
    with Client(edge) as client:
        assert client.describe().model == "lenet-fashion"
    assert check(edge) == "SERVING"
    assert asked == []


def test_what_asks_for_a_proxy_is_0_or_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USE_PROXY, "yes")
    with pytest.raises(SettingsError, match=f"environment variable {USE_PROXY} is 'yes'; it must be 0 or 1"):
        open_blocking_channel("127.0.0.1:1", 1)
