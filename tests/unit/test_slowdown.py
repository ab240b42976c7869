"""A node with a slowdown takes so many times as long for what it computes; what comes out is what any node says."""

import time

import numpy as np
import pytest
from network_examples import LENET
from node_examples import IMAGES

from branchynet.errors import InvalidInput
from branchynet.serving.prediction import Policy
from branchynet.serving.worker import Worker
from cloud_node.node import CloudNode
from cloud_node.version import CloudVersion


async def test_a_call_is_made_once_and_takes_so_many_times_as_long():
    worker, calls = Worker("test-compute", 4), []

    def call(value, more):
        time.sleep(0.02)
        calls.append(value)
        return len(calls) + more

    done = await worker.run(call, "once", more=10)
    assert (calls, done.value) == (["once"], 11)
    assert done.compute_ms >= 80
    worker.close()


@pytest.mark.parametrize("slowdown", [0.5, 0, -1, float("nan"), float("inf")])
def test_no_device_is_faster_than_the_machine_it_runs_on(slowdown):
    with pytest.raises(InvalidInput, match=f"slowdown is {slowdown:g}"):
        Worker("test-compute", slowdown)


async def test_a_slow_edge_answers_and_profiles_as_ever(nodes, monkeypatch):
    slept_s = []
    monkeypatch.setattr("branchynet.serving.worker.time.sleep", slept_s.append)
    quick, slow = nodes(None, LENET), nodes(None, LENET, slowdown=3)
    (before, *_), (answer, *_) = [await edge.classify(IMAGES, policy=Policy.EDGE_ONLY) for edge in (quick, slow)]
    np.testing.assert_array_equal(answer.probabilities, before.probabilities)
    assert len(slept_s) == 1, "only the slow one sleeps, once a batch"
    await slow.prober().profile(np.array(IMAGES), (1,), 1, (), threads=1)
    assert len(slept_s) > 2, "each stage that is timed takes longer as well"
    assert all(second > 0 for second in slept_s)


async def test_a_slow_cloud_answers_as_ever(loaded, monkeypatch):
    slept_s, answers = [], []
    monkeypatch.setattr("branchynet.serving.worker.time.sleep", slept_s.append)
    for slowdown in (1, 3):
        node = CloudNode(CloudVersion(*loaded(LENET, 0), 64), slowdown)
        answers.append(await node.resume(node.served.content_hash, 0, IMAGES, None))
        node.close()
    assert len(slept_s) == 1, "only the slow one sleeps"
    np.testing.assert_array_equal(answers[0].logits, answers[1].logits)
