"""A command that puts load on nodes ends with code 1 if a request was lost, and writes its figures all the same."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from branchynet.client import find_node
from branchynet.client.find_node import Node, Role, WireProtocol
from cli.main import app
from orchestrator.nodes import ray_cluster
from orchestrator.runs import bench, demo, fleet
from simulations.model.request_records import EDGE, LOST, Records
from simulations.model.request_report import Report

NODE = Node("edge:1", Role.EDGE, WireProtocol.BRANCHYNET, "lenet-fashion", "0" * 64, (1, 28, 28), (), 256)


def some_lost(lost: int) -> Records:
    """What became of twenty requests."""
    places, reasons = [LOST] * lost + [EDGE] * (20 - lost), ["UNAVAILABLE: nobody"] * lost + [""] * (20 - lost)
    return Records.of(place=places, reason=reasons, sent_s=range(20), latency_ms=[3.0] * 20)


@pytest.fixture(params=[0, 1, 20])
def lost(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many requests are lost by runs whose nodes are none: what nodes do is no matter here."""
    count: int = request.param
    records = some_lost(count)

    async def benched(node: Node, load: bench.BenchLoad, *_: Any) -> bench.BenchRun:
        return bench.BenchRun(node, load, Report.of(records, 1e4), sent=20, ended=20)

    async def fleeted(*_: Any) -> fleet.FleetRun:
        return fleet.FleetRun(records, (), 1.0, None)

    async def shown(*_: Any, **__: Any) -> list[demo.Row]:
        kept = Report.of(some_lost(0), 1e4)
        return [demo.Row("early exit + split", kept, 1.0), demo.Row("cloud only", Report.of(records, 1e4), 1.0)]

    async def found(*_: Any) -> Node:
        return NODE

    @contextlib.contextmanager
    def no_ray() -> Iterator[int]:
        yield 1

    monkeypatch.setattr(bench, "run_bench", benched)
    monkeypatch.setattr(find_node, "find_node", found)
    monkeypatch.setattr(fleet, "run_fleet", fleeted)
    monkeypatch.setattr(ray_cluster, "ray_session", no_ray)
    monkeypatch.setattr(demo, "run_demo", shown)
    return count


@pytest.mark.parametrize("command", ["bench", "fleet", "demo"])
def test_a_lost_request_is_code_1(lost: int, command: str, tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text("edges = 1\n")
    arguments = {
        "bench": ["edge:1"],
        "fleet": [str(tmp_path / "scenario.toml"), "--out", str(tmp_path / "rows.parquet")],
        "demo": ["--out", str(tmp_path)],
    }[command]
    done = CliRunner().invoke(app, [command, *arguments, "--json", str(tmp_path / "figures.json")])
    assert done.exit_code == (1 if lost else 0), done.output
    assert (f"requests lost: {lost}" in done.output) == bool(lost)
    assert ("UNAVAILABLE: nobody" in done.output) == bool(lost)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["lost"] for row in figures.get("rows", [figures])][-1] == lost
