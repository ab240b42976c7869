"""What a simulation starts from is measured; what it is compared with, and what cannot be compared.

The comparison itself is run by test_validate.py.
"""

import dataclasses

import numpy as np
import pytest

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.profile_file import read_profile, write_profile
from branchynet.errors import DamagedData, InvalidInput, UnknownModel
from branchynet.placement.serving_profile import CodecCost
from branchynet.rpc.message_sizes import codec_cost
from orchestrator.profiling.live_profile import Effort
from orchestrator.profiling.local_profile import STEPS, measure
from orchestrator.runs.simulator_check import compare
from simulations.model.scenario import (
    CloudModel,
    EdgeGroup,
    EdgeModel,
    Fault,
    LinkModel,
    Markov,
    PlanModel,
    Scenario,
    Trace,
    Workload,
)
from simulations.model.simulator import simulate


@pytest.fixture(scope="module")
def measured(sample, tmp_path_factory):
    import asyncio

    steps = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.profiling.local_profile.USUAL", Effort((1, 4, 16), 6, 40))  # enough here
        found = asyncio.run(measure(Scenario(), sample, tmp_path_factory.mktemp("logs"), on_step=steps.append))
    assert steps == list(STEPS)
    return found


def test_a_profile_says_what_the_nodes_took(measured):
    profile = measured.profile
    assert measured.own_plan.cut == profile.held == 1
    assert profile.exit_stages == (0, 1)
    # A raw picture is 784 bytes, the map at cut 1 is 1,125 floats; a message adds its names, hash and rule.
    assert profile.message_bytes[0] in range(784 + 32, 784 + 128)
    assert profile.message_bytes[1] in range(4_500 + 32, 4_500 + 128)
    assert 9 < profile.framing_bytes < 500
    assert 40 < profile.reply_bytes < 1_000
    assert min(ms for device in (profile.edge, profile.cloud) for row in device.ms for ms in row) > 0
    assert profile.request_ms > 0


async def test_a_known_profile_is_not_measured_again(measured, sample, tmp_path):
    write_profile(tmp_path / "profile.json", measured.profile)
    profile = read_profile(tmp_path / "profile.json")
    assert profile == measured.profile
    steps = []
    again = await measure(Scenario(), sample, tmp_path, profile=profile, on_step=steps.append)
    assert steps == ["outcomes"]
    assert again.profile == profile
    assert np.array_equal(again.table.logits, measured.table.logits)


async def test_a_profile_of_another_network_is_refused(measured, sample, tmp_path):
    other = dataclasses.replace(measured.profile, exit_stages=(1,))
    with pytest.raises(InvalidInput, match=r"exits after \(1,\), not \(0, 1\)"):
        await measure(Scenario(), sample, tmp_path, profile=other)


@pytest.mark.parametrize("text", ["", "[]", '{"edge": 1}', '{"held": 1}'])
def test_a_file_that_holds_no_profile_is_refused(tmp_path, text):
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(DamagedData, match=r"profile\.json holds no profile"):
        read_profile(tmp_path / "profile.json")


async def test_an_unknown_artifact_is_refused(sample, tmp_path):
    with pytest.raises(UnknownModel, match="nothing-here"):
        await measure(Scenario(artifact="nothing-here"), sample, tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cloud": CloudModel(max_batch=4)}, "cloud.max_batch is 4"),
        ({"edge": EdgeModel(slowdown=0.5)}, "slowdown of edge 0 is 0.5"),
        ({"faults": (Fault(part="edge-0", kind="kill", at_s=1, for_s=1),)}, "edge-0 has a fault"),
        ({"plan": PlanModel(cut=3)}, "cut is 3"),
    ],
)
async def test_what_only_one_of_the_two_can_be_is_refused(measured, sample, tmp_path, change, says):
    with pytest.raises(InvalidInput, match=says):
        await compare(Scenario(**change), measured, sample, tmp_path)


async def test_unlike_edges_with_two_clouds_and_a_link_that_varies_agree_as_well(measured, sample, tmp_path):
    """Exits and bytes, request by request; times are for a machine that does nothing else."""
    trace = tmp_path / "link.txt"
    trace.write_text("0 1\n0.7 20\n1.1 2\n3 40\n")
    groups = (
        EdgeGroup(count=2, link=LinkModel(uplink_mbps=Trace(trace=trace), rtt_ms=10), plan=PlanModel(cut=0)),
        EdgeGroup(slowdown=4, link=LinkModel(uplink_mbps=Markov(states=(5, 50), mean_stay_s=(1, 1)), rtt_ms=20)),
        EdgeGroup(plan=PlanModel(cut=1, codec="uint8")),
    )
    scenario = Scenario(clouds=2, groups=groups).replaced(workload=Workload(rate_per_s=10, requests=30))
    coded = await measure(scenario, sample, tmp_path, profile=with_uint8(measured.profile))
    found = await compare(scenario, coded, sample, tmp_path / "logs")
    assert len(found.live) == len(found.simulated) == scenario.requests
    assert found.same_exits
    assert found.same_bytes
    assert (found.live.cloud == found.live.edge % 2).all()
    edge_ms = [float(np.median(found.live.edge_ms[found.live.edge == edge])) for edge in (2, 3)]
    assert edge_ms[0] > 1.5 * edge_ms[1], "the slow edge is slower"


def with_uint8(profile):
    """*profile* with a codec that takes no time, and whose messages all have the same size."""
    artifact = Artifact.open("lenet-fashion")
    manifest, network = artifact.manifest, artifact.runner(engine=artifact.reference_engine)
    payload = artifact.codec("uint8", 1).encode(np.zeros((1, *manifest.cut_shapes[1]), np.float32))
    cost = codec_cost(manifest, network, CodecCost(1, "uint8", len(payload.data), 0.0, 0.0))
    return dataclasses.replace(profile, codecs=(cost,))


def test_a_comparison_sees_a_difference(measured):
    from orchestrator.runs.simulator_check import Comparison

    scenario = Scenario(workload=Workload(requests=50))
    same = simulate(scenario, measured)
    assert Comparison(scenario, same, same).agrees
    for name in ("exit", "place", "uplink_bytes"):
        values = getattr(same, name).copy()
        values[3] += 1
        assert not Comparison(scenario, same, dataclasses.replace(same, **{name: values})).agrees
    slow = dataclasses.replace(same, latency_ms=same.latency_ms * 1.2)
    assert Comparison(scenario, same, slow).deviation == pytest.approx(0.2)
    assert not Comparison(scenario, same, slow).agrees
