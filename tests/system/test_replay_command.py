"""`branchynet study replay` on a link made here: what it prints, writes and refuses; and with real nodes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.plan_file import PlanFile, write_plan_file
from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.placement.candidates import Candidates
from branchynet.placement.plan import Plan
from branchynet.placement.replanner import Adaptation
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile, StageTimes
from cli.main import app

DEADLINE_MS = 200.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plans.json`: plans of the shipped network on a slow edge; `links`: one that dies for a while, and a note."""
    folder = tmp_path_factory.mktemp("replay")
    manifest = Artifact.open("lenet-fashion").manifest
    slow = StageTimes((1,), ((40.0,), (50.0,)))
    codecs = (CodecCost(1, "uint4+zstd", 500.0, 2.0, 0.1),)
    profile = ServingProfile(slow, slow.slower(0.02), (0, 1), 2, 3.0, 2.0, (837, 4_534), 60, 130, codecs)
    plans = [
        Plan(2, manifest.rule, edge_only=True),
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
    (folder / "links" / "older").mkdir()
    table = "sep=;\r\nTimestamp;NetworkMode;DL_bitrate;UL_bitrate\r\n"
    rows = ("0;5G;9;9", "20;5G;9000;5000", "40;LTE;9000;0", "60;5G;9000;5000,0")
    (folder / "dies.CSV.GZ").write_bytes(gzip.compress((table + "\r\n".join(rows)).encode("utf-8-sig")))
    (folder / "kbits.txt").write_text("0 0\n20 5000\n40 0\n60 5000\n")
    (folder / "doubtful").mkdir()
    (folder / "doubtful" / "kbits.txt").write_text("0 0\n20 5000\n40 0\n60 5000\n")
    return folder


def run(folder: Path, *arguments: object) -> tuple[str, dict[str, Any]]:
    """What it prints, in one line, and its figures."""
    file = folder / "replay.json"
    command = ["study", "replay", str(folder / "plans.json"), *map(str, arguments), "--json", str(file)]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "160"})
    if result.exception is not None:
        raise result.exception
    return " ".join(result.output.split()), json.loads(file.read_text())


def test_an_edge_that_adapts_stands_beside_the_best_and_the_worst_fixed_plan(folder: Path) -> None:
    words, found = run(folder, folder / "links", "--images", "200", "--plot", folder / "link.png")
    (trace,) = found["traces"]
    assert (trace["trace"], trace["requests"]) == ("links/dies.txt", 300)
    assert trace["taken"] == "rates from column 2 in Mbit/s, times from 1 in s"
    assert f"1 of 1 links: {trace['taken']}" in words
    notes, older = found["skipped"]
    assert notes["file"] == str(folder / "links" / "README")
    assert f"skipped {folder / 'links' / 'README'}: is no trace that can be read: none of its columns" in words
    assert older == {"file": str(folder / "links" / "older"), "reason": "a folder; name it to have it read"}
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


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("dies.CSV.GZ", ()),
        ("kbits.txt", ("--trace-unit", "kbit/s")),
        ("kbits.txt", ("--trace-column", "2", "--trace-unit", "kbps", "--trace-time-unit", "s")),
    ],
)
def test_the_same_link_gives_the_same_figures_however_it_is_written(
    folder: Path, file: str, said: tuple[str, ...]
) -> None:
    options = ("--images", "50", "--seconds", "30")
    plain = run(folder, folder / "links" / "dies.txt", *options)[1]["traces"]
    words, found = run(folder, folder / file, *options, *said)
    names = {"trace", "taken"}
    assert [{key: row[key] for key in row.keys() - names} for row in found["traces"]] == [
        {key: row[key] for key in row.keys() - names} for row in plain
    ]
    assert "in kbit/s" in words


@pytest.mark.timeout(300)
def test_real_nodes_stand_beside_the_simulation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.runs.adaptive_replay.WARM_UP", 4)
    for name in ("FEW_REQUESTS", "ROUNDS"):  # how slow the slow edge is, matters little here
        monkeypatch.setattr(f"orchestrator.profiling.local_profile.{name}", 12)
    options = ("--images", "50", "--seconds", "2", "--from", "14", "--live", "--out", folder / "out")
    words, found = run(folder, folder / "kbits.txt", "--trace-unit", "kbit/s", *options)
    assert "requests lost by the edge that adapts: 0" in words
    (pair,) = found["live"]
    assert pair["real"]["requests"] == pair["simulated"]["requests"] == 10
    names = [[row["name"] for row in part["fixed"]] for part in pair.values()]
    assert sorted(names[0]) == sorted(names[1])
    alone = {row["name"]: row for row in pair["real"]["fixed"]}["own rule, edge only"]
    assert alone["mean_ms"] > 40, "as slow as its profile"
    assert alone["bytes"] == 0


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "a start behind the end": (("links/dies.txt", "--from", "60"), "start_s is 60;"),
    "a folder without a link": (("empty",), "there is no recorded link in"),
    "a file that is no link": (("links/README",), "is no trace"),
    "a unit that must be said": (("kbits.txt",), "a mean of 3,333 Mbit/s; say their unit: --trace-unit Mbit/s or"),
    "one in a folder": (("doubtful",), "kbits.txt: its rates as Mbit/s make"),
    "a unit that is none": (("kbits.txt", "--trace-unit", "knots"), "the unit of a trace is 'knots'"),
    "a column that is none": (("dies.CSV.GZ", "--trace-column", "up"), "none of its columns is called 'up'"),
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
