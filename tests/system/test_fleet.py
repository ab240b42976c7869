"""Fleets of real nodes on Ray: every request is accounted for, whatever is killed, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from running_programs import Program, program, until

from branchynet.errors import InvalidInput, UnknownModel
from branchynet.training.datasets import Dataset
from orchestrator.fleet import Fleet
from orchestrator.fleet_run import HostLoad, run_fleet
from orchestrator.ray_session import ray_session
from orchestrator.sites import plan_of, sites_of
from simulations.records import CLOUD, FALLBACK
from simulations.scenarios import Limits, LinkModel, Markov, PlanModel, Scenario, Workload, read_scenario
from simulations.workload import requests_of

EXAMPLES = Path(__file__).parents[2] / "examples" / "scenarios"
# Each host is a process that imports torch first; several of them at once take their time on a busy machine.
pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]
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
    return ("cli.main", "fleet", "run", str(scenario), "--out", str(folder / "new" / "rows.parquet"), *arguments)


def test_every_request_of_a_run_has_a_row_and_the_figures_are_written(tmp_path: Path) -> None:
    with program(*fleet(tmp_path, "--hosts", "1", "--json", str(tmp_path / "fleet.json"))) as running:
        code, printed, err = running.wait(110)
        assert (code, err) == (0, "")
        running.assert_nothing_left(within_s=2)
    rows = pq.read_table(tmp_path / "new" / "rows.parquet").to_pydict()
    assert sorted(rows["edge"]) == [0] * 30 + [1] * 30 + [2] * 30
    assert set(zip(rows["edge"], rows["cloud"], strict=True)) == {(0, 0), (1, 1), (2, 0)}
    assert set(rows["place"]) == {"edge", "cloud"}
    figures = json.loads((tmp_path / "fleet.json").read_text())
    assert (figures["nodes"], figures["requests"], figures["planned"]) == ("real", 90, 90)
    assert (figures["lost"], figures["sent_again"], figures["restarts"]) == (0, 0, 0)
    assert (figures["interrupted"], figures["edges"], figures["clouds"]) == (False, 3, 2)
    assert 0.7 < figures["accuracy"] <= 1
    assert figures["accuracy"] == np.mean(rows["correct"])
    assert [host["name"] for host in figures["hosts"]] == ["cloud host 0", "cloud host 1", "edge host 0"]
    answered = {name: count for host in figures["hosts"] for name, count in host["answered"].items()}
    assert {name: answered[name] for name in ("edge-0", "edge-1", "edge-2")} == {f"edge-{i}": 30 for i in range(3)}
    assert answered["cloud-0"] + answered["cloud-1"] == rows["place"].count("cloud")
    for text in ("small: 3 real edges, 2 clouds", "accuracy", "latency p99", "bytes up, a request", "sent again"):
        assert text in printed
    assert "rows.parquet" in printed


async def test_hosts_that_die_or_hang_come_back_and_no_request_is_lost(
    sample: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud's host dies, one edge's hangs; at cut 0 every request needs both."""
    monkeypatch.setattr("orchestrator.fleet.HUNG_POLLS", 2)
    scenario = Scenario(
        edges=2,
        workload=Workload(rate_per_s=10, requests=200),
        link=LinkModel(rtt_ms=5),
        plan=PlanModel(cut=0),
        limits=Limits(deadline_ms=60_000),
    )
    killed: list[int] = []

    def kill(loads: list[HostLoad]) -> None:
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
    assert {host.name: host.restarts for host in run.hosts} == {"cloud host 0": 1, "edge host 0": 0, "edge host 1": 1}
    assert run.stopped_by is None
    records = run.records
    assert len(records) == 400
    summary = records.summary(60_000)
    assert summary["lost"] == 0
    assert set(records.place.tolist()) == {CLOUD, FALLBACK}
    assert (records.attempts[records.edge == 0] == 1).all(), "only the requests of the host that hung are sent again"
    assert (records.attempts[records.edge == 1] > 1).any()
    # The edge that lived fell back meanwhile, and ends as it began.
    lived = records.place[records.edge == 0]
    assert lived[0] == lived[-1] == CLOUD
    assert (lived == FALLBACK).any()


async def test_a_host_that_hangs_as_the_fleet_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.fleet.STOP_TIMEOUT_S", 0.5)
    monkeypatch.setattr("orchestrator.fleet.END_TIMEOUT_S", 1.0)
    scenario = Scenario(workload=Workload(requests=1))
    capacity = scenario.link.capacity(scenario.seed)
    clouds, _ = sites_of(scenario, 1, capacity, [requests_of(scenario, 0, 1, capacity.period_s)], 1)
    with ray_session():
        async with Fleet.running(clouds, []) as running:
            [health] = [host.health for host in running.hosts]
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
        running.assert_nothing_left(within_s=2)
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
        running.assert_nothing_left(within_s=10)
    assert code == 130, err
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


def test_a_virtual_fleet_gives_the_same_report(tmp_path: Path) -> None:
    stages = {"batches": [1], "ms": [[0.2], [0.4]]}
    profile = {"edge": stages, "cloud": stages, "exit_stages": [0, 1], "held": 1, "request_ms": 1.0, "offload_ms": 2.0}
    sizes = {"message_bytes": [900, 4600], "framing_bytes": 100, "reply_bytes": 200}
    (tmp_path / "profile.json").write_text(json.dumps({**profile, **sizes}))
    given = ("--profile", str(tmp_path / "profile.json"), "--json", str(tmp_path / "fleet.json"))
    with program(*fleet(tmp_path, "--virtual", "--no-ray", "--edges", "1000", "--seed", "5", *given)) as running:
        code, printed, err = running.wait(60)
        assert (code, err) == (0, "")
    figures = json.loads((tmp_path / "fleet.json").read_text())
    assert (figures["nodes"], figures["requests"], figures["lost"], figures["seed"]) == ("virtual", 30_000, 0, 5)
    assert figures["peak_memory_mb"]["others"] == 0
    assert pq.read_metadata(tmp_path / "new" / "rows.parquet").num_rows == 30_000
    assert "small: 1,000 virtual edges, 2 clouds" in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--profile", "small.toml"), "--profile is for --virtual"),
        (("--no-ray",), "--no-ray is for --virtual"),
        (("--virtual", "--hosts", "2"), "--hosts 2 is for real nodes"),
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
        ({"edge": {"slowdown": 4}}, r"edge\.slowdown is 4\.0; real nodes"),
        ({"cloud": {"max_batch": 8}}, r"cloud\.max_batch is 8; real nodes"),
        ({"plan": {"cut": 7}}, r"cut is 7; lenet-fashion has cuts 0 to"),
        ({"plan": {"thresholds": [0.1, 0.2, 0.3]}}, "threshold"),
    ],
)
def test_what_real_nodes_cannot_do_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        plan_of(Scenario.model_validate(changes))


def test_an_unknown_artifact_is_refused() -> None:
    with pytest.raises(UnknownModel, match="nothing-there"):
        plan_of(Scenario(artifact="nothing-there"))


def test_edges_are_shared_by_the_hosts_and_their_links_are_the_scenarios() -> None:
    varying = LinkModel(uplink=Markov(mbps=(1.0, 9.0), mean_stay_s=(1.0, 1.0)), downlink_mbps=3.0, rtt_ms=8.0)
    scenario = Scenario(edges=5, clouds=2, link=varying)
    capacity = varying.capacity(scenario.seed)
    requests = [requests_of(scenario, cloud, 1_000, capacity.period_s) for cloud in range(2)]
    clouds, edges = sites_of(scenario, 1, capacity, requests, 2)
    assert [site.names for site in clouds] == [["cloud-0"], ["cloud-1"]]
    assert [site.names for site in edges] == [["edge-0", "edge-2", "edge-4"], ["edge-1", "edge-3"]]
    assert edges[0].uplink is edges[1].uplink is capacity
    offsets_s = {edge.number: edge.offset_s for site in edges for edge in site.edges}
    assert [offsets_s[edge] for edge in (0, 2, 4)] == requests[0].offset_s.tolist()
    assert [offsets_s[edge] for edge in (1, 3)] == requests[1].offset_s.tolist()
    link = edges[0].edges[0].link
    assert (link.up.delay_ms, link.down.delay_ms, link.down.rate_mbps) == (4.0, 4.0, 3.0)
    assert len(sites_of(scenario, 1, capacity, requests, 50)[1]) == 5, "no host without an edge"


def test_the_examples_are_scenarios() -> None:
    street = read_scenario(EXAMPLES / "street.toml")
    assert (street.edges, street.clouds) == (12, 2)
    plan_of(street)
    assert (read_scenario(EXAMPLES / "city.toml").edges) == 100_000


def test_the_printed_example_is_the_street_and_names_every_key() -> None:
    with program("cli.main", "fleet", "example") as running:
        code, printed, err = running.wait(30)
    assert (code, err) == (0, "")
    assert printed == (EXAMPLES / "street.toml").read_text()
    for name, field in Scenario.model_fields.items():
        assert name == "name" or name in printed
        for key in getattr(field.annotation, "model_fields", {}):
            assert f"{key} = " in printed
