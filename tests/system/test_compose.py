"""docker-compose.yml for real: healthy, closed off as drawn, the table, and no request lost. Skipped without Docker."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_programs import Program, program, until

from branchynet.client.client import AsyncClient
from branchynet.data.datasets import Dataset
from branchynet.errors import Unavailable
from orchestrator.nodes.compose import NODES, find_compose

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]

BASE_IMAGE = "python:3.11-slim-bookworm"


def docker(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    """A Docker engine, a compose and the base image; or the reason why not."""
    try:
        asyncio.run(find_compose())
    except Unavailable as missing:
        pytest.skip(f"no Docker to run it with: {missing}")
    if docker("image", "inspect", BASE_IMAGE).returncode != 0:
        pulled = docker("pull", "--quiet", BASE_IMAGE, timeout_s=300)
        if pulled.returncode != 0:
            pytest.skip(f"{BASE_IMAGE} is not here and cannot be pulled: {pulled.stderr.strip()}")


@pytest.fixture
def project() -> Iterator[str]:
    """A name of this test's own; whatever has it in the end is removed."""
    name = f"branchynet-test-{uuid.uuid4().hex[:8]}"
    yield name
    for container in containers(name):
        docker("rm", "--force", "--volumes", container)
    for network in left(name, "network"):
        docker("network", "rm", network)


def left(project: str, kind: str) -> list[str]:
    found = docker(kind, "ls", "--quiet", "--filter", f"label=com.docker.compose.project={project}")
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


def containers(project: str, service: str = "") -> list[str]:
    labels = [f"label=com.docker.compose.project={project}"]
    labels += [f"label=com.docker.compose.service={service}"] if service else []
    return docker("ps", "--all", "--quiet", *(word for label in labels for word in ("--filter", label))).stdout.split()


def inspect(container: str) -> dict[str, Any]:
    described: list[dict[str, Any]] = json.loads(docker("inspect", container).stdout)
    return described[0]


def python(container: str, code: str) -> subprocess.CompletedProcess[str]:
    return docker("exec", container, "python", "-c", code)


@pytest.fixture
def ports() -> dict[str, str]:
    """Two ports of this machine that are free now."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return {"EDGE_A_PORT": str(one.getsockname()[1]), "EDGE_B_PORT": str(two.getsockname()[1])}


def compose_demo(project: str, out: Path, ports: dict[str, str]) -> Any:
    arguments = ("--project", project, "--out", str(out), "--images", "200")
    return program("orchestrator.nodes.compose", *arguments, env=ports)


def until_measuring(running: Program, project: str) -> None:
    until(
        lambda: running.process.poll() is not None or containers(project, "client"),
        lambda: "no client container",
        within_s=600,
    )


async def test_the_demonstration_runs_in_containers_and_loses_no_request(
    project: str, ports: dict[str, str], tmp_path: Path, sample: Dataset
) -> None:
    with compose_demo(project, tmp_path, ports) as running:
        until_measuring(running, project)
        assert running.process.poll() is None, running.wait()
        names = {service: containers(project, service)[0] for service in NODES}
        check_locked_down(names)
        check_the_edge_reaches_the_cloud_by_its_link_alone(names)
        for port in ports.values():
            async with AsyncClient(f"127.0.0.1:{port}") as edge:
                assert len(await edge.classify(sample.images[:8])) == 8
        code, out, err = running.wait(within_s=400)
    assert (code, err) == (0, "")
    for setup in ("early exit + split", "edge only", "cloud only"):
        assert setup in out
    assert "200 Fashion-MNIST test images, 2 edges, 10 Mbit/s up, 40 ms round trip" in out
    assert "no request was lost, no answer was wrong" in out
    check_figures(tmp_path)
    assert [left(project, kind) for kind in ("network", "volume")] == [[], []]
    assert containers(project) == []


def check_locked_down(names: dict[str, str]) -> None:
    for service, container in names.items():
        described = inspect(container)
        host, bindings = described["HostConfig"], described["HostConfig"]["PortBindings"] or {}
        assert described["Config"]["User"] == "10001"
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert host["NanoCpus"] == 1_000_000_000
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        addresses = [binding["HostIp"] for published in bindings.values() for binding in published]
        assert addresses == (["127.0.0.1"] if service.startswith("edge") else [])
    wrote = python(names["edge-a"], "open('/opt/branchynet/new', 'w')")
    assert "Read-only file system" in wrote.stderr
    spare = "import importlib.util as u; print([n for n in ('ray', 'plotly', 'pytest', 'simpy') if u.find_spec(n)])"
    assert python(names["edge-a"], spare).stdout.strip() == "[]"


def check_the_edge_reaches_the_cloud_by_its_link_alone(names: dict[str, str]) -> None:
    (cloud,) = inspect(names["cloud"])["NetworkSettings"]["Networks"].values()
    connect = "import socket; socket.create_connection(({!r}, {}), 3); print('connected')"
    assert python(names["edge-a"], connect.format("link-a", 8011)).stdout == "connected\n"
    assert python(names["link-a"], connect.format(cloud["IPAddress"], 8011)).stdout == "connected\n"
    for address in ("cloud", cloud["IPAddress"]):
        assert python(names["edge-a"], connect.format(address, 8011)).returncode != 0


def check_figures(out: Path) -> None:
    rows = json.loads((out / "demo.json").read_text())["rows"]
    assert [row["requests"] for row in rows] == [200, 200, 200]
    assert rows[0]["accuracy"] == rows[2]["accuracy"]
    assert 784 < rows[2]["link_bytes_per_request"] < 784 + 400
    assert rows[2]["latency_ms"]["p50"] > 38
    assert not (out / "demo.png").exists(), "the image has no matplotlib"
    soak = json.loads((out / "soak.json").read_text())
    assert (soak["lost"], soak["wrong"]) == (0, 0)
    assert soak["requests"] == soak["answered"] > 400
    assert soak["retried"] > 0, "no request met with the stopped edge"
    assert all(soak["by_place"].values()), "no request met with the stopped cloud"
    assert set(soak["by_edge"]) == {"edge-a:8001", "edge-b:8001"}


def test_ctrl_c_takes_everything_down(project: str, ports: dict[str, str], tmp_path: Path) -> None:
    with compose_demo(project, tmp_path, ports) as running:
        until_measuring(running, project)
        running.send(signal.SIGINT)
        time.sleep(0.5)
        running.send(signal.SIGINT)  # impatience leaves nothing behind either
        code, _, err = running.wait(within_s=120)
    assert code == 130
    assert "Traceback" not in err
    assert containers(project) == []
    assert left(project, "network") == []


def test_a_port_that_is_taken_is_said_and_everything_taken_down(project: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with compose_demo(project, tmp_path, {"EDGE_A_PORT": port, "EDGE_B_PORT": "0"}) as running:
            code, _, err = running.wait(within_s=700)
    assert code == 1
    assert f"127.0.0.1:{port}" in err
    assert "EDGE_A_PORT" in err
    assert containers(project) == []
