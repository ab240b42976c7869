"""What an edge without torch takes: installed, in memory, and until its first answer.

    python benchmarks/footprint.py [--artifact lenet-fashion] [--runs 5] [--image branchynet] [--json FILE]

An environment of its own is made with what `pip install branchynet` brings, nothing else. In it an edge is started
(`--cut` at all stages, so that it answers without a cloud), asked for one image, and its memory read while it serves:
PSS, which counts a page that several processes share once, and the private part of it. The image's size is that of
`docker build --tag branchynet .`, where a Docker engine answers and has one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
MB = 1e6
GOALS = {"start to first answer, s": 1.0, "PSS, MB": 150.0, "environment, MB": 250.0, "image, MB": 400.0}


def make_environment(folder: Path) -> Path:
    """A fresh environment with branchynet and what it needs, compiled as pip does; its python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), str(ROOT)], check=True)
    return python


def size_mb(folder: Path) -> float:
    """What the files under *folder* take on disk, without what Python itself puts into every environment."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files if not {"pip", "setuptools", "pkg_resources"} & {*path.parts}) / MB


def run_edge(python: Path, artifact: str, stages: int) -> dict[str, float]:
    """Start an edge, ask it once, read its memory, stop it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    command = ["edge", "--artifact", artifact, "--cut", str(stages), "--port", "0", "--engine", "onnx"]
    begun_s = time.perf_counter()
    edge = subprocess.Popen(
        [str(python.parent / "branchynet"), *command], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert edge.stdout is not None
        ready = json.loads(edge.stdout.readline())
        ready_s = time.perf_counter() - begun_s
        answered_s = ready_s + first_answer_s(ready["port"])
        memory = psutil.Process(edge.pid).memory_full_info()
        return {
            "start to ready, s": ready_s,
            "start to first answer, s": answered_s,
            "PSS, MB": memory.pss / MB,
            "private memory, MB": memory.uss / MB,
        }
    finally:
        edge.terminate()
        edge.wait(20)


def first_answer_s(port: int) -> float:
    """From the call to the first answer of a client that is already running: its own start is not the edge's."""
    from branchynet import Client
    from branchynet.data.datasets import load_sample

    image = load_sample().images[:1]
    begun_s = time.perf_counter()
    with Client(f"127.0.0.1:{port}") as client:
        client.classify(image)
    return time.perf_counter() - begun_s


def image_mb(image: str) -> float | None:
    """The size of a Docker *image*; None without an engine or an image of that name."""
    if shutil.which("docker") is None:
        return None
    asked = ["docker", "image", "inspect", "--format", "{{.Size}}", image]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return int(done.stdout) / MB if done.returncode == 0 else None


def measure(artifact: str, runs: int, image: str) -> dict[str, list[float]]:
    """Every figure of every run."""
    from branchynet.artifact.manifest import read_manifest
    from branchynet.artifact.zoo import find

    stages = read_manifest(find(artifact)).stages
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        python = make_environment(Path(folder) / "venv")
        figures["environment, MB"] = [size_mb(Path(folder) / "venv")]
        run_edge(python, artifact, stages)  # the first one reads every file from disk
        for _ in range(runs):
            for name, value in run_edge(python, artifact, stages).items():
                figures.setdefault(name, []).append(value)
    built = image_mb(image)
    if built is not None:
        figures["image, MB"] = [built]
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", default="lenet-fashion")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--image", default="branchynet")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    figures = measure(asked.artifact, asked.runs, asked.image)
    table = Table(title=f"An edge without torch, {asked.artifact}, {asked.runs} starts")
    for column in ("", "median", "least", "most", "goal"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in figures.items():
        goal = f"< {GOALS[name]:g}" if name in GOALS else ""
        table.add_row(name, *(f"{f(values):.2f}" for f in (statistics.median, min, max)), goal)
    Console().print(table)
    if asked.json:
        written: dict[str, Any] = {"artifact": asked.artifact, "runs": asked.runs, "figures": figures}
        asked.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
