"""A request over the wire gets what the whole network says in one process, and what it cost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from running_nodes import CLEAR, SHIPPED, Split, in_process, save_artifact, serving_cloud, serving_edge, serving_split

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.errors import InvalidInput
from branchynet.exits.rules import Criterion, ExitRule, entropy, softmax
from branchynet.network.runner import Progress
from branchynet.rpc import messages
from branchynet.rpc.channel import open_channel
from branchynet.rpc.message_sizes import message_bytes
from branchynet.serving.prediction import Place, Policy, Prediction
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc
from simulations.link.proxy import LinkSettings

BATCHES = (1, 7, 64, 256)
POLICIES = tuple(Policy)


def assert_equal(predictions: list[Prediction], expected: Progress) -> None:
    """Labels, exits and probabilities, bit for bit and in order."""
    assert [prediction.exit for prediction in predictions] == expected.exits.tolist()
    assert [prediction.label for prediction in predictions] == expected.logits.argmax(axis=1).tolist()
    probabilities = np.stack([prediction.probabilities for prediction in predictions])
    assert probabilities.dtype == np.float32
    np.testing.assert_array_equal(probabilities, softmax(expected.logits).astype(np.float32))


def expected_for(policy: Policy, images: NDArray[np.uint8], rule: ExitRule | None = None) -> Progress:
    return in_process(images, 1 if policy is Policy.EDGE_ONLY else None, rule)


@pytest.mark.parametrize("policy", POLICIES)
async def test_answers_over_the_wire_equal_those_in_process(split: Split, sample: Dataset, policy: Policy) -> None:
    for batch in BATCHES:
        images = sample.images[100 : 100 + batch]
        assert_equal(await split.client.classify(images, policy=policy), expected_for(policy, images))


@pytest.mark.parametrize("policy", POLICIES)
async def test_answers_to_many_requests_at_once_reach_their_askers(
    split: Split, sample: Dataset, policy: Policy
) -> None:
    batches = [sample.images[start : start + 1 + start % 5] for start in range(0, 60, 3)]
    replies = await asyncio.gather(*(split.client.classify(images, policy=policy) for images in batches))
    for images, predictions in zip(batches, replies, strict=True):
        assert_equal(predictions, expected_for(policy, images))


async def test_the_same_batch_in_another_order_is_answered_in_that_order(split: Split, sample: Dataset) -> None:
    forward = await split.client.classify(sample.images[:64])
    backward = await split.client.classify(sample.images[63::-1])
    assert [answer.label for answer in backward] == [answer.label for answer in reversed(forward)]
    assert [answer.place for answer in backward] == [answer.place for answer in reversed(forward)]
    assert {answer.place for answer in forward} == {Place.EDGE, Place.CLOUD}


@pytest.mark.parametrize(
    ("criterion", "threshold"),
    [
        (Criterion.ENTROPY, 0.05),
        (Criterion.ENTROPY, Criterion.ENTROPY.always),
        (Criterion.ENTROPY, Criterion.ENTROPY.never),
        (Criterion.MAX_PROBABILITY, 0.9),
        (Criterion.MARGIN, 0.3),
        (Criterion.MARGIN, Criterion.MARGIN.never),
    ],
)
@pytest.mark.parametrize("policy", [Policy.SPLIT, Policy.CLOUD_ONLY])
async def test_a_rule_in_the_request_replaces_that_of_the_node(
    split: Split, sample: Dataset, policy: Policy, criterion: Criterion, threshold: float
) -> None:
    rule, images = ExitRule(criterion, (threshold,)), sample.images[:32]
    assert_equal(await split.client.classify(images, rule=rule, policy=policy), expected_for(policy, images, rule))


async def test_an_answer_from_the_edge_costs_no_network_and_one_from_the_cloud_names_its_times(
    sample: Dataset,
) -> None:
    rtt_ms = 60.0
    async with serving_split(LinkSettings.symmetric_delay(None, None, rtt_ms)) as split:
        predictions = await split.client.classify(sample.images[:64])
    local = [answer for answer in predictions if answer.place is Place.EDGE]
    remote = [answer for answer in predictions if answer.place is Place.CLOUD]
    assert len(local) + len(remote) == 64
    for answer in local:
        assert (answer.exit, answer.network_ms, answer.cloud_ms, answer.uplink_bytes) == (0, 0.0, 0.0, 0)
    for answer in remote:
        # The proxy's timers may round each way down by a fraction of a millisecond.
        assert answer.exit == 1
        assert answer.network_ms > rtt_ms - 2
        assert answer.cloud_ms > 0
        assert answer.uplink_bytes > 0
    for answer in predictions:
        assert answer.edge_ms > 0
        assert answer.fallback_reason == ""
        assert answer.probabilities.shape == (10,)
        assert answer.probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert answer.label == answer.probabilities.argmax()


async def test_uplink_bytes_add_up_to_the_message_that_was_sent(split: Split, sample: Dataset) -> None:
    images = sample.images[:64]
    before = split.link.stats().bytes_up
    predictions = await split.client.classify(images)
    edge_half = in_process(images, stages=1)
    manifest = Artifact.open(SHIPPED).manifest
    message = pb.ResumeRequest(
        content_hash=manifest.content_hash[:16],
        cut=1,
        tensor=messages.tensor_from_array(edge_half.features),
    )
    told = sum(answer.uplink_bytes for answer in predictions)
    assert told == message.ByteSize() == split.seen[0].size_bytes
    shares = {answer.uplink_bytes for answer in predictions if answer.place is Place.CLOUD}
    assert max(shares) - min(shares) <= 1
    # What really crossed the link is that message, and little else.
    crossed = split.link.stats().bytes_up - before
    assert told < crossed < told + 4096


async def test_a_message_is_as_large_as_plans_reckon(split: Split, sample: Dataset) -> None:
    artifact = Artifact.open(SHIPPED)
    manifest, network = artifact.manifest, artifact.runner(engine=artifact.reference_engine)
    at_edge = in_process(sample.images[:64], stages=1)
    hard = sample.images[at_edge.remaining[:1]]
    for policy, cut, sent in ((Policy.CLOUD_ONLY, 0, hard), (Policy.SPLIT, 1, at_edge.features[:1])):
        (answer,) = await split.client.classify(hard, policy=policy)
        assert answer.uplink_bytes == message_bytes(manifest, network, cut, sent)


async def test_cloud_only_sends_raw_images_and_edge_only_sends_nothing(split: Split, sample: Dataset) -> None:
    images = sample.images[:32]
    before = split.link.stats().bytes_up
    alone = await split.client.classify(images, policy=Policy.EDGE_ONLY)
    # A connection would be opened with a preface of some dozen bytes; none is needed here.
    assert split.link.stats().bytes_up - before < 256
    assert {answer.place for answer in alone} == {Place.EDGE}
    assert sum(answer.uplink_bytes for answer in alone) == 0
    assert split.seen == []
    raw = await split.client.classify(images, policy=Policy.CLOUD_ONLY)
    assert {answer.place for answer in raw} == {Place.CLOUD}
    assert {answer.exit for answer in raw} == {0, 1}
    assert images.nbytes < sum(answer.uplink_bytes for answer in raw) < images.nbytes + 512
    assert all(answer.edge_ms == 0 for answer in raw), "no layer ran on the edge"


async def test_one_message_carries_all_that_is_left_of_a_batch(split: Split, sample: Dataset) -> None:
    predictions = await split.client.classify(sample.images[:256])
    offloaded = sum(answer.place is Place.CLOUD for answer in predictions)
    assert [call.samples for call in split.seen] == [offloaded]


async def test_an_edge_that_holds_every_stage_needs_no_cloud(sample: Dataset) -> None:
    async with serving_edge("", cut=2) as edge:
        for policy in (Policy.SPLIT, Policy.EDGE_ONLY):
            predictions = await edge.client.classify(sample.images[:32], policy=policy)
            assert_equal(predictions, in_process(sample.images[:32]))
            assert {answer.place for answer in predictions} == {Place.EDGE}


async def test_two_edges_share_one_cloud(sample: Dataset) -> None:
    async with (
        serving_cloud() as cloud,
        serving_edge(cloud.target) as first,
        serving_edge(cloud.target) as second,
    ):
        parts = [sample.images[:40], sample.images[40:80]]
        replies = await asyncio.gather(
            *(edge.client.classify(part) for edge, part in zip((first, second), parts, strict=True))
        )
    for part, predictions in zip(parts, replies, strict=True):
        assert_equal(predictions, in_process(part))


async def test_describe_tells_a_client_all_it_needs(split: Split) -> None:
    manifest = Artifact.open(SHIPPED).manifest
    served = await split.client.describe()
    assert (served.model, served.content_hash) == (SHIPPED, manifest.content_hash)
    assert (served.stages, served.total_stages) == ((0, 1), 2)
    assert served.input_shape == (1, 28, 28)
    assert served.labels == manifest.labels
    assert served.rule == manifest.rule
    assert served.max_batch == 256
    async with open_channel(split.cloud.target, 2**20) as channel:
        cloud = messages.served_from_reply(await pb_grpc.CloudStub(channel).Describe(pb.DescribeRequest(), timeout=20))
    assert cloud == replace(served, stages=(0, 2))


async def test_three_exits_and_every_cut(tmp_path: Path) -> None:
    """A network that nobody trained: whatever its stages say, the wire must not change it."""
    folder = save_artifact(tmp_path / "alexnet", "b-alexnet")
    network = Artifact.open(folder).network()
    pixels = np.random.default_rng(0).integers(0, 256, (12, *network.input_shape), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    with torch.inference_mode():
        scores = [entropy(logits.numpy()) for logits in network(network.normalisation(images))]
    rule = ExitRule(Criterion.ENTROPY, tuple(float(np.median(of_exit)) for of_exit in scores[:-1]))
    expected = network.resume(pixels, 0, network.last, rule)
    assert set(expected.exits.tolist()) == {0, 1, 2}
    for cut in range(1, network.total_stages):
        async with serving_split(CLEAR, folder, cut=cut) as split:
            assert_equal(await split.client.classify(pixels, rule=rule), expected)


async def test_the_client_refuses_a_dtype_that_has_no_form_on_the_wire(split: Split, sample: Dataset) -> None:
    with pytest.raises(InvalidInput, match="int64"):
        await split.client.classify(sample.images[:1].astype(np.int64))
