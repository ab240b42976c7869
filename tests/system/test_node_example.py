"""The Node.js example against real nodes: what it prints is what the Python client is told."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from running_nodes import closed_port
from running_programs import ROOT, behind_proxy, program

from branchynet import Client
from branchynet.data.datasets import Dataset

EXAMPLE = ROOT / "examples" / "node"
LINE = re.compile(r"image (\d+): (\d+) (.+), exit (\d), (edge|cloud|fallback), (\d+) bytes up")
NO_REGISTRY = re.compile(
    r"ENOTFOUND|ENOTCACHED|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET|E403|E5\d\d"
)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the example, installed in a copy of its surroundings, so that nothing is left in the checkout."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    root = tmp_path_factory.mktemp("checkout")
    for name in ("protos", "branchynet"):
        (root / name).symlink_to(ROOT / name)
    folder = root / "examples" / "node"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "package-lock.json"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    limits = ["--fetch-retries=1", "--fetch-timeout=20000"]
    done = subprocess.run([*install, *limits], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode != 0:
        if away := NO_REGISTRY.search(done.stderr):
            pytest.skip(f"npm reaches no registry: {away.group()}")
        pytest.fail(f"npm install: {done.stderr[-2_000:]}")

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command, env = ["node", "classify.js", *arguments], {**os.environ, **(env or {})}
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture(scope="module")
def edge() -> Iterator[str]:
    """The target of a real edge that takes 64 images at once; its cloud is real, too."""
    with (
        program("cloud_node", "--port", "0") as cloud,
        program("edge_node", "--port", "0", "--cloud", f"127.0.0.1:{cloud.ready()}", "--max-batch", "64") as running,
    ):
        yield f"127.0.0.1:{running.ready()}"


def test_its_answers_are_those_of_the_python_client(node: Run, edge: str, sample: Dataset) -> None:
    done = node("--edge", edge, "--count", "40")
    assert (done.returncode, done.stderr) == (0, "")
    title, *lines = done.stdout.splitlines()
    with Client(edge) as client:
        served, answers = client.describe(), client.classify(sample.images[:40])
    assert title == f"{served.model} at {edge}"
    assert lines == [
        f"image {index}: {answer.label} {served.labels[answer.label]}, exit {answer.exit}, {answer.place}, "
        f"{answer.uplink_bytes} bytes up"
        for index, answer in enumerate(answers)
    ]
    assert {answer.place.value for answer in answers} == {"edge", "cloud"}


def test_it_prints_what_its_first_comment_shows(node: Run, edge: str) -> None:
    comment = re.findall(r"^//     (.*)$", (EXAMPLE / "classify.js").read_text(encoding="utf-8"), flags=re.M)
    shown = [line for line in comment if LINE.fullmatch(line)]
    assert len(shown) == 6
    assert node("--edge", edge).stdout.splitlines()[1:] == shown


def test_it_asks_no_proxy_for_the_web(node: Run, edge: str) -> None:
    with closed_port() as proxy:
        assert node("--edge", edge, env=behind_proxy(proxy)).stderr == ""


def test_it_reads_raw_pixels(node: Run, edge: str, sample: Dataset, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(sample.images[:3].tobytes())
    raw = node("--edge", edge, "--images", str(tmp_path / "raw"), "--count", "3")
    assert raw.stdout == node("--edge", edge, "--count", "3").stdout


def test_failures_name_status_and_value(node: Run, edge: str, tmp_path: Path) -> None:
    (tmp_path / "large.idx").write_bytes(np.array([0x803, 2, 32, 32], dtype=">u4").tobytes() + bytes(2 * 32 * 32))
    with closed_port() as port:
        failures = {
            "RESOURCE_EXHAUSTED: .*65 samples.*at most 64": ["--count", "65"],
            "UNAVAILABLE: ": ["--edge", f"127.0.0.1:{port}"],
            "ENOENT.*nowhere": ["--images", "nowhere"],
            "1,32,32.*1,28,28": ["--images", str(tmp_path / "large.idx"), "--count", "1"],
            "holds 1000 images, not 1001": ["--count", "1001"],
            "--count is 0": ["--count", "0"],
            "--deadline-ms is soon": ["--deadline-ms", "soon"],
        }
        for words, arguments in failures.items():
            done = node("--edge", edge, *arguments)
            assert (done.returncode, done.stdout) == (1, ""), done.stderr
            assert re.search(words, done.stderr)


def test_it_does_not_wait_longer_than_its_deadline(node: Run) -> None:
    # The system accepts for it, and nobody ever reads.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = node("--edge", f"127.0.0.1:{silent.getsockname()[1]}", "--deadline-ms", "800")
    assert done.returncode == 1
    assert done.stderr.startswith("DEADLINE_EXCEEDED: ")


def test_nothing_of_a_registry_is_committed() -> None:
    package = json.loads((EXAMPLE / "package.json").read_text(encoding="utf-8"))
    assert set(package["dependencies"]) == {"@grpc/grpc-js", "@grpc/proto-loader"}
    for left in ("node_modules/x", "package-lock.json"):
        ignored = subprocess.run(
            ["git", "check-ignore", "--quiet", f"examples/node/{left}"], cwd=ROOT, check=False, capture_output=True
        )
        if ignored.returncode == 128:
            pytest.skip("this is no git checkout")
        assert ignored.returncode == 0, left
