"""Fleets of real nodes on Ray: every request is accounted for, whatever is killed, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from running_nodes import closed_port
from running_programs import Program, behind_proxy, program, until

from branchynet.data.datasets import Dataset
from branchynet.errors import InvalidInput, UnknownModel
from branchynet.network.runner import Engine
from orchestrator.nodes.build import build
from orchestrator.nodes.ray_cluster import ray_session
from orchestrator.nodes.ray_fleet import RayActors
from orchestrator.nodes.specs import check_real, specs_of
from orchestrator.runs.fleet import HostLoad, run_fleet
from simulations.link.traces import read_trace
from simulations.model.request_records import CLOUD, FALLBACK
from simulations.model.request_report import Report
from simulations.model.scenario import (
    CloudModel,
    EdgeGroup,
    Fault,
    Limits,
    LinkModel,
    Markov,
    PlanModel,
    Scenario,
    Workload,
    read_scenario,
)
from simulations.model.workload import all_requests

EXAMPLES = Path(__file__).parents[2] / "examples" / "scenarios"
# Each host is a process that imports torch first; several of them at once take their time on a busy machine.
pytestmark = pytest.mark.timeout(240)
SMALL = """
edges = 3
clouds = 2
[workload]
rate_per_s = {rate_per_s}
requests = {requests}
[link]
rtt_ms = 10
"""


def fleet(folder: Path, *arguments: str, rate_per_s: float = 20, requests: int = 30) -> tuple[str, ...]:
    scenario = folder / "small.toml"
    scenario.write_text(SMALL.format(rate_per_s=rate_per_s, requests=requests))
    return ("cli.main", "fleet", str(scenario), "--out", str(folder / "new" / "rows.parquet"), *arguments)


def test_every_request_of_a_run_has_a_row_and_the_figures_are_written(tmp_path: Path) -> None:
    asked = fleet(tmp_path, "--hosts", "1", "--json", str(tmp_path / "fleet.json"))
    # A proxy for the web that does not answer: nothing in a fleet goes there.
    with closed_port() as proxy, program(*asked, env=behind_proxy(proxy)) as running:
        code, printed, err = running.wait(110)
        assert (code, err) == (0, "")
        running.assert_nothing_left()
    rows = pq.read_table(tmp_path / "new" / "rows.parquet").to_pydict()
    assert sorted(rows["edge"]) == [0] * 30 + [1] * 30 + [2] * 30
    assert set(zip(rows["edge"], rows["cloud"], strict=True)) == {(0, 0), (1, 1), (2, 0)}
    assert set(rows["place"]) == {"edge", "cloud"}
    figures = json.loads((tmp_path / "fleet.json").read_text())
    assert (figures["nodes"], figures["requests"], figures["planned"]) == ("real", 90, 90)
    assert (figures["lost"], figures["retried"], figures["restarts"]) == (0, 0, 0)
    assert (figures["interrupted"], figures["edges"], figures["clouds"]) == (False, 3, 2)
    assert 0.7 < figures["accuracy"] <= 1
    assert figures["accuracy"] == np.mean(rows["correct"])
    assert [host["name"] for host in figures["hosts"]] == ["cloud host 0", "cloud host 1", "edge host 0"]
    answered = {name: count for host in figures["hosts"] for name, count in host["answered"].items()}
    assert {name: answered[name] for name in ("edge-0", "edge-1", "edge-2")} == {f"edge-{i}": 30 for i in range(3)}
    assert answered["cloud-0"] + answered["cloud-1"] == rows["place"].count("cloud")
    for text in ("small: 3 real edges, 2 clouds", "accuracy", "latency p99", "bytes up, a request", "retried"):
        assert text in printed
    assert "rows.parquet" in printed


async def test_hosts_that_die_or_hang_come_back_and_no_request_is_lost(
    sample: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud's host dies, one edge's hangs; at cut 0 every request needs both."""
    monkeypatch.setattr("orchestrator.nodes.ray_fleet.HUNG_POLLS", 2)
    scenario = Scenario(
        edges=2,
        workload=Workload(rate_per_s=10, requests=300),
        link=LinkModel(rtt_ms=5),
        plan=PlanModel(cut=0),
        limits=Limits(deadline_ms=60_000),
    )
    killed: list[int] = []
    up: list[int] = []

    def kill(loads: list[HostLoad]) -> None:
        up.append(sum(load.host.nodes_up for load in loads))
        if not killed and sum(load.answered for load in loads) > 20:
            for load in loads:
                fate = {"cloud host 0": signal.SIGKILL, "edge host 1": signal.SIGSTOP}.get(load.host.name)
                if fate is not None:
                    assert load.host.health is not None
                    killed.append(load.host.health.pid)
                    os.kill(load.host.health.pid, fate)

    with ray_session():
        run = await run_fleet(scenario, sample, 2, kill)
        # Before Ray goes: what runs beside a fleet, or after it on an attached cluster, finds the ports free.
        assert not [host for host in run.hosts if host.health and psutil.pid_exists(host.health.pid)]
    assert len(killed) == 2
    # What is shown begins before the first node is up.
    assert up[0] == 0
    assert max(up) == 3
    assert {host.name: host.restarts for host in run.hosts} == {"cloud host 0": 1, "edge host 0": 0, "edge host 1": 1}
    assert run.stopped_by is None
    records = run.records
    assert len(records) == 600
    assert Report.of(records, 60_000).lost == 0
    assert set(records.place.tolist()) == {CLOUD, FALLBACK}
    assert (records.attempts[records.edge == 0] == 1).all(), "only the requests of the host that hung are sent again"
    assert (records.attempts[records.edge == 1] > 1).any()
    # The edge that lived fell back meanwhile, and ends as it began.
    lived = records.place[records.edge == 0]
    assert lived[0] == lived[-1] == CLOUD
    assert (lived == FALLBACK).any()


async def test_a_host_that_hangs_as_the_fleet_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.nodes.ray_fleet.STOP_TIMEOUT_S", 0.5)
    monkeypatch.setattr("orchestrator.nodes.ray_fleet.END_TIMEOUT_S", 1.0)
    with ray_session():
        async with build(Scenario(), RayActors(1)) as running:
            health = running.hosts[0].health
            assert health is not None
            os.kill(health.pid, signal.SIGSTOP)
        assert not psutil.pid_exists(health.pid)


def press_ctrl_c(running: Program) -> None:
    """As a terminal does: to every process of the group."""
    group = os.getpgid(running.process.pid)
    for process in running.family():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getpgid(process.pid) == group:
                process.send_signal(signal.SIGINT)
    running.send(signal.SIGINT)


def test_ctrl_c_in_the_middle_writes_what_there_is_and_leaves_nothing(tmp_path: Path) -> None:
    figures_file = tmp_path / "fleet.json"
    given = ("--hosts", "1", "--clouds", "1", "--json", str(figures_file))
    long = fleet(tmp_path, *given, rate_per_s=5, requests=2_000)
    with program(*long) as running:
        assert running.process.stdout is not None
        for line in running.process.stdout:
            if "sent" in line and "answered 0" not in line:
                break
        press_ctrl_c(running)
        code, printed, err = running.wait(60)
        running.assert_nothing_left()
    assert code == 130, err
    assert "Traceback" not in err
    figures: dict[str, Any] = json.loads(figures_file.read_text())
    assert figures["interrupted"]
    assert figures["planned"] == 6_000
    assert 0 < figures["requests"] == pq.read_metadata(tmp_path / "new" / "rows.parquet").num_rows < 6_000
    assert "stopped early" in printed


def test_ctrl_c_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    with program(*fleet(tmp_path)) as running:
        until(lambda: len(running.family()) > 3, lambda: "Ray does not start")
        time.sleep(0.5)
        press_ctrl_c(running)
        code, _, err = running.wait(60)
        running.assert_nothing_left()
    assert code == 130, err
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--clouds", "9"), "9 clouds for 3 edges"),
        (("--requests", "0"), "requests: Input should be greater than or equal to 1 (given: 0)"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_value(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    with program(*fleet(tmp_path, *arguments), cwd=tmp_path) as running:
        code, _, err = running.wait(30)
    assert code == 2
    assert says in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"edge": {"slowdown": 0.5}}, r"slowdown of edge 0 is 0\.5; nothing makes real nodes faster"),
        ({"groups": [{"count": 3}, {"slowdown": 0.1}]}, r"slowdown of edge 3 is 0\.1"),
        ({"cloud": {"slowdown": 0.9}}, r"slowdown of cloud is 0\.9"),
        ({"cloud": {"max_batch": 8}}, r"cloud\.max_batch is 8; a real cloud"),
        ({"cloud": {"workers": 2}}, r"cloud\.workers is 2; a real cloud"),
        ({"plan": {"cut": 7}}, r"cut is 7; lenet-fashion has cuts 0 to"),
        ({"edge": {"held": 7}}, r"cut is 7; lenet-fashion has cuts 0 to"),
        ({"plan": {"thresholds": [0.1, 0.2, 0.3]}}, "threshold"),
    ],
)
def test_what_real_nodes_cannot_do_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check_real(Scenario.model_validate(changes))


def test_an_unknown_artifact_is_refused() -> None:
    with pytest.raises(UnknownModel, match="nothing-there"):
        check_real(Scenario(artifact="nothing-there"))


def test_nodes_and_links_are_started_as_the_scenario_says(tmp_path: Path) -> None:
    markov = LinkModel(uplink_mbps=Markov(states=(1.0, 9.0), mean_stay_s=(1.0, 1.0)), downlink_mbps=3.0, rtt_ms=8.0)
    groups = (
        EdgeGroup(count=5, link=markov, slowdown=3),
        EdgeGroup(held=2, plan=PlanModel(cut=0, codec="png")),
        EdgeGroup(plan=PlanModel(cut=2, edge_only=True)),
    )
    scenario = Scenario(clouds=2, groups=groups, seed=4, cloud=CloudModel(slowdown=2), engine=Engine.ONNX)
    clouds, edges = specs_of(scenario, tmp_path)
    assert [cloud.name for cloud in clouds] == ["cloud-0", "cloud-1"]
    assert {(cloud.settings.slowdown, cloud.settings.engine) for cloud in clouds} == {(2, "onnx")}
    assert [(edge.name, edge.cloud) for edge in edges] == [(f"edge-{number}", number % 2) for number in range(7)]
    assert [edge.settings.slowdown for edge in edges] == [3] * 5 + [1] * 2
    assert [edge.settings.cut for edge in edges] == [1] * 5 + [2] * 2
    assert [(edge.plan.cut, edge.plan.codec, edge.plan.edge_only) for edge in edges if edge.plan] == [
        *[(1, "fp32", False)] * 5,
        (0, "png", False),
        (2, "fp32", True),
    ]
    link, course = edges[0].link, edges[0].course
    assert (link.up.delay_ms, link.down.delay_ms, link.down.rate_mbps, link.seed) == (4.0, 4.0, 3.0, 4)
    # What the links follow is what the simulator reckons with, from where each edge is in it.
    assert course is not None
    assert {edge.course for edge in edges} == {course, None}
    written, meant = read_trace(course), markov.capacity(scenario.seed)
    assert (written.period_s, written.mean_mbps) == (meant.period_s, meant.mean_mbps) == (1_000, link.up.rate_mbps)
    offsets_s = {
        int(edge): offset_s
        for part in all_requests(scenario, 10)
        for edge, offset_s in zip(part.edges, part.offset_s, strict=True)
    }
    assert {edge.number: edge.offset_s for edge in edges} == offsets_s
    assert len(set(offsets_s.values())) == 6, "a link that is constant has no course"


def test_the_examples_are_scenarios() -> None:
    street = read_scenario(EXAMPLES / "street.toml")
    assert (street.edges, street.clouds) == (12, 2)
    check_real(street)
    assert (read_scenario(EXAMPLES / "city.toml").edges) == 100_000


def with_every_key(printed: str, folder: Path) -> Scenario:
    """The printed example with what is commented out; `adapt` excludes all else that a plan says."""
    text = re.sub(r"^# (\[\[|[a-z_]+ = )", r"\1", printed, flags=re.MULTILINE)
    (folder / "all.toml").write_text(re.sub(r"^(edges|adapt) = .*\n", "", text, flags=re.MULTILINE))
    return read_scenario(folder / "all.toml")


def test_the_printed_example_is_the_street_and_names_every_key(tmp_path: Path) -> None:
    with program("cli.main", "simulate", "--example") as running:
        code, printed, err = running.wait(30)
    assert (code, err) == (0, "")
    assert printed == (EXAMPLES / "street.toml").read_text()
    for name, field in Scenario.model_fields.items():
        assert name == "name" or name in printed
        for key in getattr(field.annotation, "model_fields", {}):
            assert f"{key} = " in printed
    for table in (EdgeGroup, Fault):
        assert all(f"\n# {key} = " in printed for key in table.model_fields)
    scenario = with_every_key(printed, tmp_path)
    assert (scenario.edges, len(scenario.groups), len(scenario.faults)) == (12, 2, 1)
