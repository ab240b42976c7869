"""`branchynet profile` on real nodes: what it prints, and what it writes for other commands to read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.profile_file import read_profile
from branchynet.data.datasets import load_sample
from branchynet.errors import InvalidInput
from cli.commands.profile import _images
from cli.main import app
from cli.planning import codec_names


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["profile", *map(str, arguments)], env={"COLUMNS": "160"})
    if result.exception is not None:
        raise result.exception
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The command's words, its profile and its figures."""
    folder = tmp_path_factory.mktemp("profile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "orchestrator.profiling.local_profile.FEW_REQUESTS", 12
        )  # no figure of this file depends on how many
        patch.setattr("orchestrator.profiling.local_profile.ROUNDS", 3)
        words = invoke("--codecs", "webp-80,uint8+zstd", "--out", folder / "own.json", "--json", folder / "all.json")
    return SimpleNamespace(words=words, out=folder / "own.json", json=folder / "all.json")


def test_both_files_are_the_profile(profiled: SimpleNamespace) -> None:
    profile = read_profile(profiled.out)
    assert read_profile(profiled.json) == profile
    assert profile.edge.batches == profile.cloud.batches == (1, 8, 32)
    assert (profile.exit_stages, profile.held) == ((0, 1), 1)
    assert min(ms for device in (profile.edge, profile.cloud) for row in device.ms for ms in row) > 0
    by_name = {(cost.cut, cost.codec): cost for cost in profile.codecs}
    assert set(by_name) == {(0, "webp-80"), (1, "uint8+zstd")}
    assert by_name[0, "webp-80"].message_bytes < profile.message_bytes[0]
    assert by_name[1, "uint8+zstd"].message_bytes < profile.message_bytes[1] / 4
    assert min(min(cost.encode_ms, cost.decode_ms) for cost in profile.codecs) > 0


def test_the_figures_hold_all_that_is_printed(profiled: SimpleNamespace) -> None:
    figures: dict[str, Any] = json.loads(profiled.json.read_text())
    cost = Artifact.open("lenet-fashion").manifest.cost
    for row in figures["stages"]:
        counted = cost.stages[row["stage"]]
        assert row["macs"] == counted.trunk_macs + counted.head_macs
        assert row["parameters"] == counted.trunk_params + counted.head_params
        assert f"{row['parameters']:,}" in profiled.words
        for low, median, high in row["ms"].values():
            assert 0 < low <= median <= high
            assert f"{median:.2f} ({low:.2f} – {high:.2f})" in profiled.words
    # What stages take between requests is what they take one after the other, times the factor of the device.
    medians = {(row["node"], row["stage"]): row["ms"]["1"][1] for row in figures["stages"]}
    assert medians.keys() == {("edge", 0), ("cloud", 0), ("cloud", 1)}
    unheld = medians["cloud", 1] * medians["edge", 0] / medians["cloud", 0]
    for name, alone in (("edge", [medians["edge", 0], unheld]), ("cloud", [medians["cloud", 0], medians["cloud", 1]])):
        found = [row[0] for row in figures[name]["ms"]]
        assert found == pytest.approx(np.multiply(alone, figures[f"{name}_factor"]), rel=1e-3)
    assert "stages [1, 2) were not timed at the edge" in profiled.words
    for name, stages in (("edge", [0, 1]), ("cloud", [0, 2])):
        node = figures["nodes"][name]
        assert (node["stages"], node["engine"], node["threads"]) == (stages, "onnx", 1)
        assert node["peak_rss_bytes"] >= node["rss_bytes"] > 50 * 2**20  # a process with torch in it
    assert figures["images"]["count"] == 64
    assert "on 64 images of 1,000 of the 10,000 Fashion-MNIST test images" in profiled.words
    assert asdict(read_profile(profiled.out)).keys() <= figures.keys()


def test_calibrate_reads_what_was_written(profiled: SimpleNamespace, tmp_path: Path) -> None:
    from cli.commands.calibrate import _ms_by_exit

    profile = read_profile(profiled.json)
    ms = _ms_by_exit(Artifact.open("lenet-fashion").manifest, None, profiled.json, 5.0, 40.0)
    assert ms.tolist() == profile.ms_by_exit(1, 5.0, 40.0).tolist()


def test_stand_ins_are_said_to_be_stand_ins() -> None:
    same_shape = _images(Artifact.open("lenet-mnist"), None)
    assert same_shape.source.startswith("STAND-INS for mnist")
    assert same_shape.images.shape == (64, 1, 28, 28)
    pixels = _images(Artifact.open("alexnet-cifar10"), None)
    assert pixels.source.endswith("random pixels")
    assert pixels.images.shape == (64, 3, 32, 32)
    own = _images(Artifact.open("lenet-fashion"), None)
    assert own.source == load_sample().source
    assert len(set(own.labels.tolist())) == 10


def test_codecs_are_named_once_and_must_be_some() -> None:
    assert codec_names("uint8,webp,uint8,fp32") == ["uint8", "webp"]
    assert {"png", "uint4+mask+zstd"} < set(codec_names("all"))
    assert {"raw", "fp32"}.isdisjoint(codec_names("all"))
    with pytest.raises(InvalidInput, match="'mp3'"):
        invoke("--codecs", "uint8,mp3")
