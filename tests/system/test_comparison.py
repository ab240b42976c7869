"""What a simulation starts from is measured; what it is compared with, and what cannot be compared.

The comparison itself is run by test_validate.py.
"""

import dataclasses

import numpy as np
import pytest

from branchynet.errors import DamagedData, InvalidInput, UnknownModel
from orchestrator.comparison import compare
from orchestrator.measuring import STEPS, measure, read_profile, write_profile
from simulations.scenarios import CloudModel, LinkModel, Markov, PlanModel, Scenario, Workload
from simulations.simulator import simulate


@pytest.fixture(scope="module")
def measured(sample, tmp_path_factory):
    import asyncio

    steps = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.measuring.REQUESTS", 40)  # no figure of this file depends on how many
        found = asyncio.run(measure("lenet-fashion", sample, tmp_path_factory.mktemp("logs"), on_step=steps.append))
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
    again = await measure("lenet-fashion", sample, tmp_path, profile=profile, on_step=steps.append)
    assert steps == ["outcomes"]
    assert again.profile == profile
    assert np.array_equal(again.table.logits, measured.table.logits)


async def test_a_profile_of_another_network_is_refused(measured, sample, tmp_path):
    other = dataclasses.replace(measured.profile, exit_stages=(1,))
    with pytest.raises(InvalidInput, match=r"exits after \(1,\), not \(0, 1\)"):
        await measure("lenet-fashion", sample, tmp_path, profile=other)


@pytest.mark.parametrize("text", ["", "[]", '{"edge": 1}', '{"held": 1}'])
def test_a_file_that_holds_no_profile_is_refused(tmp_path, text):
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(DamagedData, match=r"profile\.json holds no profile"):
        read_profile(tmp_path / "profile.json")


async def test_an_unknown_artifact_is_refused(sample, tmp_path):
    with pytest.raises(UnknownModel, match="nothing-here"):
        await measure("nothing-here", sample, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"edges": 2, "clouds": 2},
        {"link": LinkModel(uplink=Markov(mbps=(1, 2), mean_stay_s=(1, 1)))},
        {"plan": PlanModel(cut=2)},
        {"cloud": CloudModel(max_batch=4)},
    ],
)
async def test_what_the_local_nodes_cannot_be_is_refused(measured, sample, tmp_path, change):
    with pytest.raises(InvalidInput, match="'odd'"):
        await compare(Scenario(name="odd", **change), measured, sample, tmp_path)


def test_a_comparison_sees_a_difference(measured):
    from orchestrator.comparison import Comparison

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
