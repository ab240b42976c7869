"""`branchynet simulate` as it is typed: one scenario, and sweeps."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from running_programs import program
from typer.testing import CliRunner

from branchynet import errors
from branchynet.artifact.profile_file import read_profile, write_profile
from branchynet.errors import DamagedData, InvalidInput, SettingsError
from branchynet.placement.serving_profile import ServingProfile, StageTimes
from cli.main import app
from simulations.sweep.results import Row
from simulations.sweep.sweep import Halves, Point, run_points

TIMES = StageTimes((1,), ((1.0,), (0.6,)))
PROFILE = ServingProfile(TIMES, TIMES, (0, 1), 1, 1.0, 1.5, (885, 4_603), 59, 134)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    write_profile(path, PROFILE)
    return path


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRANCHYNET_DATA", raising=False)


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["simulate", *map(str, arguments)], env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_ctrl_c_in_a_sweep_keeps_what_was_done_and_says_how_to_go_on(
    tmp_path: Path, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0

    def simulated(points: list[Point], halves: Halves) -> list[Row]:
        nonlocal done
        if done == 3:
            signal.raise_signal(signal.SIGINT)
        done += 1
        return run_points(points, halves)

    sweep = ("simulate", "--sweep", "uplink=1,10", "cut=1,2", "--no-ray", "--profile", profile, "--requests", "20")
    arguments = [*map(str, sweep), "--out", str(tmp_path), "--json", str(tmp_path / "sweep.json")]
    invoke(*arguments[1:])
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "sweep.json"}
    assert "results-partial.parquet" not in whole

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.runs.sweep.run_points", simulated)
        stopped = CliRunner().invoke(app, arguments)
    assert stopped.exit_code == 130
    said = f"branchynet: stopped: 3 of 8 simulations were done and are in {tmp_path / 'results-partial.parquet'}; "
    assert stopped.stderr.startswith(said)
    assert f"--profile {tmp_path / 'profile.json'}" in stopped.stderr
    rows = pq.read_table(tmp_path / "results-partial.parquet").to_pylist()
    assert rows == pq.read_table(tmp_path / "results.parquet").to_pylist()[:3]
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert (found["interrupted"], found["planned"], len(found["rows"])) == (True, 8, 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in whole} == whole

    invoke(*arguments[1:])
    assert not (tmp_path / "results-partial.parquet").exists()


def figures(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "simulate.json").read_text())
    return found


def test_a_sweep_as_it_is_typed(tmp_path: Path, profile: Path) -> None:
    """Several axes after one --sweep; the shell hands the stars on as they are."""
    out = tmp_path / "new" / "out"
    sweep = ("--sweep", "uplink=0.25:100:log3", "rtt=5,200", "cut=*", "threshold=*")
    more = (
        "--no-ray",
        "--profile",
        str(profile),
        "--requests",
        "50",
        "--out",
        str(out),
        "--json",
        str(out / "copy.json"),
    )
    with program("cli.main", "simulate", *sweep, *more, cwd=tmp_path) as running:
        code, printed, err = running.wait(110)
    assert (code, err) == (0, "")
    found = figures(out)
    assert json.loads((out / "copy.json").read_text()) == found
    assert found["samples"] == {"selection": 500, "reported": 500}
    assert found["scenario"]["workload"]["requests"] == 50
    rows = pq.read_table(out / "results.parquet").to_pylist()
    assert rows == found["rows"]
    assert {(row["uplink_mbps"], row["rtt_ms"]) for row in rows} == {(u, r) for u in (0.25, 5, 100) for r in (5, 200)}
    assert {row["cut"] for row in rows} == {0, 1, 2}
    for name in ("report.html", "results.parquet", "best_plans.png", "fronts.png", "simulate.json"):
        assert (out / name).stat().st_size > 1_000
        assert name in printed
    assert len(found["best_plans"]) == 2 * 6
    for best in found["best_plans"]:
        assert f"{best['mean_ms']:.1f} ms" in printed
    assert read_profile(out / "profile.json") == PROFILE


def test_axes_may_stand_after_one_sweep_each_and_beside_a_scenario(tmp_path: Path, profile: Path) -> None:
    scenario = tmp_path / "scene.toml"
    scenario.write_text("edges = 2\nseed = 3\n[link]\nrtt_ms = 70\n[workload]\nrequests = 20\n")
    invoke(scenario, "--sweep", "cut=1", "--sweep", "uplink=1,2", "threshold=0.5", "--no-ray", "--profile", profile,
           "--out", tmp_path / "out", "--edges", 3, "--rate", 9, "--accuracy-drop", 50)  # fmt: skip
    found = figures(tmp_path / "out")
    assert found["scenario"]["name"] == "scene"
    assert {row["rtt_ms"] for row in found["rows"]} == {70}
    assert {(row["edges"], row["rate_per_s"]) for row in found["rows"]} == {(3, 9)}
    assert found["accuracy_drop_points"] == 50
    assert len(found["rows"]) == 2 * (3 + 1)


def test_one_scenario(tmp_path: Path, profile: Path) -> None:
    printed = invoke("--profile", profile, "--requests", 300, "--edges", 2, "--seed", 5, "--out", tmp_path)
    found = figures(tmp_path)
    assert [row["setup"] for row in found["rows"]] == ["today's plan", "edge only", "cloud only"]
    assert found["images"] == 1_000
    for row in found["rows"]:
        assert row["requests"] == 600
        assert row["setup"] in printed
        assert f"{100 * row['accuracy']:.1f} %" in printed
        assert f"{row['latency_ms']['mean']:.1f}" in printed
    table = pq.read_table(tmp_path / "requests.parquet")
    assert table.num_rows == 600
    assert set(table["place"].to_pylist()) == {"edge", "cloud"}


def test_the_seed_decides(tmp_path: Path, profile: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        invoke("--profile", profile, "--requests", 100, "--seed", seed, "--out", tmp_path / name)
    assert figures(tmp_path / "a")["rows"] == figures(tmp_path / "b")["rows"]
    assert figures(tmp_path / "a")["rows"] != figures(tmp_path / "c")["rows"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["cut=*"], "'cut=*' looks like an axis; axes follow --sweep"),
        (["a.toml", "b.toml"], "not 2: a.toml, b.toml"),
        (["--sweep", "speed=3"], "'speed=3' is no axis"),
        (["--sweep", "cut=7"], "cut is 7"),
    ],
)
def test_refusals(tmp_path: Path, profile: Path, arguments: list[str], named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        invoke(*arguments, "--profile", profile, "--out", tmp_path)
    assert named in str(caught.value)


def test_fewer_edges_than_the_scenario_has_clouds(tmp_path: Path, profile: Path) -> None:
    scenario = tmp_path / "scene.toml"
    scenario.write_text("edges = 4\nclouds = 2\n")
    with pytest.raises(InvalidInput, match=r"2 clouds for 1 edges; at most one for each edge$"):
        invoke(scenario, "--edges", 1, "--profile", profile, "--out", tmp_path)


def test_a_profile_of_another_network_and_none_at_all(tmp_path: Path) -> None:
    other = StageTimes((1,), ((1.0,), (0.6,), (0.6,)))
    three = replace(PROFILE, edge=other, cloud=other, exit_stages=(0, 2), message_bytes=(1, 1, 1))
    write_profile(tmp_path / "other.json", three)
    with pytest.raises(InvalidInput, match="exits after"):
        invoke("--profile", tmp_path / "other.json", "--out", tmp_path)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DamagedData, match=r"bad\.json"):
        invoke("--profile", tmp_path / "bad.json", "--out", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ((), "pyarrow"),
        (("--sweep", "cut=1"), "pyarrow, plotly, ray"),
        (("--sweep", "cut=1", "--no-ray"), "pyarrow, plotly"),
    ],
)
def test_without_the_extra_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], missing: str
) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=rf"^{missing} is not installed: pip install 'branchynet\[simulate\]'"):
        invoke(*arguments, "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_large_scenario_is_simulated_cloud_by_cloud_and_reported_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"batches": [1], "ms": [[0.2], [0.4]]}
    profile = {"edge": stages, "cloud": stages, "exit_stages": [0, 1], "held": 1, "request_ms": 1.0, "offload_ms": 2.0}
    sizes = {"message_bytes": [900, 4600], "framing_bytes": 100, "reply_bytes": 200}
    (tmp_path / "profile.json").write_text(json.dumps({**profile, **sizes}))
    monkeypatch.setattr("cli.commands.simulate.BESIDE_BASELINES", 10_000)
    given = ("--profile", tmp_path / "profile.json", "--no-ray", "--edges", 1000, "--clouds", 2, "--requests", 30)
    printed = invoke(*given, "--seed", 5, "--out", tmp_path / "out")
    found = figures(tmp_path / "out")
    assert (found["nodes"], found["requests"], found["lost"], found["seed"]) == ("virtual", 30_000, 0, 5)
    assert found["peak_memory_mb"]["others"] == 0
    assert pq.read_metadata(tmp_path / "out" / "requests.parquet").num_rows == 30_000
    assert "1,000 virtual edges, 2 clouds" in printed
