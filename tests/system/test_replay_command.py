"""`branchynet replay` on a link made here: what it prints, writes, draws and refuses; and the same with real nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from branchynet import artifact
from branchynet.decisions.adaptation import Adaptation
from branchynet.decisions.candidates import Candidates
from branchynet.decisions.outcomes import OutcomeTable
from branchynet.decisions.plans import Plan
from branchynet.decisions.timing import CodecCost, Link, ServingProfile, StageTimes
from branchynet.errors import InvalidInput
from branchynet.models import zoo
from branchynet.plan_file import PlanFile, write_plan_file
from cli.main import app

DEADLINE_MS = 200.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plans.json`: plans of the shipped network on a slow edge; `links`: one that dies for a while, and a note."""
    folder = tmp_path_factory.mktemp("replay")
    manifest = artifact.read_manifest(zoo.find("lenet-fashion"))
    slow = StageTimes((1,), ((40.0,), (50.0,)))
    codecs = (CodecCost(1, "uint4+zstd", 500.0, 2.0, 0.1),)
    profile = ServingProfile(slow, slow.slower(0.02), (0, 1), 2, 3.0, 2.0, (837, 4_534), 60, 130, codecs)
    plans = [
        Plan(2, manifest.rule, local_only=True),
        Plan(0, manifest.rule),
        Plan(1, manifest.rule, codec="uint4+zstd"),
    ]
    table = OutcomeTable(np.zeros((2, 1, 10), np.float32), np.zeros(1, np.int64), np.ones(2))
    candidates = Candidates.given(plans, table, profile)
    adaptation = Adaptation(0.0, deadline_ms=DEADLINE_MS)
    file = PlanFile(manifest.name, manifest.content_hash, candidates, profile, Link(5.0, rtt_ms=40.0), adaptation)
    write_plan_file(folder / "plans.json", file)
    (folder / "links").mkdir()
    (folder / "links" / "dies.txt").write_text("0 0\n20 5\n40 0\n60 5\n")
    (folder / "links" / "README").write_text("what these are\n")
    return folder


def run(folder: Path, *arguments: object) -> tuple[str, dict[str, Any]]:
    """What it prints, in one line, and its figures."""
    file = folder / "replay.json"
    command = ["replay", str(folder / "plans.json"), *map(str, arguments), "--json", str(file)]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "160"})
    if result.exception is not None:
        raise result.exception
    return " ".join(result.output.split()), json.loads(file.read_text())


def test_an_edge_that_adapts_stands_beside_the_best_and_the_worst_fixed_plan(folder: Path) -> None:
    words, found = run(folder, folder / "links", "--images", "200", "--plot", folder / "link.png")
    (trace,) = found["traces"]
    assert (trace["trace"], trace["requests"]) == ("links/dies.txt", 300)
    fixed = {row["name"]: row for row in trace["fixed"]}
    assert {name for name in fixed if name.startswith("own rule")} == {
        f"own rule, {name}" for name in ("edge only", "cloud only", "today")
    }
    adaptive, best, worst = trace["adaptive"], fixed[trace["best"]], fixed[trace["worst"]]
    assert best["cost_ms"] == min(row["cost_ms"] for row in trace["fixed"] if row["accurate"])
    for row in (adaptive, best, worst):
        assert row["cost_ms"] == pytest.approx(row["mean_ms"] + DEADLINE_MS * (1 - row["in_time"]))
        assert f"{row['mean_ms']:.1f}" in words
    # A third of the time the link is dead: who always sends misses that, who never does is slow all the time.
    cloud, alone = fixed["own rule, cloud only"], fixed["own rule, edge only"]
    assert cloud["in_time"] < 0.75
    assert adaptive["in_time"] > 0.97
    assert adaptive["mean_ms"] < min(cloud["mean_ms"], alone["mean_ms"])
    assert 1 <= adaptive["changes"] <= 6
    assert trace["as_good"] == {"in_time": True, "mean_ms": True}
    assert found["summary"] == {
        "traces": 1,
        "as_many_in_time": 1,
        "as_quick": 1,
        "as_good": 1,
        "costs_less_than_best": 1,
        "above_worst": 1,
    }
    assert "1 of 1 links" in words
    assert (folder / "link.png").stat().st_size > 10_000


def test_the_same_requests_give_the_same_figures(folder: Path) -> None:
    options = (folder / "links" / "dies.txt", "--images", "50", "--seconds", "30", "--from", "10")
    assert run(folder, *options)[1] == run(folder, *options)[1]
    assert run(folder, *options)[1] != run(folder, *options, "--seed", "1")[1]


@pytest.mark.timeout(300)
def test_real_nodes_stand_beside_the_simulation(folder: Path) -> None:
    options = ("--images", "50", "--seconds", "4", "--from", "14", "--live", "--out", folder / "out")
    words, found = run(folder, folder / "links" / "dies.txt", *options)
    assert "requests lost by the edge that adapts: 0" in words
    (pair,) = found["live"]
    assert pair["real"]["requests"] == pair["simulated"]["requests"] == 20
    names = [[row["name"] for row in part["fixed"]] for part in pair.values()]
    assert sorted(names[0]) == sorted(names[1])
    alone = {row["name"]: row for row in pair["real"]["fixed"]}["own rule, edge only"]
    assert alone["mean_ms"] > 40, "as slow as its profile"
    assert alone["bytes"] == 0


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "a start behind the end": (("links/dies.txt", "--from", "60"), "--from is 60;"),
    "a folder without a link": (("empty",), "there is no recorded link in"),
    "a file that is no link": (("links/README",), "is no trace"),
    "another artifact": (("links/dies.txt", "-a", "lenet-mnist"), "lenet-mnist has"),
    "a picture of no kind": (("links/dies.txt", "--plot", "link.pdf"), "link.pdf"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes_are_refused_with_their_value(folder: Path, mistake: str) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    (path, *options), words = REFUSED[mistake]
    with pytest.raises(InvalidInput) as caught:
        run(folder, folder / path, *options)
    assert words in str(caught.value)
