"""The wheel holds everything that a program needs, and what it installs runs without this checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from running_programs import ROOT, program

PACKAGES = ("branchynet", "edge_node", "cloud_node", "protos", "orchestrator", "simulations", "cli")
CONTENTS = (
    "branchynet/py.typed",
    "branchynet/sample/fashion-mnist-test-1000-images.idx.gz",
    "branchynet/sample/fashion-mnist-test-1000-labels.idx.gz",
    "protos/split_inference.proto",
    "protos/split_inference_pb2.py",
    "protos/split_inference_pb2.pyi",
    "protos/split_inference_pb2_grpc.py",
)
NETWORKS = [str(path.relative_to(ROOT)) for path in (ROOT / "branchynet" / "zoo").glob("*/*")]


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    # Where there is no index, say so soon.
    environment = {**os.environ, "PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "10"}
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env=environment)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what belongs to the project, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    arguments = ("wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
    built = pip(*arguments)
    if built.returncode != 0:
        # Without an index, the setuptools of this environment must do.
        alone = pip(*arguments, "--no-build-isolation")
        if alone.returncode != 0:
            message = f"no wheel can be built here: {built.stderr[-500:]} {alone.stderr[-500:]}"
            if "No module named 'setuptools'" in alone.stderr or "Cannot import 'setuptools" in alone.stderr:
                pytest.skip(message)
            pytest.fail(message)
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_holds_code_stubs_protos_sample_and_networks(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        scripts = next(name for name in names if name.endswith("entry_points.txt"))
        assert "branchynet = cli.main:main" in archive.read(scripts).decode()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert {name.split("/")[2] for name in NETWORKS} == {"lenet-fashion", "modern-alexnet-cifar10"}
    assert sum(sizes[name] for name in NETWORKS) < 5_000_000
    assert wheel.stat().st_size < 6_000_000
    for name in [*CONTENTS, *NETWORKS]:
        assert name in names
        assert sizes[name] == (ROOT / name).stat().st_size
    expected = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert expected <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)


def test_the_installed_wheel_runs_the_demonstration_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    installed = pip("install", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    assert installed.returncode == 0, installed.stderr
    environment = {"PYTHONPATH": str(site)}
    where = "import branchynet, protos, edge_node, cli; print(branchynet.__file__, protos.__file__, edge_node.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=elsewhere,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert all(Path(file).is_relative_to(site) for file in found.stdout.split())
    arguments = ("demo", "--images", "30", "--edges", "1", "--out", "figures")
    with program("cli.main", *arguments, cwd=elsewhere, env=environment) as running:
        code, _, err = running.wait(110)
        running.assert_nothing_left(within_s=1)
    assert (code, err) == (0, "")
    rows = json.loads((elsewhere / "figures" / "demo.json").read_text())["rows"]
    assert [row["requests"] for row in rows] == [30, 30, 30]
