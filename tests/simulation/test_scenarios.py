"""A scenario's file: what it may say, what it is worth when it says nothing, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from branchynet.errors import InvalidInput
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.placement.offload_deadline import OffloadLimits
from branchynet.placement.plan import Plan
from simulations.link.capacity import ConstantRate, PiecewiseRate
from simulations.link.traces import read_trace
from simulations.model.scenario import (
    Arrivals,
    CloudModel,
    EdgeGroup,
    EdgeModel,
    Fault,
    Limits,
    LinkModel,
    Markov,
    PlanModel,
    Scenario,
    Trace,
    Workload,
    read_scenario,
    with_changes,
)

FULL = """
name = "rush-hour"
artifact = "alexnet-cifar10"
edges = 12
clouds = 5
seed = 42
engine = "onnx"

[workload]
arrivals = "periodic"
rate_per_s = 2.5
requests = 40

[link]
uplink_mbps = {states = [0, 20], mean_stay_s = [2.5, 5]}
downlink_mbps = 80
rtt_ms = 0

[plan]
cut = 2
criterion = "margin"
thresholds = [0.25, 0.5]
codec = "uint8+zstd"
edge_only = true

[edge]
slowdown = 4.5
held = 3

[cloud]
workers = 3
max_batch = 16
slowdown = 0.5

[limits]
deadline_ms = 500
offload_timeout_ms = 250
reserve_ms = 0

[[faults]]
part = "edge-11"
kind = "kill"
at_s = 1.5
for_s = 2

[[faults]]
part = "cloud-4"
kind = "freeze"
at_s = 0
for_s = 1

[[faults]]
part = "link-3"
kind = "cut"
at_s = 3
for_s = 0
"""


FAULT = '[[faults]]\npart = "{part}"\nkind = "{kind}"\nat_s = 1\nfor_s = 1'


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
        link=LinkModel(uplink_mbps=Markov(states=(0, 20), mean_stay_s=(2.5, 5)), downlink_mbps=80, rtt_ms=0),
        plan=PlanModel(cut=2, criterion=Criterion.MARGIN, thresholds=(0.25, 0.5), codec="uint8+zstd", edge_only=True),
        edge=EdgeModel(slowdown=4.5, held=3),
        cloud=CloudModel(workers=3, max_batch=16, slowdown=0.5),
        limits=Limits(deadline_ms=500, offload_timeout_ms=250, reserve_ms=0),
        engine="onnx",
        faults=(
            Fault(part="edge-11", kind="kill", at_s=1.5, for_s=2),
            Fault(part="cloud-4", kind="freeze", at_s=0, for_s=1),
            Fault(part="link-3", kind="cut", at_s=3, for_s=0),
        ),
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
        scenario = read_scenario(written(tmp_path, f"[link]\nuplink_mbps = {{trace = {named!r}}}\n"))
        assert scenario.link.uplink_mbps == Trace(trace=trace)
        capacity = scenario.link.capacity(0)
        assert isinstance(capacity, PiecewiseRate)
        assert capacity.mean_mbps == 3


def test_a_link_of_states_is_the_same_for_the_same_seed() -> None:
    link = LinkModel(uplink_mbps=Markov(states=(1, 20), mean_stay_s=(2, 5)))
    one, same, other = (link.capacity(seed) for seed in (3, 3, 4))
    assert one.mean_mbps == same.mean_mbps != other.mean_mbps
    assert one.period_s == 5_000


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        (PlanModel(), Plan(1, ExitRule("entropy", (0.5,)))),
        (PlanModel(cut=0, edge_only=True), Plan(0, ExitRule("entropy", (0.5,)), True)),
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
        ("[link]\nuplink_mbps = 0", "link.uplink_mbps", "0"),
        ("[link]\nuplink_mbps = -3.5", "link.uplink_mbps", "-3.5"),
        ("[link]\nuplink_mbps = nan", "link.uplink_mbps", "nan"),
        ("[link]\nuplink_mbps = {states = [1, -2], mean_stay_s = [1, 1]}", "states.1", "-2"),
        ("[link]\nuplink_mbps = {states = [1, 2], mean_stay_s = [1, 0]}", "mean_stay_s.1", "0"),
        ("[link]\nuplink_mbps = {states = [1, 2], mean_stay_s = [1]}", "link.uplink_mbps", "[1]"),
        ("[link]\nuplink_mbps = {states = [1], mean_stay_s = [1]}", "link.uplink_mbps", "[1]"),
        ("[link]\nuplink_mbps = {states = [], mean_stay_s = []}", "link.uplink_mbps", "[]"),
        ("[link]\nuplink_mbps = {states = [0, 0], mean_stay_s = [1, 1]}", "link.uplink_mbps", "[0, 0]"),
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
        ("engine = 'steam'", "engine", "'steam'"),
        ("[edge]\nheld = 0", "edge.held", "0"),
        ("[plan]\nadapt = 'plans.json'\ncut = 1", "which chooses all that a plan says", "plans.json"),
        ("edges = 3\n[[groups]]\ncount = 2", "edges is 3, but the groups have 2", "leave edges out"),
        ("[[groups]]\ncount = 0", "groups.0.count", "0"),
        ("[[groups]]\ncount = 'two'", "groups.0.count", "'two'"),
        ("[[groups]]\nslow = 2", "groups.0.slow", "2"),
        ("[[groups]]\n[groups.link]\nrtt_ms = -1", "groups.0.link.rtt_ms", "-1"),
        ("[[groups]]\nlink = 3", "groups.0.link", "3"),
        (FAULT.format(part="edge-1", kind="kill"), "edge-1, the last of its kind is number 0", "edge-1"),
        (FAULT.format(part="link-0", kind="kill"), "link-0 cannot be kill", "links are cut"),
        (FAULT.format(part="cloud-0", kind="cut"), "cloud-0 cannot be cut", "nodes are killed"),
        (FAULT.format(part="cloud", kind="kill"), "faults.0.part", "'cloud'"),
        (FAULT.format(part="edge-0", kind="melt"), "faults.0.kind", "'melt'"),
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


def test_a_group_says_where_its_edges_differ_and_the_tables_say_the_rest(tmp_path: Path) -> None:
    text = """
clouds = 2
[link]
uplink_mbps = {trace = "drive.txt", start_s = 3}
rtt_ms = 20
[plan]
cut = 1
[edge]
slowdown = 2
[[groups]]
count = 3
[[groups]]
slowdown = 10
[groups.link]
uplink_mbps = 1.5
[groups.plan]
codec = "uint8"
[groups.workload]
requests = 7
"""
    scenario = read_scenario(written(tmp_path, text))
    trace = Trace(trace=tmp_path / "drive.txt", start_s=3)
    (first, three), (last, one) = scenario.edge_groups()
    assert (scenario.edges, first, last) == (4, range(3), range(3, 4))
    assert three == EdgeGroup(count=3, slowdown=2, link=LinkModel(uplink_mbps=trace, rtt_ms=20), plan=PlanModel(cut=1))
    assert one == EdgeGroup(
        slowdown=10,
        link=LinkModel(uplink_mbps=1.5, rtt_ms=20),
        plan=PlanModel(cut=1, codec="uint8"),
        workload=Workload(requests=7),
    )
    assert scenario.requests == 3 * 100 + 7
    assert [list(scenario.edges_of(cloud, first)) for cloud in range(2)] == [[0, 2], [1]]
    assert [list(scenario.edges_of(cloud, last)) for cloud in range(2)] == [[], [3]]
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario
    changed = with_changes(scenario, requests=5, clouds=3)
    assert (changed.requests, changed.clouds) == (20, 3)
    with pytest.raises(InvalidInput, match="edges is 9, but the groups have 4"):
        with_changes(scenario, edges=9)


def test_what_is_replaced_is_replaced_for_all_groups() -> None:
    scenario = Scenario(groups=(EdgeGroup(count=2), EdgeGroup(slowdown=3, plan=PlanModel(cut=0))))
    plan, cloud = PlanModel(cut=2), CloudModel(workers=4)
    changed = scenario.replaced(plan=plan, cloud=cloud)
    assert (changed.plan, changed.cloud) == (plan, cloud)
    assert [(group.plan, group.slowdown) for _, group in changed.edge_groups()] == [(plan, 1), (plan, 3)]


def test_a_plan_written_out_is_the_plan() -> None:
    plan = Plan(1, ExitRule("entropy", (0.1,), (1.5, 1.0)), codec="uint4")
    assert PlanModel.of(plan).plan(0, ExitRule("entropy", (0.5,), (1.5, 1.0))) == plan
    with pytest.raises(InvalidInput, match=r"adapt is 'plans.json': there is no one plan"):
        PlanModel(adapt=Path("plans.json")).plan(1, ExitRule("entropy", (0.5,)))


def test_files_in_a_scenario_are_found_from_its_folder(tmp_path: Path) -> None:
    scenario = read_scenario(
        written(tmp_path, "[plan]\nadapt = 'plans.json'\n[[groups]]\nplan = {adapt = '/other.json'}")
    )
    assert scenario.plan.adapt == tmp_path / "plans.json"
    assert scenario.groups[0].plan.adapt == Path("/other.json")


def test_a_trace_is_read_as_the_scenario_says(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("t;up;down\n0;1;1\n1000;3000;9000\n")
    said = 'uplink_mbps = {trace = "one.csv", column = "up", unit = "kbit/s", time_unit = "ms"}'
    scenario = read_scenario(written(tmp_path, f"[link]\n{said}\n"))
    capacity = scenario.link.capacity(0)
    assert (capacity.period_s, capacity.mean_mbps) == (1, 3)
    # Real links are told nothing beside the file: they get one that says it all.
    trace = scenario.link.uplink_mbps
    assert isinstance(trace, Trace)
    file = trace.file_for_links(tmp_path / "new" / "link.txt")
    assert file == tmp_path / "new" / "link.txt"
    assert (read_trace(file).period_s, read_trace(file).mean_mbps) == (1, 3)
    plain = Trace(trace=file, start_s=1)
    assert plain.file_for_links(tmp_path / "unused.txt") == file
    with pytest.raises(InvalidInput, match="the unit of a trace is 'knots'"):
        read_scenario(written(tmp_path, '[link]\nuplink_mbps = {trace = "one.csv", unit = "knots"}\n'))
