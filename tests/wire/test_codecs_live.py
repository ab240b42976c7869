"""Codecs over the wire: fewer bytes, the answers of the decoded map, and refusals that name what is wrong."""

from __future__ import annotations

import pytest
from running_nodes import SHIPPED, in_process, serving_cloud, serving_edge

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.exits.rules import ExitRule
from branchynet.serving.prediction import Place, Policy

NEVER = ExitRule.never(2)


@pytest.mark.parametrize("name", ["fp32+zstd", "uint8+zstd", "uint4-calibrated+zstd", "uint4+mask+zstd", "bottleneck"])
async def test_an_edge_with_a_codec_sends_less_and_its_answers_are_those_of_the_decoded_map(
    sample: Dataset, name: str
) -> None:
    images = sample.images[:32]
    codec = Artifact.open(SHIPPED).codec(name, 1)
    features = in_process(images, stages=1, rule=NEVER).features
    payload = codec.encode(features)
    async with serving_cloud() as cloud, serving_edge(cloud.target, codec=name) as edge:
        answers = await edge.client.classify(images, rule=NEVER)
        received = codec.decode(payload, features.shape[1:], len(images)).copy()
        expected = cloud.network.resume(received, 1, 2, NEVER)
    assert {answer.place for answer in answers} == {Place.CLOUD}
    assert [answer.label for answer in answers] == expected.logits.argmax(axis=1).tolist()
    told = sum(answer.uplink_bytes for answer in answers)
    assert len(payload.data) < told < len(payload.data) + 300
    assert told < features.nbytes / 1.5


async def test_cloud_only_may_send_files(sample: Dataset) -> None:
    images = sample.images[:32]
    async with serving_cloud() as cloud, serving_edge(cloud.target, image_codec="webp") as edge:
        answers = await edge.client.classify(images, policy=Policy.CLOUD_ONLY)
    assert [answer.label for answer in answers] == in_process(images).logits.argmax(axis=1).tolist()
    assert sum(answer.uplink_bytes for answer in answers) < images.nbytes * 0.9
