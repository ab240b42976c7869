"""The health check that containers run: exit code and one line."""

import asyncio
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from running_nodes import closed_port

from branchynet.rpc.health_check import check, main


async def checked(target: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = await asyncio.to_thread(main, [target, "--timeout-s", "5"])
    return code, capsys.readouterr().out.strip()


async def test_both_nodes_are_healthy_while_they_serve(split, capsys):
    assert await checked(split.edge.target, capsys) == (0, "SERVING")
    assert await checked(split.cloud.target, capsys) == (0, "SERVING")


async def test_a_node_that_drains_is_not_healthy(capsys):
    server = grpc.aio.server()
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert await checked(f"127.0.0.1:{port}", capsys) == (1, "NOT_SERVING")
    await server.stop(0)


async def test_a_server_without_health_is_not_healthy(capsys):
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    code, status = await checked(f"127.0.0.1:{port}", capsys)
    await server.stop(0)
    assert code == 1
    assert status.startswith("UNIMPLEMENTED")


def test_nobody_there_is_not_healthy(capsys):
    with closed_port() as port:
        assert main([f"127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().out.startswith("UNAVAILABLE")


async def test_a_node_that_says_nothing_is_given_up():
    server = await asyncio.start_server(lambda _reader, writer: asyncio.sleep(1, writer.close()), "127.0.0.1", 0)
    async with server:
        status = await asyncio.to_thread(check, f"127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=0.2)
    assert status.startswith(("DEADLINE_EXCEEDED", "UNAVAILABLE"))


async def test_it_runs_as_a_program(split):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "branchynet.rpc.health_check", split.edge.target, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"SERVING\n")
