"""`branchynet attach`: from a file with a model to an artifact that nodes serve and the other commands take."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluate import write_data
from typer.testing import CliRunner

from branchynet.artifact.artifact import Artifact
from branchynet.client.client import AsyncClient
from branchynet.data.datasets import load_sample
from branchynet.data.preprocessing import Interpolation, Preprocessing, Resize
from branchynet.errors import BranchyNetError, InvalidInput, SettingsError
from branchynet.serving.prediction import Place
from cli.main import app
from orchestrator.nodes.build import build
from orchestrator.nodes.local import Processes
from simulations.model.scenario import Scenario

MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 8, 5, 2), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(8, 16, 3, 2), nn.ReLU())
    return nn.Sequential(first, second, nn.Flatten(), nn.Linear(16 * 5 * 5, 10))


number = 7


def makes_a_number():
    return number


def makes_half_precision():
    return build().half()


def needs_an_argument(width):
    return nn.Linear(width, 10)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.py`, and `data` with 600 shipped images to train on and 200 to test on."""
    folder = tmp_path_factory.mktemp("attach")
    (folder / "model.py").write_text(MODEL)
    sample = load_sample()
    write_data(folder / "data" / "fashion-mnist", "train", sample.take(range(600)))
    write_data(folder / "data" / "fashion-mnist", "t10k", sample.take(range(600, 800)))
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    if result.exception is not None:
        raise result.exception
    return result.output


def attach(folder: Path, *arguments: object, model: str = "model.py:build") -> str:
    data = ("--dataset", "fashion-mnist", "--data", folder / "data")
    return run("attach", f"{folder}/{model}", *data, "--calibration-images", 100, *arguments)


async def test_a_model_in_a_file_is_trained_served_and_taken_by_the_other_commands(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    how = ("--resize", "pad", "--interpolation", "bilinear", "--ground", "#010203")
    printed = attach(folder, "--after", "0", "--joint", "--epochs", 3, "--accuracy-drop", 2, "--out", out, *how)
    assert printed.count("of the held-out images, by exit") == 3
    artifact = Artifact.open(out)
    assert (artifact.manifest.name, artifact.manifest.dataset, artifact.manifest.stages) == ("mine", "fashion-mnist", 2)
    assert [len(part) for part in artifact.calibration_split(folder / "data")] == [500, 100]
    assert artifact.drift_reference is not None
    assert artifact.operating_points
    assert artifact.manifest.codec_ranges.keys() == {1}
    chosen = Preprocessing(Resize.PAD, Interpolation.BILINEAR, (1, 2, 3))
    assert artifact.manifest.preprocessing == chosen

    run("evaluate", out, "--data", folder / "data", "--timing-images", 5, "--passes", 1, "--json", out / "found.json")
    figures = json.loads((out / "found.json").read_text())
    assert figures["early_exit"]["accuracy"] > 0.5
    run(
        "calibrate", "--artifact", out, "--data", folder / "data", "--criterion", "margin", "--out", tmp_path / "margin"
    )
    tuned = Artifact.open(tmp_path / "margin").manifest
    assert (tuned.rule.criterion, tuned.preprocessing) == ("margin", chosen)

    training = ("--data", folder / "data", "--run", tmp_path / "run")
    assert "bytes an offload" in run("train", "--bottleneck", "--artifact", out, "--cut", 1, *training)
    assert Artifact.open(out).bottleneck(1).shape.form == "transform"

    images = load_sample().images[800:860]
    scenario, backing = Scenario(artifact=str(out)), Processes(tmp_path / "logs")
    async with build(scenario, backing) as nodes, AsyncClient(nodes.targets[0]) as edge:
        answers = await edge.classify(images)
        assert (await edge.describe()).preprocessing == chosen
    whole = artifact.runner().resume(images, 0, 2, artifact.manifest.rule)
    np.testing.assert_array_equal([answer.exit for answer in answers], whole.exits)
    assert {answer.place for answer in answers} <= {Place.EDGE, Place.CLOUD}


def test_the_frozen_model_answers_as_before(folder: Path, tmp_path: Path) -> None:
    attach(folder, "--after", "0", "--epochs", 1, "--out", tmp_path / "frozen")
    namespace: dict[str, object] = {}
    exec(compile(MODEL, "model.py", "exec"), namespace)
    model = namespace["build"]()  # type: ignore[operator]
    artifact, images = Artifact.open(tmp_path / "frozen"), load_sample().images[:20]
    pixels = artifact.manifest.normalisation(torch.from_numpy(images))
    expected = model.eval()(pixels).detach().numpy()
    runner = artifact.runner()
    features, _ = runner.run(0, images)
    np.testing.assert_allclose(runner.run(1, features)[1], expected, atol=1e-4)


def test_without_after_the_legal_cuts_are_listed(folder: Path) -> None:
    printed = attach(folder, "--exits", 1)
    assert "after" in printed
    assert "8×12×12" in printed
    assert "--after NAME" in printed
    assert "--out puts them --after 0" in printed


def test_without_after_the_exits_are_placed_by_macs_and_bytes(folder: Path, tmp_path: Path) -> None:
    printed = attach(folder, "--exits", 1, "--epochs", 1, "--precision", "fp16", "--out", tmp_path / "placed")
    assert "8×12×12" in printed
    manifest = Artifact.open(tmp_path / "placed").manifest
    assert (manifest.cut_shapes, manifest.weights) == ([(1, 28, 28), (8, 12, 12)], "fp16")


def test_weights_of_its_own_and_a_new_classifier(folder: Path, tmp_path: Path) -> None:
    """As of a model that was trained on other classes: what it knows stays, only the last layer is new."""
    namespace: dict[str, object] = {}
    exec(compile(MODEL.replace("* 5, 10)", "* 5, 4)"), "model.py", "exec"), namespace)
    model = namespace["build"]()  # type: ignore[operator]
    with torch.no_grad():
        model[0][0].bias += 1
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    (tmp_path / "four.py").write_text(MODEL.replace("* 5, 10)", "* 5, 4)"))
    given = ("--dataset", "fashion-mnist", "--data", folder / "data", "--calibration-images", 100, "--epochs", 8)
    asked = ("attach", tmp_path / "four.py:build", "--weights", tmp_path / "mine.pth", "--after", "0", *given)
    with pytest.raises(InvalidInput, match=r"gives 4 logits, classes is 10.*--new-classifier"):
        run(*asked, "--out", tmp_path / "no")
    run(*asked, "--new-classifier", "--out", tmp_path / "yes")
    artifact = Artifact.open(tmp_path / "yes")
    assert len(artifact.manifest.labels) == 10
    images = load_sample().images[:20]
    expected = model.eval()[0](artifact.manifest.normalisation(torch.from_numpy(images))).detach().numpy()
    np.testing.assert_allclose(artifact.runner().run(0, images)[0], expected, atol=1e-4)
    assert artifact.manifest.results["calibration"]["accuracy"] > 0.5


MISTAKES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "no callable": ("model.py", ("--after", "0", "--out", "x"), "is not FILE.py:CALLABLE"),
    "no file": ("nothing.py:build", ("--after", "0", "--out", "x"), "there is no file"),
    "no such name": ("model.py:built", ("--after", "0", "--out", "x"), "no callable 'built'"),
    "nothing to call": ("model.py:number", ("--after", "0", "--out", "x"), "no callable 'number'"),
    "no model": ("model.py:makes_a_number", ("--after", "0", "--out", "x"), "makes is a int"),
    "half precision": ("model.py:makes_half_precision", (), "call model.float()"),
    "an argument": ("model.py:needs_an_argument", (), "missing 1 required positional argument: 'width'"),
    "no folder": ("model.py:build", ("--after", "0"), "--out is missing"),
    "no colour": ("model.py:build", ("--ground", "dirt"), "--ground is 'dirt'"),
    "no such submodule": ("model.py:build", ("--after", "layer9", "--out", "x"), "layer9"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_with_their_value(folder: Path, mistake: str) -> None:
    model, arguments, words = MISTAKES[mistake]
    with pytest.raises(InvalidInput) as caught:
        attach(folder, *arguments, model=model)
    assert words in str(caught.value)


FILES: dict[str, tuple[str, type[BranchyNetError], str]] = {
    "no Python": ("def build(:\n", InvalidInput, "SyntaxError"),
    "a line that raises": ("\n\nint('x')\n", InvalidInput, "line 3: ValueError: invalid literal"),
    "a package that is not there": ("import no_such_package\n", SettingsError, "needs no_such_package"),
    "torchvision of another build": ("import torchvision\n", SettingsError, "pip install torch=="),
}


@pytest.mark.parametrize("fault", FILES)
def test_what_the_file_itself_raises_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    text, kind, words = FILES[fault]
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(kind) as caught:
        run("attach", f"{tmp_path}/mine.py:build")
    assert words in str(caught.value)
