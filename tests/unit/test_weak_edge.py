"""A weak edge does its work over and over, or waits; what comes out is what any edge says."""

import time

import numpy as np
import pytest

from branchynet import artifact
from branchynet.decisions.deadlines import OffloadLimits
from branchynet.decisions.timing import ServingProfile, StageTimes
from branchynet.models import zoo
from branchynet.prediction import Policy
from branchynet.training.datasets import load_sample
from edge_node.node import EdgeNode
from orchestrator.weak_edge import PacedRunner, RepeatingWorker, main


async def test_a_call_is_made_until_it_took_so_many_times_the_first_and_the_last_result_counts():
    worker, calls = RepeatingWorker("test-compute", 4), []

    def call(value, more):
        time.sleep(0.001 if calls else 0.02)  # what was slow at first is quick from then on
        calls.append(value)
        return len(calls) + more

    done = await worker.run(call, "once", more=10)
    assert set(calls) == {"once"}
    assert len(calls) > 4
    assert done.value == len(calls) + 10
    assert done.compute_ms >= 80
    worker.close()


async def test_a_node_that_computes_on_it_answers_and_profiles_as_ever():
    manifest, half = artifact.load_runner(zoo.find("lenet-fashion"), 0, 1)
    images, ran = load_sample().images[:8], []
    whole = half.resume(images.copy(), 0, 1, manifest.rule)
    resume = half.resume
    half.resume = lambda *given: ran.append(given[1:3]) or resume(*given)
    node = EdgeNode(manifest, half, None, OffloadLimits(1_000, 20), 8)
    node.compute_on(RepeatingWorker("edge-compute", 3))
    answers = await node.classify(images)
    assert [answer.label for answer in answers] == whole.logits.argmax(axis=1).tolist()
    assert ran == [(0, 1)] * len(ran)
    assert len(ran) >= 2
    ran.clear()
    found = await node.prober().profile(np.array(images), (1,), 1, (), engine="eager", threads=1)
    assert len(ran) >= 2 * 3  # with two rounds that do not count
    assert found.stages == (0, 1)
    node.close()


async def test_a_node_as_slow_as_a_profile_says_answers_as_ever():
    manifest, half = artifact.load_runner(zoo.find("lenet-fashion"), 0, 1)
    images = load_sample().images[:1]
    times = StageTimes((1,), ((30.0,), (20.0,)))
    profile = ServingProfile(times, times, (0, 1), 1, 1.0, 1.0, (837, 4_534), 60, 130)
    node = EdgeNode(manifest, half, None, OffloadLimits(1_000, 20), 8)
    (before,) = await node.classify(images, policy=Policy.EDGE_ONLY)
    node.compute_with(lambda runner: PacedRunner(runner, profile))
    (answer,) = await node.classify(images, policy=Policy.EDGE_ONLY)
    assert answer.edge_ms >= 30
    np.testing.assert_array_equal(answer.probabilities, before.probabilities)
    assert PacedRunner(half, profile).without_branches().exits == half.without_branches().exits
    node.close()


def test_wrong_numbers_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--times", "0"])
    assert "--times is 0; it must be 1 or more" in capsys.readouterr().err
