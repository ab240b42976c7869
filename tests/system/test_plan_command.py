"""`branchynet plan` on the shipped network: what it prints, writes, draws and refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from test_evaluate import write_data
from typer.testing import CliRunner

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.artifact.plan_file import read_plan_file
from branchynet.artifact.profile_file import write_profile
from branchynet.data.datasets import load_sample
from branchynet.errors import InvalidInput, Unavailable
from branchynet.placement.optimise import Constraints
from branchynet.placement.replanner import Replanner
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile, StageTimes
from cli.main import app
from cli.plots.plan_map import RTTS_MS, UPLINKS_MBPS, draw_map
from orchestrator.runs.plan_inputs import PlanInputs, PlanObjective, best_over_links

TIMES = StageTimes((1,), ((1.0,), (0.6,)))
CODECS = (
    CodecCost(0, "webp-80", 400, 1.0, 0.3),
    CodecCost(1, "uint8+zstd", 800, 0.2, 0.1),
    CodecCost(1, "uint4+zstd", 500, 0.2, 0.1),
)
PROFILE = ServingProfile(TIMES, TIMES, (0, 1), 1, 1.0, 1.5, (837, 4_534), 59, 134, CODECS)
LINK = ("--uplink", "5", "--rtt", "40")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`: 400 shipped images as training images; `early`: the shipped network, which held out 100 of them."""
    folder = tmp_path_factory.mktemp("plan")
    write_data(folder / "data" / "fashion-mnist", "train", load_sample().take(range(400)))
    shutil.copytree(zoo.find("lenet-fashion"), folder / "early")
    manifest = Artifact.open(folder / "early").manifest
    recipe = {**manifest.training["recipe"], "calibration_images": 100}
    Artifact.open(folder / "early").with_fields(training={"recipe": recipe}).save()
    write_profile(folder / "profile.json", PROFILE)
    return folder


@pytest.fixture(scope="module")
def inputs(folder: Path) -> PlanInputs:
    artifact = Artifact.open(folder / "early")
    network = artifact.runner(engine=artifact.reference_engine)
    return PlanInputs.of(artifact, network, artifact.calibration_split(folder / "data")[1], PROFILE)


def run(folder: Path, *arguments: object) -> tuple[str, dict[str, Any]]:
    """What it prints, in one line, and its figures."""
    given = ("-a", folder / "early", "--data", folder / "data", "--profile", folder / "profile.json")
    file = folder / "plan.json"
    command = ["plan", *map(str, given), *map(str, arguments), "--json", str(file)]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "160"})
    if result.exception is not None:
        raise result.exception
    return " ".join(result.output.split()), json.loads(file.read_text())


def test_the_best_plans_stand_beside_those_that_need_no_choice(folder: Path, inputs: PlanInputs) -> None:
    words, found = run(folder, *LINK, "--accuracy-drop", "2")
    rule, table = inputs.manifest.rule, inputs.table
    own = table.apply(rule)
    today, alone, cloud = (found["baselines"][name] for name in ("today", "edge only", "cloud only"))
    assert (today["cut"], today["codec"], today["thresholds"]) == (1, "fp32", list(rule.thresholds))
    assert (cloud["cut"], cloud["codec"]) == (0, "raw")
    assert today["accuracy"] == cloud["accuracy"] == pytest.approx(own.accuracy)
    assert today["exit_shares"] == cloud["exit_shares"] == pytest.approx(own.exit_shares)
    assert alone["accuracy"] == pytest.approx(table.correct[0].mean())
    assert (alone["mean_ms"], alone["uplink_bytes"]) == (2.0, 0)
    sent_ms = 8e-3 * (837 + 59) / 5
    assert cloud["mean_ms"] == pytest.approx(1.0 + 1.5 + 40 + sent_ms + 1.0 + 0.6 * own.exit_shares[1])

    ways = [(row["cut"], row["codec"], row["edge_only"]) for row in found["plans"]]
    assert 2 <= len(set(ways)) == len(ways) <= 5
    assert [row["mean_ms"] for row in found["plans"]] == sorted(row["mean_ms"] for row in found["plans"])
    floor = table.correct[-1].mean() - 0.02
    assert found["limits"]["accuracy"] == pytest.approx(floor)
    for row in found["plans"]:
        assert row["accuracy"] >= floor - 1e-6
        assert row["interval"][0] < row["accuracy"] < row["interval"][1]
        assert row["way"] in words
    for row in (*found["plans"], *found["baselines"].values()):
        assert f"{row['mean_ms']:.2f}" in words
        assert (row["accuracy"] < floor) == ("accuracy" in row["breaks"])
    assert "on 100 held-out images" in words


def test_sizes_are_those_of_the_images_that_are_offloaded(folder: Path, inputs: PlanInputs) -> None:
    costs = {(cost.cut, cost.codec): cost for cost in inputs.profile.codecs}
    assert set(costs) == {(0, "webp-80"), (1, "uint8+zstd"), (1, "uint4+zstd")}
    for cost in CODECS:
        measured = costs[cost.cut, cost.codec]
        assert (measured.encode_ms, measured.decode_ms) == (cost.encode_ms, cost.decode_ms)
        assert 0.5 * cost.message_bytes < measured.message_bytes < 1.5 * cost.message_bytes
    assert inputs.coded[1, "uint4+zstd"] is not inputs.table


def test_the_plans_for_an_edge_that_adapts_are_those_that_may_win(folder: Path, inputs: PlanInputs) -> None:
    file = folder / "plans.json"
    options = ("--edge-slowdown", "20", "--accuracy-drop", "2", "--held", "2", "--deadline-ms", "250", "--out", file)
    words, found = run(folder, *LINK, *options)
    plans = read_plan_file(file)
    assert f"{len(plans.candidates)} plans" in words
    assert (plans.artifact, plans.content_hash) == (inputs.manifest.name, inputs.manifest.content_hash)
    assert plans.guessed == Link(5.0, rtt_ms=40.0)
    assert plans.profile == TypeAdapter(ServingProfile).validate_python(found["profile"])
    assert plans.adaptation.deadline_ms == 250
    assert plans.adaptation.min_accuracy == found["limits"]["accuracy"]
    first = Replanner(plans.candidates, plans.profile, plans.guessed, plans.adaptation, 0.0).plan
    best = found["plans"][0]
    assert (first.cut, first.codec, first.edge_only) == (best["cut"], best["codec"], best["edge_only"])
    assert len({(way.cut, way.codec, way.edge_only) for way in plans.candidates.ways}) > 3


def test_limits_objectives_and_devices_are_obeyed(folder: Path) -> None:
    words, found = run(folder, *LINK, "--accuracy-drop", "100", "--max-ms", "60")
    assert found["plans"][0]["edge_only"]
    assert "no limit binds" in words
    assert [row["uplink_bytes"] for row in found["plans"]].count(0) == 1  # else each cut and codec were there unused
    fewest = ("--objective", "accuracy", "--max-bytes", "100", "--joules-per-ms", "0.003", "--joules-per-byte", "1e-6")
    words, found = run(folder, *LINK, *fewest)
    assert max(row["uplink_bytes"] for row in found["plans"]) <= 100
    assert all(row["joules"] > 0 for row in (*found["plans"], *found["baselines"].values()))
    assert "mJ" in words
    # An edge so slow that raw images win; of the codecs one is considered.
    words, found = run(folder, *LINK, "--edge-slowdown", "500", "--codecs", "uint8+zstd")
    assert (found["plans"][0]["cut"], found["plans"][0]["codec"]) == (0, "raw")
    assert [cost["codec"] for cost in found["profile"]["codecs"]] == ["uint8+zstd"]
    # An edge that may hold everything needs no cloud.
    words, found = run(folder, *LINK, "--held", "2", "--images", "60")
    assert found["plans"][0]["way"] == "edge only"
    assert found["images"]["count"] == 60


def test_a_profile_of_simulate_has_no_codecs_and_that_is_said(folder: Path, tmp_path: Path) -> None:
    write_profile(tmp_path / "plain.json", dataclasses.replace(PROFILE, codecs=()))
    words, found = run(folder, *LINK, "--profile", tmp_path / "plain.json")
    assert {row["codec"] for row in found["plans"]} <= {"raw", "fp32"}
    assert "no codecs: the profile has none" in words


def test_the_map_shows_the_best_plan_of_each_link(folder: Path, inputs: PlanInputs) -> None:
    picture = folder / "heat.png"
    words, found = run(folder, *LINK, "--accuracy-drop", "0", "--edge-slowdown", "20", "--plot", picture)
    assert str(picture) in words.replace(" ", "")
    assert picture.stat().st_size > 10_000
    winning = np.array(found["map"]["winning"])
    assert winning.shape == (len(RTTS_MS), len(UPLINKS_MBPS))
    candidates, profile = inputs.candidates(), inputs.profile.slower(edge=20)
    objective = PlanObjective("mean_ms", Constraints(found["limits"]["accuracy"]))
    for row, column in ((0, 0), (0, -1), (12, 18), (-1, 0), (-1, -1)):
        link = Link(float(UPLINKS_MBPS[column]), rtt_ms=float(RTTS_MS[row]))
        best = objective.best(objective.measures(candidates, profile, link))
        assert winning[row, column] == candidates.way[best]
    assert {found["map"]["ways"][way] for way in set(winning.flat)} >= {"edge only", "cut 0, raw"}


def test_a_link_without_a_plan_is_left_white_and_a_plot_is_always_the_same(tmp_path: Path, inputs: PlanInputs) -> None:
    candidates, links = inputs.candidates(), (np.array([0.25, 1000.0]), np.array([1.0, 300.0]))
    slow = inputs.profile.slower(edge=100)  # too slow to answer in 20 ms itself
    found = best_over_links(candidates, slow, PlanObjective("mean_ms", Constraints(max_mean_ms=20)), *links)
    assert found[0, 1] >= 0
    assert found[1].tolist() == [-1, -1]
    everywhere = np.resize(np.append(-1, np.arange(len(candidates.ways))), (len(RTTS_MS), len(UPLINKS_MBPS)))
    pictures = []
    for name in ("one.svg", "two.svg"):
        draw_map(everywhere, candidates.ways, 2, Link(5.0, rtt_ms=40.0), tmp_path / name, "all of them")
        pictures.append((tmp_path / name).read_text())
    assert pictures[0] == pictures[1]
    for words in ("edge only", "cut 0, raw", "cut 0, webp-80", "cut 1, uint4+zstd", "none within the limits"):
        assert f"<!-- {words} -->" in pictures[0]


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no rate": (("--uplink", "0", "--rtt", "40"), "uplink 0.0 Mbit/s"),
    "a round trip below nothing": (("--uplink", "5", "--rtt", "-1"), "round trip -1.0 ms"),
    "too much": ((*LINK, "--max-ms", "1"), "mean_ms <= 1;"),
    "more stages than there are": ((*LINK, "--held", "3"), "--held is 3; it must be 1, the artifact's cut, to 2"),
    "a codec that is none": ((*LINK, "--codecs", "uint8,mp3"), "'mp3'"),
    "a codec that was not measured": ((*LINK, "--codecs", "fp16"), "codec 'fp16' was not measured"),
    "energy without a model": ((*LINK, "--objective", "joules"), "joules are asked for"),
    "limits that no link keeps to": ((*LINK, "--max-ms", "60", "--out", "x.json"), "--out with a limit of mean_ms"),
    "a deadline of bytes": (
        (*LINK, "--objective", "uplink_bytes", "--deadline-ms", "9", "--out", "x.json"),
        "deadline_ms is 9.0 with the objective uplink_bytes",
    ),
    "a picture of no kind": ((*LINK, "--plot", "heat.pdf"), "heat.pdf"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes_are_refused_with_their_value(folder: Path, mistake: str) -> None:
    arguments, words = REFUSED[mistake]
    with pytest.raises(InvalidInput) as caught:
        run(folder, *arguments, "--images", "20")
    assert words in str(caught.value)


def test_a_profile_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    write_profile(tmp_path / "other.json", dataclasses.replace(PROFILE, exit_stages=(1,)))
    with pytest.raises(InvalidInput, match=r"exits after \(1,\), not \(0, 1\)"):
        run(folder, *LINK, "--profile", tmp_path / "other.json")


def test_images_that_are_not_here_are_asked_for(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchynet.data.sources.SYSTEM_FOLDERS", {})
    monkeypatch.setattr("branchynet.data.sources._MIRRORS", {"fashion-mnist": ()})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unavailable, match=r"fashion-mnist train was not found.*--data or BRANCHYNET_DATA"):
        run(folder, *LINK, "--data", tmp_path / "empty")
