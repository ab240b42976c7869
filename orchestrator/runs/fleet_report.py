"""The figures of a fleet's run; `docs/reference/json.md` explains the keys."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from branchynet.system import peak_rss_bytes
from orchestrator.runs.fleet import FleetRun
from orchestrator.runs.shards import Shard
from simulations.model.request_report import Report
from simulations.model.scenario import Scenario

__all__ = ["VirtualRun", "real_figures", "virtual_figures"]

MB = 1e6


@dataclass
class VirtualRun:
    """The shards of *scenario* counted in as they come; the records themselves are not kept."""

    scenario: Scenario
    shards: int
    shards_done: int = 0
    peak_rss_by_pid: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.report = Report(self.scenario.limits.deadline_ms)

    @property
    def planned(self) -> int:
        """Requests of the whole scenario."""
        return self.scenario.requests

    def add(self, shard: Shard) -> None:
        """Count *shard* in."""
        self.report.add(shard.records)
        self.shards_done += 1
        self.peak_rss_by_pid[shard.pid] = max(shard.peak_rss_bytes, self.peak_rss_by_pid.get(shard.pid, 0))


def virtual_figures(run: VirtualRun, wall_s: float, *, interrupted: bool) -> dict[str, Any]:
    """The figures of a simulated run that took *wall_s*."""
    return {
        **_head(run.scenario, "virtual", interrupted=interrupted),
        **run.report.figures(),
        "shards": run.shards,
        "wall_s": round(wall_s, 1),
        "peak_memory_mb": _memory(peak for pid, peak in run.peak_rss_by_pid.items() if pid != os.getpid()),
    }


def real_figures(scenario: Scenario, run: FleetRun) -> dict[str, Any]:
    """The figures of a run of real nodes."""
    hosts = [
        {
            "name": host.name,
            "restarts": host.restarts,
            "peak_memory_mb": round(host.peak_rss_bytes / MB),
            "answered": host.answered,
        }
        for host in run.hosts
    ]
    return {
        **_head(scenario, "real", interrupted=run.stopped_by is not None),
        **Report.of(run.records, scenario.limits.deadline_ms).figures(),
        "restarts": run.restarts,
        "wall_s": round(run.wall_s, 1),
        "peak_memory_mb": _memory(host.peak_rss_bytes for host in run.hosts),
        "hosts": hosts,
    }


def _head(scenario: Scenario, nodes: str, *, interrupted: bool) -> dict[str, Any]:
    return {
        "scenario": scenario.name,
        "nodes": nodes,
        "artifact": scenario.artifact,
        "edges": scenario.edges,
        "clouds": scenario.clouds,
        "seed": scenario.seed,
        "planned": scenario.requests,
        "interrupted": interrupted,
    }


def _memory(others: Iterable[int]) -> dict[str, int]:
    """Most memory of this process, and of all *others* together (as if all had it at once)."""
    return {"driver": round(peak_rss_bytes() / MB), "others": round(sum(others) / MB)}
