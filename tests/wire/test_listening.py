"""A node and a link listen on every address of their host, or say which one they cannot have and who has it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from running_nodes import CLEAR, serving_cloud

from branchynet.client.cloud import AsyncCloudClient
from branchynet.rpc import server
from branchynet.serving.address import Address
from branchynet.serving.listening import free_addresses
from simulations.link.control import ask_link, serve_control
from simulations.link.proxy import LinkProxy

HERE = f"taken by .* \\(process {os.getpid()}\\)"


@pytest.fixture
def localhost(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name with two addresses, as the hosts files of most machines have it and this one's may not."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    original = socket.getaddrinfo

    def both(host: str, *arguments: Any, **options: Any) -> list[Any]:
        if host != "localhost":
            return original(host, *arguments, **options)
        return original("::1", *arguments, **options) + original("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", both)
    return "localhost"


@pytest.fixture(params=[("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)], ids=["IPv4", "IPv6"])
def half_taken(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """One of the addresses of localhost, whose port is taken there and free on the other one."""
    host, family = request.param
    with socket.create_server((host, 0), family=family) as taken:
        yield host, taken.getsockname()[1]


async def test_a_node_on_localhost_answers_on_both_of_its_addresses(localhost: str) -> None:
    async with serving_cloud(host=localhost) as cloud:
        for host in ("127.0.0.1", "[::1]"):
            async with AsyncCloudClient(f"{host}:{cloud.port}") as client:
                assert (await client.describe()).model


async def test_a_node_does_not_listen_on_half_of_its_host(localhost: str, half_taken: tuple[str, int]) -> None:
    host, port = half_taken
    with pytest.raises(OSError, match=rf"cannot listen on \[?{host}\]?:{port}: the port is {HERE}"):
        async with serving_cloud(host=localhost, port=port):
            pass
    # The other half is free again.
    other, family = ("::1", socket.AF_INET6) if host == "127.0.0.1" else ("127.0.0.1", socket.AF_INET)
    socket.create_server((other, port), family=family).close()


async def test_an_address_that_is_taken_meanwhile_leaves_the_others_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]

        async def both(_host: str, _port: int) -> list[Address]:
            return [Address("127.0.0.1", 0), Address("127.0.0.2", port)]

        monkeypatch.setattr(server, "free_addresses", both)
        with pytest.raises(OSError, match=HERE):
            async with serving_cloud():
                pass
        held = [one.laddr for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert held == [("127.0.0.2", port)]


async def test_a_link_listens_on_all_of_its_host_or_not_at_all(localhost: str, half_taken: tuple[str, int]) -> None:
    async with (
        serving_cloud() as cloud,
        LinkProxy("127.0.0.1", cloud.port, CLEAR, localhost) as link,
        serve_control(link, localhost, 0) as control,
    ):
        for host in ("127.0.0.1", "[::1]"):
            async with AsyncCloudClient(f"{host}:{link.port}") as client:
                assert (await client.describe()).model
            assert (await ask_link(f"{host}:{control}", "stats"))["ok"]
        assert link.stats().connections == 2
        with pytest.raises(OSError, match=HERE):
            async with LinkProxy("127.0.0.1", cloud.port, CLEAR, localhost, half_taken[1]):
                pass
        with pytest.raises(OSError, match=HERE):
            async with serve_control(link, localhost, half_taken[1]):
                pass


async def test_a_port_that_is_taken_everywhere_is_taken_here() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: the port is {HERE}"):
            await free_addresses("127.0.0.1", port)


async def test_a_host_that_is_not_known_and_an_address_of_others_are_named() -> None:
    with pytest.raises(OSError, match=r"cannot listen on nowhere\.invalid: "):
        await free_addresses("nowhere.invalid", 8001)
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:8001: .*address"):
        await free_addresses("192.0.2.1", 8001)
