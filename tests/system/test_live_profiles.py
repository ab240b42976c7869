"""Nodes that run already are profiled and planned for; plans of the grid are measured with real nodes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running_programs import program
from test_evaluate import write_data
from typer import Typer
from typer.testing import CliRunner

from benchmarks.plan_grid.__main__ import app as plan_grid
from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.artifact.profile_file import read_profile, write_profile
from branchynet.data.datasets import load_sample
from branchynet.errors import InvalidInput
from branchynet.placement.serving_profile import CodecCost, ServingProfile, StageTimes
from cli.main import app

# Several nodes are started, each of which loads torch.
pytestmark = pytest.mark.timeout(300)

TIMES = StageTimes((1,), ((1.0,), (0.6,)))
CODECS = (CodecCost(1, "uint8+zstd", 800, 0.2, 0.1),)
PROFILE = ServingProfile(TIMES, TIMES, (0, 1), 1, 1.0, 1.5, (837, 4_534), 59, 134, CODECS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`: 400 shipped images as training images; `early`: the shipped network, which held out 100 of them."""
    folder = tmp_path_factory.mktemp("live")
    write_data(folder / "data" / "fashion-mnist", "train", load_sample().take(range(400)))
    shutil.copytree(zoo.find("lenet-fashion"), folder / "early")
    manifest = Artifact.open(folder / "early").manifest
    recipe = {**manifest.training["recipe"], "calibration_images": 100}
    Artifact.open(folder / "early").with_fields(training={"recipe": recipe}).save()
    return folder


def invoke(*arguments: object, command: Typer = app) -> tuple[str, int]:
    """What *command* prints, in one line, and how it ends."""
    result = CliRunner().invoke(command, list(map(str, arguments)), env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return " ".join(result.output.split()), result.exit_code


@pytest.mark.alone
def test_a_profile_of_live_nodes_is_one_to_plan_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.profiling.local_profile.FEW_REQUESTS", 12)
    monkeypatch.setattr("orchestrator.profiling.local_profile.ROUNDS", 3)
    out, figures_file = folder / "remote.json", folder / "figures.json"
    with (
        program("cloud_node", "--port", "0", "--control") as cloud_node,
        program("edge_node", "--port", "0", "--control", "--cloud", cloud := f"127.0.0.1:{cloud_node.ready()}") as node,
    ):
        edge = f"127.0.0.1:{node.ready()}"
        target = ("--edge", edge, "--cloud", cloud, "--codecs", "webp-80,uint8+zstd")
        words, _ = invoke("profile", *target, "--out", out, "--json", figures_file)
        far = ("--link-rtt-ms", "1000000", "--out", folder / "far.json")
        invoke("profile", *target, *far)
    profile, figures = read_profile(out), json.loads(figures_file.read_text())
    assert (profile.exit_stages, profile.held) == ((0, 1), 1)
    assert {(cost.cut, cost.codec) for cost in profile.codecs} == {(0, "webp-80"), (1, "uint8+zstd")}
    assert profile.message_bytes == PROFILE.message_bytes
    assert min(profile.request_ms, profile.offload_ms, profile.framing_bytes, profile.reply_bytes) > 0
    assert figures["nodes"]["edge"]["stages"] == [0, 1]
    assert "stages [1, 2) were not timed at the edge" in words
    assert read_profile(folder / "far.json").offload_ms == 0  # a link that long leaves nothing for the nodes
    given = ("-a", folder / "early", "--data", folder / "data", "--profile", out, "--json", folder / "plan.json")
    invoke("plan", *given, "--uplink", 5, "--rtt", 40)
    found = json.loads((folder / "plan.json").read_text())
    assert found["profile"]["edge"]["ms"] == [list(row) for row in profile.edge.ms]
    assert len(found["plans"]) >= 2


def test_points_of_the_grid_are_measured_beside_what_was_predicted(folder: Path) -> None:
    write_profile(folder / "profile.json", PROFILE)
    given = ("-a", folder / "early", "--data", folder / "data", "--profile", folder / "profile.json")
    live = ("--live", 2, "--requests", 10, "--logs", folder / "logs", "--json", folder / "grid.json")
    words, code = invoke(*given, *live, command=plan_grid)
    figures: dict[str, Any] = json.loads((folder / "grid.json").read_text())
    assert len(figures["points"]) == 48
    assert figures["least_margin"] == min(point["margin"] for point in figures["points"]) >= 1
    assert figures["mean_gain"] == pytest.approx(np.mean([point["gain"] for point in figures["points"]]))
    assert f"{figures['mean_gain']:.2f} on average" in words
    first, last = figures["live"]
    assert (first["slowdown"], first["rtt_ms"], first["uplink_mbps"]) == (1, 5, 0.25)
    assert (last["slowdown"], last["rtt_ms"], last["uplink_mbps"]) == (10, 200, 1_000)
    measured = [part for point in (first, last) for part in (point["chosen"], point["cloud_only"]) if part]
    assert len(measured) >= 3
    for part in measured:
        assert part["same_exits"] == 1
        assert len(part["latency_ms"]) == 10
        assert part["mean_ms"] == pytest.approx(np.mean(part["latency_ms"]), abs=1e-3)
        assert part["deviation"] == pytest.approx(part["predicted_ms"] / part["mean_ms"] - 1)
    assert last["cloud_only"]["mean_ms"] > 200  # the link is there
    assert figures["live_profiles"].keys() == {"1", "10"}
    assert code == int(any(abs(part["deviation"]) > 0.1 for part in measured))


def test_mistakes_are_refused_with_their_value(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="--edge is 'here:1' and --cloud None"):
        invoke("profile", "--edge", "here:1")
    with pytest.raises(InvalidInput, match="--engine is onnx; nodes that run already have their own"):
        invoke("profile", "--edge", "here:1", "--cloud", "there:2", "--engine", "onnx")
    with pytest.raises(InvalidInput, match="--held is 3; it must be 1, the artifact's cut, to 2"):
        invoke("-a", folder / "early", "--held", 3, command=plan_grid)
    with pytest.raises(InvalidInput, match="--live is 1; two points or more"):
        invoke("-a", folder / "early", "--live", 1, command=plan_grid)
