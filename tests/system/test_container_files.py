"""Dockerfile and docker-compose.yml: valid, linted, and locked down as the design says. Needs no Docker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
FILE = ROOT / "docker-compose.yml"
BIN = Path(sys.executable).parent
COMPOSE: dict[str, Any] = YAML(typ="safe").load(FILE)
SERVICES: dict[str, Any] = COMPOSE["services"]
NODES = {"cloud", "edge-a", "edge-b"}
LINKS = {"link-a", "link-b"}


def checked(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_keeps_the_specification() -> None:
    checked(str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", FILE.name)


def test_the_dockerfile_is_clean() -> None:
    checked(str(BIN / "hadolint"), "Dockerfile")


@pytest.mark.parametrize("command", [("docker-compose",), ("docker", "compose")], ids=" ".join)
def test_compose_takes_the_file(command: tuple[str, ...]) -> None:
    found = shutil.which(command[0]) is not None
    if not found or subprocess.run([*command, "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{' '.join(command)} is not installed")
    checked(*command, "--file", FILE.name, "config", "--quiet")


def test_the_parts_are_those_of_the_picture() -> None:
    assert set(SERVICES) == NODES | LINKS | {"client"}
    assert {name for name, service in SERVICES.items() if service.get("profiles")} == {"client"}
    assert {service["image"] for service in SERVICES.values()} == {"branchynet"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_nothing_that_it_need_not(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "10001"
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service)
    assert not [volume for volume in service.get("volumes", []) if ":" in volume], "a folder of the host"


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_bounded_and_stops_in_order(name: str) -> None:
    service = SERVICES[name]
    assert service["cpus"] == 1.0
    assert service["mem_limit"]
    assert service["pids_limit"] > 0
    assert service["init"] is True
    settings = service.get("environment", {})
    (grace_s,) = [float(value) for key, value in settings.items() if key.endswith("_GRACE_S")] or [0.0]
    assert float(service["stop_grace_period"].removesuffix("s")) > grace_s
    if name not in LINKS:
        threads = [value for key, value in settings.items() if key.endswith("_THREADS")]
        assert set(threads) == {str(int(service["cpus"]))}
    assert service.get("restart") == (None if name == "client" else "unless-stopped")


@pytest.mark.parametrize("name", sorted(NODES | LINKS))
def test_a_health_check_needs_no_shell(name: str) -> None:
    test = SERVICES[name]["healthcheck"]["test"]
    assert test[:3] == ["CMD", "python", "-m"]
    module = ROOT / (test[3].replace(".", "/") + ".py")
    assert 'if __name__ == "__main__":' in module.read_text(encoding="utf-8")


def test_every_published_port_is_of_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_only_the_links_join_the_edges_network_with_the_clouds() -> None:
    members = {
        network: {name for name, service in SERVICES.items() if network in service["networks"]}
        for network in COMPOSE["networks"]
    }
    assert members == {"lan": {"edge-a", "edge-b", "client"} | LINKS, "wan": {"cloud"} | LINKS}
    assert COMPOSE["networks"]["wan"]["internal"] is True
    assert all(service.get("networks") for service in SERVICES.values()), "the default network joins them too"


@pytest.mark.parametrize("edge", ["edge-a", "edge-b"])
def test_an_edge_lives_without_the_cloud(edge: str) -> None:
    reached, waiting = set(), {edge}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= set(SERVICES[name].get("depends_on", {})) - reached
    assert "cloud" not in reached


def test_the_client_waits_for_all() -> None:
    conditions = {name: how["condition"] for name, how in SERVICES["client"]["depends_on"].items()}
    assert conditions == dict.fromkeys(NODES | LINKS, "service_healthy")


def test_the_image_runs_as_nobody_and_has_its_dependencies_in_a_layer_of_their_own() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.M)
    base, *images = [stage for stage in stages if re.match(r"\S+ AS base|base AS", stage)]
    assert "USER 10001" in base.splitlines()
    assert any(re.fullmatch(r'CMD \[".*"\]', line) for line in base.splitlines())
    assert [image.split()[2] for image in images] == ["laboratory", "node"], "the last one is what compose builds"
    for image in images:
        assert all(line.startswith("COPY --from=") for line in image.splitlines()[1:] if line), "images only copy"
    installed = DOCKERFILE.index("--requirement requirements.txt")
    assert installed < DOCKERFILE.index("COPY . .")


@pytest.mark.parametrize("feature", ["# syntax=", "--mount=", "--chmod", "<<"])
def test_both_builders_take_the_dockerfile(feature: str) -> None:
    assert feature not in DOCKERFILE


def test_the_builder_sees_what_is_installed_and_nothing_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == {
        *("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "branchynet", "edge_node", "cloud_node"),
        *("protos", "orchestrator", "simulations", "cli"),
    }
    assert all((ROOT / name).exists() for name in allowed)
