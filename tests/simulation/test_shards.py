"""A scenario cut into shards is the same scenario: records, figures and files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.placement.plan import Plan
from branchynet.placement.serving_profile import ServingProfile, StageTimes
from orchestrator.nodes.ray_cluster import ray_session
from orchestrator.runs.fleet_report import VirtualRun, virtual_figures
from orchestrator.runs.shards import Shard, clouds_of_shards, run_here, run_on_ray
from simulations.model.request_records import PLACES, Records, RecordsFile
from simulations.model.request_report import Report
from simulations.model.scenario import CloudModel, Limits, LinkModel, Markov, PlanModel, Scenario, Workload
from simulations.model.simulator import Measured, simulate

SCENARIO = Scenario(
    edges=60,
    clouds=7,
    seed=3,
    workload=Workload(rate_per_s=2.0, requests=15),
    link=LinkModel(uplink_mbps=Markov(states=(0.1, 5.0), mean_stay_s=(1.0, 3.0))),
    cloud=CloudModel(max_batch=4),
    limits=Limits(offload_timeout_ms=300),
)


@pytest.fixture(scope="module")
def measured() -> Measured:
    """A network of three stages with an exit after each, right more often the deeper; half of the samples leave."""
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=200)
    logits = rng.normal(size=(3, 200, 10))
    logits[:, np.arange(200), labels] += np.array([[2.0], [3.0], [4.0]])
    table = OutcomeTable(logits.astype(np.float32), labels, np.array([1.0, 2.0, 3.0]))
    edge = StageTimes((1, 8), ((1.0, 4.0), (2.0, 8.0), (3.0, 9.0)))
    profile = ServingProfile(edge, edge.slower(0.2), (0, 1, 2), 1, 0.8, 1.5, (900, 4600, 2000), 120, 200)
    return Measured(table, profile, Plan(1, ExitRule(Criterion.ENTROPY, (1.0, 1.0))))


def assert_same(left: Records, right: Records) -> None:
    for name, values in left.columns().items():
        np.testing.assert_array_equal(values, right.columns()[name], err_msg=name)


def joined(shards: Iterator[Shard]) -> Records:
    return Records.joined([shard.records for shard in shards])


@pytest.mark.parametrize("shard_requests", [1, 200, 10**6])
def test_any_number_of_shards_gives_the_records_of_one_run(measured: Measured, shard_requests: int) -> None:
    shards = clouds_of_shards(SCENARIO, shard_requests)
    assert [cloud for clouds in shards for cloud in clouds] == list(range(7))
    assert len(shards) == {1: 7, 200: 4, 10**6: 1}[shard_requests]
    assert_same(joined(run_here(SCENARIO, measured, shards)), simulate(SCENARIO, measured))


def test_ray_gives_the_same_records_and_our_errors(measured: Measured) -> None:
    wrong = SCENARIO.model_copy(update={"plan": PlanModel(cut=9)})
    with ray_session(cpus=2) as cpus:
        shards = list(run_on_ray(SCENARIO, measured, clouds_of_shards(SCENARIO, 1), cpus))
        with pytest.raises(InvalidInput, match=r"^cut is 9; this network has cuts 0 to 3$"):
            list(run_on_ray(wrong, measured, clouds_of_shards(SCENARIO, 1), cpus))
    assert_same(joined(iter(shards)), simulate(SCENARIO, measured))
    assert all(shard.peak_rss_bytes > 10**7 for shard in shards)


def test_figures_and_file_are_those_of_the_whole(measured: Measured, tmp_path: Path) -> None:
    whole = simulate(SCENARIO, measured)
    shards = clouds_of_shards(SCENARIO, 200)
    run = VirtualRun(SCENARIO, len(shards))
    with RecordsFile(tmp_path / "new" / "parts.parquet") as file:
        for shard in run_here(SCENARIO, measured, shards):
            file.write(shard.records)
            run.add(shard)
    figures = virtual_figures(run, 1.0, interrupted=False)
    summary = Report.of(whole, SCENARIO.limits.deadline_ms).figures()
    assert {name: figures[name] for name in summary} == summary
    assert sum(summary["share_by_exit"].values()) == pytest.approx(1)
    assert {"fallback", "edge/0", "cloud/1"} <= set(summary["share_by_exit"])
    assert figures["planned"] == figures["requests"] == 900
    assert figures["shards"] == pq.ParquetFile(tmp_path / "new" / "parts.parquet").num_row_groups == 4

    whole.write_parquet(tmp_path / "whole.parquet")
    table = pq.read_table(tmp_path / "new" / "parts.parquet")
    assert table.equals(pq.read_table(tmp_path / "whole.parquet"))
    assert table["place"].to_pylist() == [PLACES[place] for place in whole.place]
