"""The arrays against the events: two programs for one model, request by request."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scenes import SAMPLES, Scene, plain_measured, scenes, table_of

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.errors import InvalidInput
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.outcomes import OutcomeTable
from branchynet.placement.plan import Plan
from branchynet.placement.serving_profile import CodecCost, ServingProfile, StageTimes
from simulations.link.capacity import DeliveryLog
from simulations.model import simulator
from simulations.model.oracle import simulate_by_events, simulate_cloud_by_events
from simulations.model.request_records import CLOUD, EDGE, FALLBACK, Records
from simulations.model.scenario import EdgeGroup, Fault, PlanModel, Scenario, Workload
from simulations.model.simulator import Measured, simulate, simulate_cloud
from simulations.model.workload import requests_of

TIMES = ("sent_s", "latency_ms", "edge_ms", "network_ms", "cloud_ms")


def assert_same(ours: Records, theirs: Records) -> None:
    for name, values in theirs.columns().items():
        assert ours.columns()[name].dtype == values.dtype, name
        if name in TIMES:
            np.testing.assert_allclose(ours.columns()[name], values, rtol=0, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(ours.columns()[name], values, err_msg=name)


def both(scene: Scene) -> Records:
    """The records of *scene*, which both programs agree on."""
    if scene.capacity is None:
        records, by_events = (
            simulate(scene.scenario, scene.measured),
            simulate_by_events(scene.scenario, scene.measured),
        )
    else:
        clouds = range(scene.scenario.clouds)
        records, by_events = (
            Records.joined([run(scene.scenario, scene.measured, cloud, [scene.uplink]) for cloud in clouds])
            for run in (simulate_cloud, simulate_cloud_by_events)
        )
    assert_same(records, by_events)
    return records


def batch_sizes(start_s: NDArray[np.float64], finish_s: NDArray[np.float64], max_batch: int) -> Counter[int]:
    """How many jobs each batch had, as far as equal times tell: two equal batches at one moment look like one."""
    _, sizes = np.unique(np.stack([start_s, finish_s]), axis=1, return_counts=True)
    return Counter(np.minimum(sizes, max_batch).tolist())


def happened(scene: Scene, records: Records) -> Counter[str]:
    """What a scene was good for."""
    profile, cut = scene.measured.profile, scene.scenario.plan.cut
    offloads = records.place != EDGE
    fallback = records.place == FALLBACK
    longest_ms = profile.edge.until_ms[-1] * scene.scenario.edge.slowdown
    message_kbit = 8e-3 * (profile.message_bytes[min(cut or 0, profile.edge.stages - 1)] + profile.framing_bytes)
    seen: Counter[str] = Counter()
    seen["answered by the cloud"] = int((records.place == CLOUD).sum())
    seen["fallback after asking, cut 0"] = int((fallback & (records.uplink_bytes > 0)).sum()) if cut == 0 else 0
    seen["fallback after asking, deeper cut"] = int((fallback & (records.uplink_bytes > 0)).sum()) if cut else 0
    seen["fallback without asking"] = int((fallback & (records.uplink_bytes == 0)).sum())
    seen["stayed because the plan is local"] = len(records) if scene.scenario.plan.edge_only else 0
    seen["left at an exit of a split"] = int((records.place == EDGE).sum()) if not scene.scenario.plan.edge_only else 0
    seen["waited for the edge"] = int((records.edge_ms > 1.01 * longest_ms).sum())
    if not isinstance(scene.uplink, DeliveryLog) and offloads.any():
        alone_ms = message_kbit / scene.uplink.mean_mbps + scene.scenario.link.rtt_ms
        seen["waited for a link"] = int((records.network_ms > 3 * alone_ms).sum())
    seen[f"over {type(scene.uplink).__name__}"] = int(offloads.sum())
    return seen


def test_every_request_fares_the_same_in_both(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    batches: Counter[int] = Counter()
    real = simulator.serve_in_batches

    def spied(*args: Any) -> Any:
        start_s, finish_s = real(*args)
        batches.update(batch_sizes(start_s, finish_s, max_batch=args[-1]))
        return start_s, finish_s

    monkeypatch.setattr(simulator, "serve_in_batches", spied)

    # The same scenes in every run: what they were good for is asserted below.
    @settings(deadline=None, max_examples=300, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(scenes())
    def agree(scene: Scene) -> None:
        seen.update(happened(scene, both(scene)))

    agree()
    assert min(seen.values()) >= 20, f"some of it hardly happened: {dict(seen)}"
    assert len(seen) == 11
    assert min(batches[size] for size in (1, 2, 3, 5)) >= 10, f"batches of some size hardly happened: {dict(batches)}"


def unlike(scene: Scene, seed: int) -> Scene:
    """*scene* with three groups of edges that differ in all that they may, some of which send through a codec."""
    rng, base, measured = np.random.default_rng(seed), scene.scenario, scene.measured
    profile, exits = measured.profile, len(measured.profile.exit_stages)
    cuts = [0, *range(profile.exit_stages[0] + 1, profile.edge.stages + 1)]
    coded = [cut for cut in cuts if cut < profile.edge.stages]
    costs = tuple(
        CodecCost(cut, "png" if cut == 0 else "uint4", *rng.uniform(0.5, 3, 3) * (500, 1, 1)) for cut in coded
    )
    measured = replace(
        measured,
        profile=replace(profile, codecs=costs),
        coded={(cost.cut, cost.codec): table_of(exits, rng) for cost in costs},
    )
    codecs = {cost.cut: cost.codec for cost in costs}

    def group() -> EdgeGroup:
        cut = int(rng.choice(cuts))
        plan = PlanModel(cut=cut, codec=codecs.get(cut) if rng.uniform() < 0.5 else None, edge_only=rng.uniform() < 0.2)
        changed = {"rtt_ms": float(rng.uniform(0, 50)), "downlink_mbps": float(rng.uniform(0.5, 5))}
        if rng.uniform() < 0.5:
            changed["uplink_mbps"] = float(rng.uniform(0.2, 5))
        rate_per_s = base.workload.rate_per_s * rng.uniform(0.5, 2)
        return EdgeGroup(
            count=int(rng.integers(1, 4)),
            slowdown=float(rng.uniform(0.5, 5)),
            held=int(rng.integers(profile.held, profile.edge.stages + 1)),
            workload=Workload(rate_per_s=rate_per_s, requests=int(rng.integers(1, 20))),
            link=base.link.model_copy(update=changed),
            plan=plan,
        )

    values = {**dict(base), "groups": [group() for _ in range(3)], "clouds": int(rng.integers(1, 4))}
    return Scene(Scenario(**{name: value for name, value in values.items() if name != "edges"}), measured)


@given(scenes(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_edges_that_differ_are_simulated_each_as_it_is(scene: Scene, seed: int) -> None:
    mixed = unlike(scene, seed)
    records = both(mixed)
    assert len(records) == mixed.scenario.requests
    numbers, counts = np.unique(records.edge, return_counts=True)
    assert numbers.tolist() == list(range(mixed.scenario.edges))
    for edges, group in mixed.scenario.edge_groups():
        assert set(counts[edges.start : edges.stop]) == {group.workload.requests}


def test_one_group_is_as_good_as_edges_that_are_alike_and_groups_inherit() -> None:
    measured = plain_measured(edge_ms=3, cloud_ms=5, message_bytes=6_000)
    tables = {"link": {"uplink_mbps": 3.0, "rtt_ms": 8}, "workload": {"requests": 50}, "edge": {"slowdown": 2}}
    alike = Scenario.model_validate({"edges": 3, "clouds": 2, **tables})
    assert_same(
        simulate(Scenario.model_validate({"groups": [{"count": 3}], "clouds": 2, **tables}), measured),
        both(Scene(alike, measured)),
    )


def test_what_cannot_be_simulated_is_refused() -> None:
    measured = plain_measured()
    fault = Fault(part="edge-0", kind="kill", at_s=1, for_s=1)
    with pytest.raises(InvalidInput, match="edge-0 has a fault; only real nodes can"):
        simulate(Scenario(faults=(fault,)), measured)
    with pytest.raises(InvalidInput, match="codec 'png' at cut 0 were not measured"):
        simulate(Scenario(plan=PlanModel(cut=0, codec="png")), measured)
    with pytest.raises(InvalidInput, match=r"adapt is 'plans\.json'"):
        simulate(Scenario(plan=PlanModel(adapt=Path("plans.json"))), measured)


def test_a_course_read_by_both_from_the_scenario(tmp_path: Path) -> None:
    trace = tmp_path / "link.txt"
    trace.write_text("0 9\n0.4 1.5\n0.9 0\n1.3 4\n")
    measured = plain_measured(edge_ms=3, cloud_ms=5, message_bytes=6_000, request_ms=0.5, offload_ms=0.7)
    for uplink in (
        {"trace": trace},
        {"trace": trace, "start_s": 0.85},
        {"states": [0, 2, 9], "mean_stay_s": [0.1, 0.2, 0.3]},
        3.0,
    ):
        scenario = Scenario.model_validate(
            {"edges": 3, "clouds": 2, "workload": {"requests": 100, "rate_per_s": 20}, "link": {"uplink_mbps": uplink}}
        )
        both(Scene(scenario, measured))


def test_all_that_a_link_delivers_at_one_moment_is_one_batch() -> None:
    # Three messages of 500 bytes fit a delivery. They come during the first 90 ms, before anything is delivered.
    measured = plain_measured(cloud_ms=8, message_bytes=500)
    scenario = Scenario.model_validate(
        {
            "workload": {"arrivals": "periodic", "requests": 3, "rate_per_s": 1_000},
            "link": {"rtt_ms": 0},
            "cloud": {"max_batch": 3},
        }
    )
    log = DeliveryLog(np.array([0.5]), length_s=0.5)
    requests = requests_of(scenario, 0, SAMPLES, log.period_s)
    delivered_s = 0.5 - requests.offset_s[0]
    assert requests.sent_s.max() < delivered_s
    records = both(Scene(scenario, measured, log))
    np.testing.assert_allclose(records.cloud_ms, 3 * 8)  # one size was measured: three take three times as long
    np.testing.assert_allclose(records.latency_ms, 1e3 * (delivered_s - records.sent_s) + 24)


def test_an_answer_at_the_last_moment_is_in_time_and_one_after_it_is_not() -> None:
    measured = plain_measured(edge_ms=4, cloud_ms=16, message_bytes=1_000)
    for timeout_ms, place in ((16 + 32 + 8 + 1e-6, CLOUD), (16 + 32 + 8 - 1e-6, FALLBACK)):
        scenario = Scenario.model_validate(
            {
                "workload": {"requests": 1},
                "link": {"uplink_mbps": 1.0, "rtt_ms": 32},
                "limits": {"offload_timeout_ms": timeout_ms},
            }
        )
        records = both(Scene(scenario, measured))
        assert records.place.tolist() == [place]
        assert records.latency_ms == pytest.approx(timeout_ms + (4 if place == FALLBACK else -1e-6))


def test_no_time_left_at_the_node_means_nothing_is_sent() -> None:
    scenario = Scenario.model_validate({"limits": {"deadline_ms": 20, "reserve_ms": 20}})
    records = both(Scene(scenario, plain_measured(edge_ms=2, cloud_ms=1)))
    assert (records.place == FALLBACK).all()
    assert not records.uplink_bytes.any()
    assert not records.network_ms.any()


def test_a_deadline_counts_from_the_node_and_loses_the_time_in_the_edges_stages() -> None:
    measured = plain_measured(edge_ms=8, cloud_ms=1_000, request_ms=30)
    for cut, edge_ms in ((0, 0), (1, 4)):
        scenario = Scenario.model_validate(
            {
                "workload": {"requests": 1},
                "plan": {"cut": cut},
                "limits": {"deadline_ms": 100, "offload_timeout_ms": 500, "reserve_ms": 20},
            }
        )
        records = both(Scene(scenario, measured))
        assert records.place.tolist() == [FALLBACK]
        assert records.network_ms == pytest.approx(100 - 20 - edge_ms)
        assert records.latency_ms == pytest.approx(30 + 80 + (8 if cut == 0 else 0))


@pytest.mark.parametrize("max_batch", [1, 2])
def test_the_cloud_runs_only_what_lies_behind_the_cut(max_batch: int) -> None:
    measured = plain_measured(edge_ms=4, cloud_ms=6)
    for cut, cloud_ms in ((0, 6), (1, 3)):
        scenario = Scenario.model_validate(
            {"workload": {"requests": 1}, "plan": {"cut": cut}, "cloud": {"max_batch": max_batch}}
        )
        assert both(Scene(scenario, measured)).cloud_ms == pytest.approx(cloud_ms)


def test_whoever_is_given_up_still_holds_the_link_and_the_cloud() -> None:
    # 10 messages a second over a link that carries 5: the wait of each is longer than that of the one before it.
    measured = plain_measured(edge_ms=1, cloud_ms=1, message_bytes=25_000)
    scenario = Scenario.model_validate(
        {
            "workload": {"arrivals": "periodic", "requests": 30, "rate_per_s": 10},
            "link": {"uplink_mbps": 1.0, "rtt_ms": 0},
            "limits": {"offload_timeout_ms": 1_000},
        }
    )
    records = both(Scene(scenario, measured))
    in_time = int((records.place == CLOUD).sum())
    assert in_time == 8  # message i leaves 200 + 100 i ms after it came
    assert (records.place[in_time:] == FALLBACK).all()


def test_a_shard_is_that_part_of_the_whole() -> None:
    scenario = Scenario.model_validate(
        {"edges": 7, "clouds": 3, "link": {"uplink_mbps": 2.0}, "cloud": {"max_batch": 4}}
    )
    measured = plain_measured(edge_ms=20, cloud_ms=30, message_bytes=3_000)
    uplinks = scenario.uplinks()
    whole = simulate(scenario, measured)
    parts = [simulate_cloud(scenario, measured, cloud, uplinks) for cloud in range(3)]
    for name, values in Records.joined(parts).columns().items():
        np.testing.assert_array_equal(whole.columns()[name], values)
    assert len(whole) == 700
    assert sorted(set(whole.edge.tolist())) == list(range(7))
    np.testing.assert_array_equal(whole.cloud, whole.edge % 3)


@pytest.fixture(scope="module")
def shipped(sample: Dataset) -> tuple[OutcomeTable, Plan]:
    artifact = Artifact.open("lenet-fashion")
    manifest, network = artifact.manifest, artifact.network()
    return measure_outcomes(network, manifest.cost, sample), Plan(1, manifest.rule)


def shipped_on_a_slow_edge(shipped: tuple[OutcomeTable, Plan]) -> Measured:
    table, plan = shipped
    edge = StageTimes((1, 8), ((4.1, 20.3), (9.7, 50.9)))
    profile = ServingProfile(edge, edge.slower(0.1), (0, 1), 1, 0.9, 1.7, (784, 4_480), 120, 260)
    return Measured(table, profile, plan)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_the_shipped_network_fares_the_same_in_both(shipped: tuple[OutcomeTable, Plan], cut: int) -> None:
    scenario = Scenario.model_validate(
        {
            "edges": 3,
            "workload": {"rate_per_s": 60, "requests": 200},
            "link": {"uplink_mbps": 1.1, "rtt_ms": 30},
            "plan": {"cut": cut},
            "cloud": {"workers": 2, "max_batch": 8, "slowdown": 20},
            "limits": {"deadline_ms": 150, "offload_timeout_ms": 90},
        }
    )
    records = both(Scene(scenario, shipped_on_a_slow_edge(shipped)))
    assert {0: {CLOUD, FALLBACK}, 1: {EDGE, CLOUD, FALLBACK}, 2: {EDGE}}[cut] == set(records.place.tolist())


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_with_time_enough_the_shipped_rule_decides_alone(shipped: tuple[OutcomeTable, Plan], cut: int) -> None:
    table, plan = shipped
    scenario = Scenario.model_validate({"workload": {"requests": 2_000}, "plan": {"cut": cut}})
    records = simulate(scenario, shipped_on_a_slow_edge(shipped))
    leaves = table.exit_of(plan.rule)[records.row]
    np.testing.assert_array_equal(records.exit, leaves)
    np.testing.assert_array_equal(records.place == EDGE, leaves < cut)
    np.testing.assert_array_equal(records.correct, table.correct[leaves, records.row])
    assert records.correct.mean() == pytest.approx(table.apply(plan.rule).accuracy, abs=0.03)
