"""A scenario's file: what it may say, what it is worth when it says nothing, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from branchynet.decisions.deadlines import OffloadLimits
from branchynet.decisions.exits import Criterion, ExitRule
from branchynet.decisions.plans import Plan
from branchynet.errors import InvalidInput
from simulations.capacity import ConstantRate, PiecewiseRate
from simulations.scenarios import (
    Arrivals,
    CloudModel,
    EdgeModel,
    Limits,
    LinkModel,
    Markov,
    PlanModel,
    Scenario,
    Workload,
    read_scenario,
)

FULL = """
name = "rush-hour"
artifact = "alexnet-cifar10"
edges = 12
clouds = 5
seed = 42

[workload]
arrivals = "periodic"
rate_per_s = 2.5
requests = 40

[link]
uplink = {mbps = [0, 20], mean_stay_s = [2.5, 5]}
downlink_mbps = 80
rtt_ms = 0

[plan]
cut = 2
criterion = "margin"
thresholds = [0.25, 0.5]
local_only = true

[edge]
slowdown = 4.5

[cloud]
workers = 3
max_batch = 16
slowdown = 0.5

[limits]
deadline_ms = 500
offload_timeout_ms = 250
reserve_ms = 0
"""


def written(folder: Path, text: str, name: str = "scenario.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_full_file_says_all_of_it(tmp_path: Path) -> None:
    scenario = read_scenario(written(tmp_path, FULL))
    assert scenario == Scenario(
        name="rush-hour",
        artifact="alexnet-cifar10",
        edges=12,
        clouds=5,
        seed=42,
        workload=Workload(arrivals=Arrivals.PERIODIC, rate_per_s=2.5, requests=40),
        link=LinkModel(uplink=Markov(mbps=(0, 20), mean_stay_s=(2.5, 5)), downlink_mbps=80, rtt_ms=0),
        plan=PlanModel(cut=2, criterion=Criterion.MARGIN, thresholds=(0.25, 0.5), local_only=True),
        edge=EdgeModel(slowdown=4.5),
        cloud=CloudModel(workers=3, max_batch=16, slowdown=0.5),
        limits=Limits(deadline_ms=500, offload_timeout_ms=250, reserve_ms=0),
    )
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario
    assert [list(scenario.edges_of(cloud)) for cloud in range(5)] == [[0, 5, 10], [1, 6, 11], [2, 7], [3, 8], [4, 9]]
    assert scenario.length_s == 16
    assert scenario.limits.offload == OffloadLimits(250, 0)


def test_an_empty_file_is_the_defaults_under_the_files_name(tmp_path: Path) -> None:
    scenario = read_scenario(written(tmp_path, "", "quiet.toml"))
    assert scenario == Scenario(name="quiet")
    assert scenario.link.capacity(0) == ConstantRate(10.0)


def test_a_traces_path_starts_at_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    trace = tmp_path / "links" / "one.txt"
    trace.write_text("0 1\n2 3\n")
    for named in ("links/one.txt", str(trace)):
        scenario = read_scenario(written(tmp_path, f"[link]\nuplink = {named!r}\n"))
        assert scenario.link.uplink == trace
        capacity = scenario.link.capacity(0)
        assert isinstance(capacity, PiecewiseRate)
        assert capacity.mean_mbps == 3


def test_a_link_of_states_is_the_same_for_the_same_seed() -> None:
    link = LinkModel(uplink=Markov(mbps=(1, 20), mean_stay_s=(2, 5)))
    one, same, other = (link.capacity(seed) for seed in (3, 3, 4))
    assert one.mean_mbps == same.mean_mbps != other.mean_mbps
    assert one.period_s == 5_000


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        (PlanModel(), Plan(1, ExitRule("entropy", (0.5,)))),
        (PlanModel(cut=0, local_only=True), Plan(0, ExitRule("entropy", (0.5,)), True)),
        (PlanModel(thresholds=(0.1,)), Plan(1, ExitRule("entropy", (0.1,)))),
        (PlanModel(criterion=Criterion.MARGIN, thresholds=(0.1,)), Plan(1, ExitRule("margin", (0.1,)))),
    ],
)
def test_what_a_plan_does_not_say_is_the_artifacts(model: PlanModel, plan: Plan) -> None:
    assert model.plan(1, ExitRule("entropy", (0.5,))) == plan


@pytest.mark.parametrize(
    ("text", "key", "given"),
    [
        ("edges = 0", "edges", "0"),
        ("edges = 1.5", "edges", "1.5"),
        ("seed = -1", "seed", "-1"),
        ("colour = 'red'", "colour", "'red'"),
        ("edges = 2\nclouds = 3", "3 clouds for 2 edges", "3"),
        ("[workload]\narrivals = 'never'", "workload.arrivals", "'never'"),
        ("[workload]\nrate_per_s = 0", "workload.rate_per_s", "0"),
        ("[workload]\nrate_per_s = inf", "workload.rate_per_s", "inf"),
        ("[workload]\nrequests = 0", "workload.requests", "0"),
        ("[workload]\nrequest = 5", "workload.request", "5"),
        ("[link]\nuplink = 0", "link.uplink", "0"),
        ("[link]\nuplink = -3.5", "link.uplink", "-3.5"),
        ("[link]\nuplink = nan", "link.uplink", "nan"),
        ("[link]\nuplink = {mbps = [1, -2], mean_stay_s = [1, 1]}", "mbps.1", "-2"),
        ("[link]\nuplink = {mbps = [1, 2], mean_stay_s = [1, 0]}", "mean_stay_s.1", "0"),
        ("[link]\nuplink = {mbps = [1, 2], mean_stay_s = [1]}", "link.uplink", "[1]"),
        ("[link]\nuplink = {mbps = [1], mean_stay_s = [1]}", "link.uplink", "[1]"),
        ("[link]\nuplink = {mbps = [], mean_stay_s = []}", "link.uplink", "[]"),
        ("[link]\nuplink = {mbps = [0, 0], mean_stay_s = [1, 1]}", "link.uplink", "[0, 0]"),
        ("[link]\ndownlink_mbps = 0", "link.downlink_mbps", "0"),
        ("[link]\nrtt_ms = -1", "link.rtt_ms", "-1"),
        ("[plan]\ncut = -1", "plan.cut", "-1"),
        ("[plan]\ncriterion = 'mood'", "plan.criterion", "'mood'"),
        ("[plan]\ncriterion = 'margin'", "criterion 'margin' needs thresholds", "'margin'"),
        ("[plan]\nthresholds = ['much']", "plan.thresholds.0", "'much'"),
        ("[edge]\nslowdown = 0", "edge.slowdown", "0"),
        ("[cloud]\nworkers = 0", "cloud.workers", "0"),
        ("[cloud]\nmax_batch = 0", "cloud.max_batch", "0"),
        ("[cloud]\nslowdown = -1", "cloud.slowdown", "-1"),
        ("[limits]\ndeadline_ms = 0", "limits.deadline_ms", "0"),
        ("[limits]\noffload_timeout_ms = 0", "limits.offload_timeout_ms", "0"),
        ("[limits]\nreserve_ms = -1", "limits.reserve_ms", "-1"),
        ("edges = ", "is not TOML", "end of document"),
    ],
)
def test_a_refusal_names_file_key_and_value(tmp_path: Path, text: str, key: str, given: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidInput) as refused:
        read_scenario(path)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert key in message
    assert given in message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(InvalidInput, match="is not TOML"):
        read_scenario(path)
