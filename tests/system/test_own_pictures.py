"""A folder of pictures: a model gets exits on it, and the other commands take the artifact with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from picture_folders import CLASSES, pictures, write_classes
from typer.testing import CliRunner

from branchynet.artifact.artifact import Artifact
from branchynet.errors import InvalidInput
from cli.main import app
from orchestrator.nodes.build import build
from orchestrator.nodes.local import Processes
from simulations.model.scenario import Scenario

MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(8, 16, 3, 2), nn.ReLU())
    return nn.Sequential(first, second, nn.Flatten(), nn.Linear(16 * 6 * 6, 3))
"""


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    if result.exception is not None:
        raise result.exception
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos/train`, `photos/test`, pictures without labels in `flat`, and the artifact `mine`."""
    folder = tmp_path_factory.mktemp("pictures")
    write_classes(folder / "photos" / "train", 0, 40)
    write_classes(folder / "photos" / "test", 40, 60)
    (folder / "photos" / "train" / "bag" / "broken.jpg").write_bytes(b"no picture")
    (folder / "flat").mkdir()
    for number, (_, _, content) in enumerate(pictures(60, 64)):
        (folder / "flat" / f"{number}.jpg").write_bytes(content)
    (folder / "model.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        given = ("--size", 32, "--after", 0, "--joint", "--epochs", 4, "--accuracy-drop", 2, "--calibration-images", 30)
        normalised = ("--mean", "0.3", "--std", "0.35,0.35,0.35")
        made = run(
            *("attach", folder / "model.py:build", "--data", folder / "photos" / "train", *given, *normalised),
            *("--out", folder / "mine"),
        )
    assert "(3 class folders)" in made
    return folder


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def test_the_artifact_is_of_the_folder(folder: Path) -> None:
    manifest = Artifact.open(folder / "mine").manifest
    assert (manifest.dataset, manifest.labels) == ("photos", tuple(CLASSES))
    assert manifest.architecture.input_shape == (3, 32, 32)
    assert manifest.normalisation.mean == (0.3, 0.3, 0.3)
    held_out = manifest.recipe["calibration_images"]
    assert 20 <= held_out <= 40
    assert len(manifest.recipe["held_out"]) == 8 * held_out


def test_it_is_measured_on_the_test_pictures_and_on_no_others(folder: Path) -> None:
    few = ("--timing-images", 2, "--passes", 1, "--json", folder / "found.json")
    run("evaluate", folder / "mine", "--data", folder / "photos", *few)
    figures = json.loads((folder / "found.json").read_text())
    assert (figures["dataset"], figures["images"]) == ("photos", 60)
    assert figures["early_exit"]["accuracy"] > 0.5
    with pytest.raises(InvalidInput, match="name their folder with --data"):
        run("evaluate", folder / "mine")
    with pytest.raises(InvalidInput, match="holds pictures without labels"):
        run("evaluate", folder / "mine", "--data", folder / "flat")


def test_thresholds_come_from_the_pictures_that_were_held_out(folder: Path) -> None:
    held_out = Artifact.open(folder / "mine").manifest.recipe["calibration_images"]
    printed = run("calibrate", "--artifact", folder / "mine", "--data", folder / "photos")
    assert f"{held_out} held-out training images" in printed
    with pytest.raises(InvalidInput, match=f"{held_out} of the {held_out} pictures that were held out when mine"):
        run("calibrate", "--artifact", folder / "mine", "--data", folder / "photos" / "test")
    same = ("--data", folder / "photos" / "train", "--halvings", 2)
    assert "without a test set" in run("study", "criteria", folder / "mine", *same)


def test_pictures_without_labels_do_where_accuracy_is_not_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.profiling.local_profile.FEW_REQUESTS", 6)
    monkeypatch.setattr("orchestrator.profiling.local_profile.ROUNDS", 2)
    at = ("--artifact", folder / "mine", "--data", folder / "flat")
    assert "on 12 images of" in run("profile", *at, "--codecs", "uint8+zstd", "--out", folder / "profile.json")
    planned = run("plan", *at, "--profile", folder / "profile.json", "--uplink", 5, "--rtt", 20)
    assert "WITHOUT LABELS: right is what the final exit says" in planned
    few = ("--orders", 1, "--clean-orders", 1)
    assert "WITHOUT LABELS" in run("study", "drift", folder / "mine", "--data", folder / "flat", *few)


async def test_folders_are_classified_and_their_accuracy_is_shown(folder: Path, tmp_path: Path) -> None:
    (folder / "photos" / "test" / "bag" / "broken.jpg").write_bytes(b"no picture")
    scenario, backing = Scenario(artifact=str(folder / "mine")), Processes(tmp_path / "logs")
    async with build(scenario, backing) as nodes:
        at = ("--edge", nodes.targets[0])
        printed = run("classify", folder / "photos" / "test", *at, "--json", tmp_path / "answers.json")
        assert "of 60 images with a known class" in printed
        assert "images of it" in printed  # the table of classes, in place of 60 rows
        answers = json.loads((tmp_path / "answers.json").read_text())["answers"]
        right = sum(answer["class"] == answer["true_class"] for answer in answers)
        assert f"accuracy: {100 * right / 60:.2f} %" in printed
        assert right > 30
        printed = run("classify", folder / "flat", folder / "flat" / "3.jpg", *at, "--json", tmp_path / "answers.json")
        assert "accuracy" not in printed
        answers = json.loads((tmp_path / "answers.json").read_text())["answers"]
        assert len(answers) == 13
        [found] = [answer for answer in answers[:-1] if answer["image"] == "3.jpg"]
        assert found["probabilities"] == answers[-1]["probabilities"]


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no data": (("--after", "0", "--out", "x"), "name the folder of your own pictures with --data"),
    "a size that is none": (("--size", "big"), "--size is 'big'"),
    "a size of a known set": (("--size", "32", "--dataset", "mnist"), "mnist has its own size"),
    "only one moment": (("--after", "0", "--out", "x", "--mean", "0.5"), "give both or neither"),
    "too few moments": (("--after", "0", "--out", "x", "--mean", "0.5,0.5", "--std", "1"), "it must be 3 numbers"),
    "no deviation": (("--after", "0", "--out", "x", "--mean", "0.5", "--std", "0"), "--std is 0"),
    "no pictures": (("--after", "0", "--out", "x", "--data", "."), "--dataset names a known data set"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused(mistake: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, words = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BRANCHYNET_DATA", raising=False)
    with pytest.raises(InvalidInput) as caught:
        run("attach", folder / "model.py:build", *arguments)
    assert words in str(caught.value)


def test_cuts_are_listed_without_any_picture(folder: Path) -> None:
    assert "8×14×14" in run("attach", folder / "model.py:build", "--size", "32x32")
