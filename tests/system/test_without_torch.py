"""The shipped network is opened, served, asked and measured where torch and matplotlib cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from running_programs import ROOT

from branchynet.artifact.artifact import Artifact
from branchynet.client.client import AsyncClient
from branchynet.data.datasets import load_sample
from branchynet.network.runner import Engine
from branchynet.serving.prediction import Place
from orchestrator.nodes.build import build
from orchestrator.nodes.local import Processes
from simulations.model.scenario import PlanModel, Scenario

# Python runs a file of this name when it starts; after it, both are as good as not installed.
FORBIDDEN = """
import sys


class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "matplotlib"):
            raise ModuleNotFoundError(f"{name} is forbidden here", name=name)


sys.meta_path.insert(0, Without())
"""
MODULES = (
    "branchynet.artifact.artifact",
    "branchynet.client.client",
    "branchynet.evaluation.evaluation",
    "cloud_node.__main__",
    "edge_node.__main__",
    "cli.main",
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PYTHONPATH on which neither can be imported."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FORBIDDEN)
    return os.pathsep.join([str(tmp_path / "site"), str(ROOT)])


def run(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", MODULES)
def test_importing_what_serves_does_not_import_torch(module: str) -> None:
    done = run(str(ROOT), "-c", f"import sys, {module}; sys.exit('torch' in sys.modules)")
    assert (done.returncode, done.stderr) == (0, "")


def test_torch_is_really_away_and_the_message_says_how_to_get_it(path: str) -> None:
    assert "is forbidden here" in run(path, "-c", "import torch").stderr
    needed = f"from branchynet import Artifact; Artifact.open({str(ROOT / 'zoo/lenet-mnist')!r}).runner()"
    assert "torch is not installed: pip install 'branchynet[torch]'" in run(path, "-c", needed).stderr
    done = run(path, "-m", "cli.main", "train", "--recipe", "lenet-mnist")
    assert done.returncode == 2
    assert "torch is not installed: pip install 'branchynet[torch]'" in done.stderr


async def test_an_edge_and_its_cloud_answer_as_the_whole_does(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", path)
    images = load_sample().images[:40]
    scenario = Scenario(artifact="lenet-fashion", plan=PlanModel(codec="bottleneck"))
    async with build(scenario, Processes(tmp_path / "logs")) as nodes, AsyncClient(nodes.targets[0]) as edge:
        answers = [(await edge.classify(image[None]))[0] for image in images]
    assert {answer.place for answer in answers} == {Place.EDGE, Place.CLOUD}
    artifact = Artifact.open("lenet-fashion")
    exits = artifact.runner(engine=Engine.ONNX).resume(images, 0, 2, artifact.manifest.rule).exits
    np.testing.assert_array_equal([answer.exit for answer in answers], exits)


def test_the_demo_ends_well_where_it_cannot_draw(path: str, tmp_path: Path) -> None:
    done = run(path, "-m", "cli.main", "demo", "--images", "20", "--edges", "1", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "cloud only" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"demo.json", "logs"}


def test_accuracy_and_cost_are_measured_on_the_graphs(path: str, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    short = ("--sample", "--timing-images", "3", "--passes", "1", "--json", str(written))
    done = run(path, "-m", "cli.main", "evaluate", *short)
    assert done.returncode == 0, done.stderr
    figures = json.loads(written.read_text())
    assert figures["engine"] == "onnx"
    assert figures["early_exit"]["accuracy"] > 0.9
