"""`branchynet train --bottleneck` gives an artifact a codec of its own, which the other commands then know."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_evaluate import run, write_data
from typer.testing import CliRunner

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import load_sample
from branchynet.errors import BranchyNetError
from cli.main import app

FORM = ("channels=2", "levels=3", "kernel=3", "stride=2", "hidden=0", "width=8", "blocks=0")
SMALL = [part for value in ("passes=1", "epochs=1", *FORM) for part in ("--set", value)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """300 shipped images as training images, and 100 others as test images."""
    sample = load_sample()
    write_data(tmp_path / "data" / "fashion-mnist", "train", sample.take(range(300)))
    write_data(tmp_path / "data" / "fashion-mnist", "t10k", sample.take(range(300, 400)))
    return tmp_path / "data"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A copy of the shipped network that has no bottleneck, and says it held out 100 images."""
    folder = tmp_path / "plain"
    shutil.copytree(zoo.find("lenet-fashion"), folder)
    manifest = Artifact.open(folder).manifest
    recipe = {**manifest.training["recipe"], "calibration_images": 100}
    Artifact.open(folder).with_fields(
        training={"recipe": recipe},
        bottlenecks={},
        graphs={name: digest for name, digest in manifest.graphs.items() if not name.startswith("bottleneck")},
    ).save()
    return folder


def test_a_bottleneck_is_trained_recorded_and_found_by_the_other_commands(
    data: Path, plain: Path, tmp_path: Path
) -> None:
    out, file = tmp_path / "out", tmp_path / "figures.json"
    train = ("train", "--bottleneck", "--artifact", plain, "--data", data, "--run", tmp_path / "run")
    printed = run(*train, *SMALL, "--out", out, "--json", file).output
    figures = json.loads(file.read_text())
    assert (figures["cut"], figures["images"], figures["encoder_macs"]) == (1, 100, 2 * 8 * 8 * 5 * 9)
    assert f"{figures['payload_bytes']:.0f} bytes an offload" in " ".join(printed.split())
    before, after = Artifact.open(plain).manifest, Artifact.open(out).manifest
    assert after.content_hash == before.content_hash
    assert after.files == before.files
    assert set(before.bottlenecks) == set()
    assert set(after.bottlenecks) == {1}
    assert after.training["bottlenecks"]["1"]["command"].startswith(
        "branchynet train --bottleneck --artifact lenet-fashion --cut 1 --set passes=1"
    )
    assert after.training["bottlenecks"]["1"]["recipe"]["augmentation"] == after.training["recipe"]["augmentation"]

    # In its own place, from where it is.
    run("train", "--bottleneck", "-a", out, "--data", data, "--run", tmp_path / "again", "--go-on", *SMALL)
    further = Artifact.open(out).manifest
    assert further.bottlenecks[1].digest != after.bottlenecks[1].digest
    assert further.training["bottlenecks"]["1"]["went_on_from"] == after.training["bottlenecks"]["1"]

    run("study", "codecs", out, "--data", data, "--json", file)
    rows = {(row["cut"], row["codec"]): row for row in json.loads(file.read_text())["codecs"]}
    assert 4 < rows[1, "bottleneck"]["payload_bytes"] < 2 * 8 * 8 * 1.6 / 8 + 8


MISTAKES = {
    "no such value": (("--set", "depth=3"), "--set depth=3: the recipe has augmentation, batch_size"),
    "no number": (("--set", "epochs=many"), "'many' is no int"),
    "no form": (("--set", "levels=1"), "levels is 1"),
    "nothing to go on from": (("--go-on",), "no bottleneck was trained for this cut"),
    "no cut": (("--cut", "2"), "cut is 2"),
}


@pytest.mark.parametrize("option", [("--set", "epochs=1"), ("--cut", "1"), ("--go-on",)])
def test_what_is_for_bottlenecks_is_refused_elsewhere(option: tuple[str, ...], data: Path) -> None:
    result = CliRunner().invoke(app, ["train", "--data", str(data), *option])
    assert isinstance(result.exception, BranchyNetError), result.output
    assert f"{option[0]} is for --bottleneck" in str(result.exception)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_with_their_value(mistake: str, data: Path, plain: Path, tmp_path: Path) -> None:
    arguments, words = MISTAKES[mistake]
    given = ["train", "--bottleneck", "-a", plain, "--data", data, "--run", tmp_path / "run", *SMALL, *arguments]
    result = CliRunner().invoke(app, [str(argument) for argument in given])
    assert isinstance(result.exception, BranchyNetError), result.output
    assert words in str(result.exception)
