"""The cloud resumes where the edge stopped, refuses what does not fit before a layer runs, and goes on serving."""

import asyncio
from functools import partial

import numpy as np
import pytest
from network_examples import LENET, LIGHT, mixing_rule, pictures, random_network, title

from branchynet.errors import ArtifactMismatch, InvalidInput, TooLarge
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.models.architectures import Architecture
from cloud_node.node import CloudNode
from cloud_node.version import CloudVersion

MAX_BATCH = 16
IMAGES = pictures(LENET, 8)


@pytest.fixture
def clouds(nodes):
    return partial(nodes.cloud, max_batch=MAX_BATCH)


def resume(cloud, cut, tensor, rule=None, content_hash=None):
    return cloud.resume(content_hash or cloud.served.content_hash, cut, tensor, rule)


def maps_at(architecture, cut, images):
    """The feature maps of all *images* at *cut*, raw images at cut 0."""
    if cut == 0:
        return images
    rule = ExitRule.never(random_network(architecture).exits)
    return random_network(architecture).resume(images, 0, cut, rule).features


@pytest.mark.parametrize("architecture", [*LIGHT, Architecture("b-resnet-110")], ids=title)
async def test_resuming_equals_running_the_rest_of_the_network_at_every_cut(architecture, clouds):
    network = random_network(architecture)
    images = pictures(architecture, network.exits, seed=8)
    rule = mixing_rule(network, images)
    cloud = clouds(architecture)
    for cut in range(network.total_stages):
        maps = maps_at(architecture, cut, images)
        done = await resume(cloud, cut, maps, rule)
        expected = network.resume(maps, cut, network.total_stages, rule)
        np.testing.assert_array_equal(done.exits, expected.exits)
        np.testing.assert_array_equal(done.logits, expected.logits)
        assert done.queue_ms >= 0
        assert done.compute_ms > 0


async def test_the_exits_behind_the_cut_are_taken_too(clouds):
    architecture = Architecture("b-alexnet")
    network, images = random_network(architecture), pictures(architecture, 6)
    done = await resume(clouds(architecture), 0, images, mixing_rule(network, images))
    assert set(done.exits) == {0, 1, 2}


async def test_the_artifacts_rule_counts_when_none_comes_along(clouds):
    cloud = clouds()
    own = await resume(cloud, 0, IMAGES)
    named = await resume(cloud, 0, IMAGES, cloud.served.rule)
    np.testing.assert_array_equal(own.exits, named.exits)
    other = await resume(cloud, 0, IMAGES, ExitRule.never(2))
    assert set(other.exits) == {1}


MAPS = maps_at(LENET, 1, IMAGES)


def spoilt(value, position):
    maps = MAPS.copy()
    maps[position] = value
    return maps


REFUSED = {
    "no map": (1, IMAGES, r"tensor at cut 1: dtype is uint8, it must be float32"),
    "no images": (0, MAPS, r"tensor at cut 0: dtype is float32, it must be uint8"),
    "double precision": (1, MAPS.astype(np.float64), r"dtype is float64"),
    "big-endian": (1, MAPS.astype(">f4"), r"dtype is >f4"),
    "another shape": (1, MAPS[:, :, :14], r"must be \(batch, 5, 15, 15\)"),
    "one map without its batch": (1, MAPS[0], r"must be \(batch, 5, 15, 15\)"),
    "the other cut's shape": (0, IMAGES[:, :, :15, :15], r"must be \(batch, 1, 28, 28\)"),
    "an empty batch": (1, MAPS[:0], r"the batch is empty"),
    "a NaN": (1, spoilt(np.nan, (3, 2, 1, 14)), r"the value at \(3, 2, 1, 14\) is nan"),
    "an infinity": (1, spoilt(-np.inf, (0, 0, 0, 0)), r"the value at \(0, 0, 0, 0\) is -inf"),
    "a cut behind the last stage": (2, MAPS, r"cut is 2; this node can resume at 0 to 1"),
    "a negative cut": (-1, MAPS, r"cut is -1; this node can resume at 0 to 1"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_does_not_fit_is_refused_and_the_node_goes_on(what, clouds):
    cut, tensor, complaint = REFUSED[what]
    cloud = clouds()
    with pytest.raises(InvalidInput, match=complaint):
        await resume(cloud, cut, tensor)
    assert len((await resume(cloud, 1, MAPS)).exits) == len(MAPS)


async def test_the_largest_batch_is_served_and_one_more_refused(clouds):
    cloud = clouds()
    assert len((await resume(cloud, 0, pictures(LENET, MAX_BATCH))).exits) == MAX_BATCH
    with pytest.raises(TooLarge, match="holds 17 samples, this node takes at most 16"):
        await resume(cloud, 0, pictures(LENET, MAX_BATCH + 1))
    assert len((await resume(cloud, 1, MAPS)).exits) == len(MAPS)


@pytest.mark.parametrize("content_hash", ["0" * 64, "", "x" * 10_000])
async def test_an_edge_of_another_artifact_is_refused_first_of_all(content_hash, clouds):
    cloud = clouds()
    with pytest.raises(ArtifactMismatch, match=cloud.served.content_hash):
        await cloud.resume(content_hash, 99, MAPS.astype(np.float64), ExitRule(Criterion.ENTROPY, ()))


@pytest.mark.parametrize("count", [0, 2])
async def test_a_rule_that_does_not_fit_is_refused(count, clouds):
    with pytest.raises(InvalidInput, match=f"{count} thresholds"):
        await resume(clouds(), 1, MAPS, ExitRule(Criterion.ENTROPY, (0.5,) * count))


async def test_no_layer_runs_for_a_refused_request(clouds):
    cloud, ran = clouds(), []
    handles = [
        layer.register_forward_hook(lambda *_: ran.append(1)) for layer in cloud.versions.current.network.modules()
    ]
    for cut, tensor, _ in REFUSED.values():
        with pytest.raises(InvalidInput):
            await resume(cloud, cut, tensor)
    for handle in handles:
        handle.remove()
    assert not ran


async def test_a_half_without_the_first_stages_resumes_behind_them_only(clouds):
    cloud = clouds(first=1)
    assert cloud.served.stages == (1, 2)
    whole = await resume(clouds(), 1, MAPS)
    np.testing.assert_array_equal((await resume(cloud, 1, MAPS)).logits, whole.logits)
    with pytest.raises(InvalidInput, match="cut is 0; this node can resume at 1 to 1"):
        await resume(cloud, 0, IMAGES)


async def test_requests_in_flight_together_keep_their_own_answers(clouds):
    cloud = clouds()
    batches = [pictures(LENET, 1 + number, seed=number) for number in range(6)]
    answers = await asyncio.gather(*(resume(cloud, 0, batch, ExitRule.never(2)) for batch in batches))
    for batch, answer in zip(batches, answers, strict=True):
        expected = random_network().resume(batch, 0, 2, ExitRule.never(2))
        np.testing.assert_array_equal(answer.logits, expected.logits)


async def test_a_read_only_buffer_is_fine(clouds):
    maps = np.frombuffer(MAPS.tobytes(), np.float32).reshape(MAPS.shape)
    np.testing.assert_array_equal((await resume(clouds(), 1, maps)).logits, (await resume(clouds(), 1, MAPS)).logits)


def test_a_half_that_does_not_reach_the_end_is_refused(loaded):
    with pytest.raises(InvalidInput, match="must reach the last stage, this one ends at 1"):
        CloudNode(CloudVersion(*loaded(LENET, 0, 1), MAX_BATCH))
