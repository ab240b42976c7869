"""`branchynet evaluate` and `branchynet models` on real artifacts: what they print, draw, record and refuse."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.artifact.manifest import Manifest
from branchynet.data import sources
from branchynet.data.datasets import Dataset, load_sample
from branchynet.data.formats import write_idx
from branchynet.data.sources import Remote
from branchynet.errors import BranchyNetError, Unavailable
from branchynet.evaluation.paper import TABLE_I
from branchynet.models.architectures import Architecture, build
from branchynet.network.normalisation import Normalisation
from cli.main import app

QUICK = ("--timing-images", "3", "--passes", "2")


def run(*arguments: str | Path) -> Result:
    """The command, which must succeed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None, result.output
    return result


def write_data(folder: Path, prefix: str, dataset: Dataset) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(write_idx(dataset.images[:, 0]))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(write_idx(dataset.labels.astype("uint8")))


def untrained(folder: Path, architecture: Architecture, like: Manifest, dataset: str) -> None:
    """An artifact of random weights for the data set *dataset*, otherwise as *like* says."""
    torch.manual_seed(0)
    network = build(architecture, Normalisation((0.3,), (0.35,))).eval()
    Artifact.create(
        folder, network, name=folder.name, architecture=architecture, labels=like.labels, dataset=dataset
    ).with_fields(training=like.training).save()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """400 shipped images as training images and 200 others as test images."""
    sample = load_sample()
    write_data(tmp_path / "data" / "fashion-mnist", "train", sample.take(range(400)))
    write_data(tmp_path / "data" / "fashion-mnist", "t10k", sample.take(range(400, 600)))
    return tmp_path / "data"


@pytest.fixture
def early(tmp_path: Path) -> Path:
    """A copy of the shipped network that says it held out 100 images."""
    folder = tmp_path / "early"
    shutil.copytree(zoo.find("lenet-fashion"), folder)
    manifest = Artifact.open(folder).manifest
    recipe = {**manifest.training["recipe"], "calibration_images": 100}
    Artifact.open(folder).with_fields(training={"recipe": recipe}).save()
    return folder


@pytest.fixture
def small(tmp_path: Path, early: Path) -> Path:
    """A plain network that knows nothing."""
    untrained(tmp_path / "small", Architecture("lenet-small", "plain"), Artifact.open(early).manifest, "fashion-mnist")
    return tmp_path / "small"


def test_both_engines_are_timed_and_the_figures_drawn(tmp_path: Path) -> None:
    file, picture = tmp_path / "table.json", tmp_path / "figures.svg"
    result = run("evaluate", "lenet-fashion", "--sample", "--engine", "best", *QUICK, "--plot", picture, "--json", file)
    figures = json.loads(file.read_text())
    assert figures["engine"] == "best"
    assert figures["command"].startswith("branchynet evaluate lenet-fashion --engine=best")
    assert set(figures["medians_ms"]) == {"eager", "onnx"}
    for name in ("trunk", "early_exit"):
        measured = {engine: medians[name] for engine, medians in figures["medians_ms"].items()}
        assert figures[name]["engine"] == min(measured, key=lambda engine: measured[engine])
        assert figures[name]["ms"] == pytest.approx(min(measured.values()), abs=1e-4)
    assert len(figures["early_exit"]["exit_ms"]) == 2
    against = figures["early_exit"]["against_trunk"]
    assert against["interval"][0] < against["difference"] < against["interval"][1]
    assert f"McNemar p = {against['p_value']:.2g}" in " ".join(result.output.split())
    assert picture.read_text().startswith("<?xml")


def test_baselines_are_measured_named_recorded_and_found_again(
    tmp_path: Path, data: Path, early: Path, small: Path
) -> None:
    before = Artifact.open(early).manifest
    file = tmp_path / "table.json"
    beside = ("--static", small, "--cascade", small)
    result = run("evaluate", early, "--data", data, *beside, *QUICK, "--record", "--json", file)
    figures = json.loads(file.read_text())
    static, cascade = figures["baselines"]["static"], figures["baselines"]["cascade"]
    assert static["accuracy"] < 0.3
    assert static["macs"] < figures["early_exit"]["macs"]
    assert static["verdict"].startswith("neither beats the other: less accurate")
    # It knows nothing, so the trunk is asked about nearly everything; it costs the trunk and more.
    assert cascade["accuracy"] > 0.8
    assert cascade["macs"] > 0.9 * figures["trunk"]["macs"]
    words = " ".join(result.output.split())
    assert f"static small: {static['verdict']}" in words
    assert f"cascade small: {cascade['verdict']}" in words

    after = Artifact.open(early).manifest
    assert after.content_hash == before.content_hash
    assert after.baselines == {"static": str(small), "cascade": str(small)}
    recorded = after.results["test"]
    assert (recorded["images"], recorded["accuracy"]) == (200, figures["early_exit"]["accuracy"])
    assert recorded["evaluation"]["baselines"]["static"]["accuracy"] == pytest.approx(static["accuracy"])
    assert recorded["evaluation"]["command"] == figures["command"]

    # No flag now: the manifest names them. One of them is away, and that is said.
    shutil.rmtree(small)
    words = " ".join(run("evaluate", "--artifact", early, "--data", data, *QUICK).output.split())
    assert "static: not measured, " in words
    assert "cascade: not measured, " in words


def test_a_plain_network_is_evaluated_too(tmp_path: Path, data: Path, small: Path) -> None:
    file, picture = tmp_path / "table.json", tmp_path / "figures.png"
    run("evaluate", small, "--data", data, *QUICK, "--plot", picture, "--json", file)
    early = json.loads(file.read_text())["early_exit"]
    assert (early["thresholds"], early["exit_shares"], early["gain_macs"]) == ([], [1.0], 1.0)
    assert early["against_trunk"]["difference"] == 0
    assert picture.stat().st_size > 10_000


def test_table_one_is_printed_beside_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paper = TABLE_I[0]
    like = dataclasses.replace(
        Artifact.open("lenet-mnist").manifest,
        training={"recipe": {"trunk_epochs": 3, "joint_epochs": 5}},
    )
    others = {name: zoo.find(name) for name in zoo.shipped() if not name.startswith("paper-")}
    monkeypatch.setattr(zoo, "_shipped", lambda: others)
    untrained(tmp_path / "runs" / paper.artifact / "artifact", paper.architecture, like, "mnist")
    write_data(tmp_path / "data" / "mnist", "t10k", load_sample().take(range(100)))
    file = tmp_path / "paper.json"
    result = run("study", "paper", "--data", tmp_path / "data", *QUICK, "--json", file)
    words = " ".join(result.output.split())
    rows = json.loads(file.read_text())["rows"]
    assert [row["artifact"] for row in rows] == [row.artifact for row in TABLE_I]
    ours = rows[0]["ours"]
    assert ours["paper_rule"]["thresholds"] == [0.025]
    assert ours["calibrated"]["exit_shares"] == [0.0, 1.0]
    assert ours["paper_rule"]["gain_macs"] < ours["paper_rule"]["gain_macs_without_heads"]
    assert "trained for 3 + 5 epochs where the release has 50 + 100" in words
    for row, known in zip(rows[1:], TABLE_I[1:], strict=True):
        assert row["ours"] is None
        assert row["paper"]["early_exit"]["accuracy"] == known.accuracy
        assert f"branchynet train --recipe {known.artifact}" in words
    assert words.count("ours: missing") == 2


def no_network(remote: Remote, folder: Path, *, progress: bool) -> Path:
    raise Unavailable(f"no way to {remote.urls[0]}")


def test_table_one_does_without_the_data_that_are_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "fetch", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_data(tmp_path / "data" / "mnist", "t10k", load_sample().take(range(100)))
    file = tmp_path / "paper.json"
    asked = ("study", "paper", "--data", str(tmp_path / "data"), *QUICK, "--json", str(file))
    words = " ".join(run(*asked).output.split())
    rows = {row["artifact"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows["paper-lenet-mnist"]["ours"]["images"] == 100
    assert rows["paper-lenet-mnist"]["missing"] is None
    assert rows["paper-alexnet-cifar10"]["ours"] is None
    assert "cifar10 test was not found" in rows["paper-alexnet-cifar10"]["missing"]
    assert "paper-alexnet-cifar10: cifar10 test was not found: looked for" in words
    shutil.rmtree(tmp_path / "data" / "mnist")
    refused = CliRunner().invoke(app, asked).exception
    assert isinstance(refused, Unavailable)
    assert "mnist test was not found" in str(refused), "with no data at all there is nothing to print"


def test_models_lists_what_is_shipped_and_what_runs_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(early, tmp_path / "runs" / "own" / "artifact")
    (tmp_path / "runs" / "unfinished").mkdir()
    file = tmp_path / "models.json"
    output = run("models", "--json", file).output
    rows = {row["name"]: row for row in json.loads(file.read_text())["models"]}
    assert set(rows) == {"own", *zoo.shipped()}
    assert rows["own"]["folder"] == "runs/own/artifact"
    shipped = rows["lenet-mnist"]
    assert shipped["interval"][0] < shipped["accuracy"] < shipped["interval"][1]
    assert shipped["gain_macs"] > 1
    for name in zoo.shipped():
        assert name in output


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "two names": (("lenet-mnist", "--artifact", "lenet-fashion"), "one of them is enough"),
    "a picture of no kind": (("--plot", "figure.pdf"), "figure.pdf"),
    "a record of a tenth": (("--sample", "--record"), "whole test set"),
    "another's sample": (("lenet-mnist", "--sample"), "lenet-mnist is for mnist"),
    "a baseline with exits": (("--sample", "--static", "lenet-mnist"), "lenet-mnist has 2 exits"),
    "no such baseline": (("--sample", "--cascade", "nothing"), "'nothing'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_with_their_value(mistake: str) -> None:
    arguments, words = MISTAKES[mistake]
    result = CliRunner().invoke(app, ["evaluate", *arguments, *QUICK])
    assert isinstance(result.exception, BranchyNetError)
    assert words in str(result.exception)


def test_codecs_are_tabled_with_their_messages_counted(data: Path, early: Path, tmp_path: Path) -> None:
    written = tmp_path / "codecs.json"
    printed = run("study", "codecs", early, "--data", data, "--json", written).output
    figures = json.loads(written.read_text())
    rows = {(row["cut"], row["codec"]): row for row in figures["codecs"]}
    assert "cut 0: 100.0 % of the images" in printed
    assert (figures["images"], figures["raw_bytes"]) == (200, 784)
    assert rows[0, "raw"]["payload_bytes"] == 784
    assert rows[1, "fp32"]["payload_bytes"] == 4_500
    assert rows[1, "fp32"]["accuracy_change"] == rows[0, "webp"]["accuracy_change"] == 0
    for row in rows.values():
        assert 20 < row["message_bytes"] - row["payload_bytes"] < 120
        assert row["mean_uplink_bytes"] == pytest.approx(row["message_bytes"] * row["offloaded"], abs=0.1)
    heads = {name: rows[1, name]["message_bytes"] - rows[1, name]["payload_bytes"] for name in ("uint8", "uint8+zstd")}
    assert heads["uint8+zstd"] - heads["uint8"] == pytest.approx(len("+zstd"), abs=0.2), "a name is part of the head"
