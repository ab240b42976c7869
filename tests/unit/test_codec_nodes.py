"""An edge and a cloud with a codec between them: what is decoded is what the deeper layers see, and nothing is lost."""

import dataclasses

import numpy as np
import pytest
from network_examples import LENET, pictures, random_network
from node_examples import IMAGES, FailingUplink, WorkingUplink, check_answers, mixed, whole_answers

from branchynet.codecs import FixedRanges, Payload, named_codec
from branchynet.errors import InvalidInput, TooLarge, Unavailable
from branchynet.exits.rules import ExitRule
from branchynet.models.architectures import Architecture
from branchynet.placement.plan import Plan
from branchynet.serving.prediction import Place, Policy
from cloud_node.node import CloudNode
from cloud_node.version import CloudVersion

ALEXNET = Architecture("b-alexnet")


def sending(codec, cut=1, exits=2):
    """A plan that sends feature maps by *codec*."""
    return {"plan": Plan(cut, ExitRule.never(exits), codec=codec)}


@pytest.mark.parametrize("name", ["fp32", "fp32+mask", "fp32+zstd"])
@pytest.mark.parametrize(("architecture", "cut"), [(LENET, 1), (ALEXNET, 1), (ALEXNET, 2)])
async def test_with_a_lossless_codec_the_halves_equal_the_whole_bit_for_bit(architecture, cut, name, nodes):
    images = pictures(architecture, 12)
    rule, uplink = mixed(images, architecture), WorkingUplink(nodes.cloud(architecture))
    edge = nodes(uplink, architecture, cut, **sending(name, cut, len(rule.thresholds) + 1))
    check_answers(await edge.classify(images, rule=rule), *whole_answers(architecture, images, rule))
    assert isinstance(uplink.calls[0][1], Payload) == (name != "fp32")


@pytest.mark.parametrize("name", ["raw", "raw+zstd", "png", "webp"])
async def test_images_in_a_lossless_file_are_answered_like_images(name, nodes):
    uplink = WorkingUplink(nodes.cloud())
    edge = nodes(uplink, image_codec=name)
    answers = await edge.classify(IMAGES, rule=mixed(), policy=Policy.CLOUD_ONLY)
    check_answers(answers, *whole_answers(LENET, IMAGES, mixed()))
    assert isinstance(uplink.calls[0][1], Payload) == (name != "raw")


@pytest.mark.parametrize("name", ["fp16", "uint8+zstd", "uint4+mask"])
async def test_the_cloud_goes_on_from_what_was_decoded(name, nodes):
    never = ExitRule.never(2)
    network, codec = random_network(LENET), named_codec(name)
    features = network.resume(IMAGES, 0, 1, never).features
    payload = codec.encode(features)
    received = codec.decode(payload, features.shape[1:], 64).copy()
    expected = network.resume(received, 1, 2, never)
    answers = await nodes(WorkingUplink(nodes.cloud()), **sending(name)).classify(IMAGES, rule=never)
    np.testing.assert_array_equal([answer.label for answer in answers], expected.logits.argmax(1))
    resumed = await nodes.cloud().resume(nodes.cloud().served.content_hash, 1, payload, never)
    np.testing.assert_array_equal(resumed.logits, expected.logits)


async def test_coding_is_counted_as_the_edges_time(nodes, monkeypatch):
    edge = nodes(WorkingUplink(nodes.cloud()), **sending("uint8"))
    whole = []

    async def run(call, *args):
        done = await worker_run(call, *args)
        whole.append(done.queue_ms + done.compute_ms)
        return done

    worker_run = edge._worker.run
    monkeypatch.setattr(edge._worker, "run", run)
    answers = await edge.classify(IMAGES, rule=ExitRule.never(2))
    assert len(whole) == 2
    assert {answer.edge_ms for answer in answers} == {sum(whole)}


async def test_what_cannot_be_encoded_is_answered_by_the_edge(nodes):
    edge = nodes(FailingUplink(Unavailable("must not be asked")), **sending("uint8"))
    edge.versions.current._feature_codec = named_codec("uint8-calibrated")
    answers = await edge.classify(IMAGES, rule=ExitRule.never(2))
    assert {answer.place for answer in answers} == {Place.FALLBACK}
    assert all("ranges that were calibrated" in answer.fallback_reason for answer in answers)
    assert sum(answer.uplink_bytes for answer in answers) == 0


def test_an_edge_refuses_a_codec_whose_ranges_the_artifact_does_not_hold(nodes):
    with pytest.raises(InvalidInput, match=r"uint8-calibrated needs the ranges .* at cut 1, .* calibrate --keep-rule"):
        nodes(None, **sending("uint8-calibrated"))


@pytest.mark.parametrize("options", [sending("png"), {"image_codec": "fp32"}, {"image_codec": "uint8"}])
def test_an_edge_refuses_a_codec_for_the_wrong_cut(options, nodes):
    with pytest.raises(InvalidInput, match=r"at cut [01] there are"):
        nodes(None, **options)


async def test_a_cloud_decodes_by_its_own_ranges(loaded, nodes):
    ranges = FixedRanges((0.0,) * 5, (2.0,) * 5)
    artifact, network = loaded(LENET)
    payload = named_codec("uint8-calibrated", ranges).encode(np.ones((1, 5, 15, 15), np.float32))
    knowing = CloudNode(CloudVersion(artifact.with_fields(codec_ranges={1: ranges}), network, 4))
    try:
        assert len((await knowing.resume(artifact.manifest.content_hash, 1, payload, None)).exits) == 1
    finally:
        knowing.close()
    with pytest.raises(InvalidInput, match="needs the ranges"):
        await nodes.cloud().resume(artifact.manifest.content_hash, 1, payload, None)


def payload(name, shape=(1, 5, 15, 15)):
    codec = named_codec(name)
    return codec.encode(np.ones(shape, codec.dtype))


@pytest.mark.parametrize(
    ("cut", "sent", "error", "complaint"),
    [
        (1, dataclasses.replace(payload("uint8"), codec="gzip"), InvalidInput, "'gzip' is unknown"),
        (1, payload("raw", (1, 1, 28, 28)), InvalidInput, "at cut 1 there are float32"),
        (0, payload("uint8"), InvalidInput, "at cut 0 there are uint8"),
        (1, payload("uint8", (1, 5, 15, 14)), InvalidInput, "15, 14"),
        (1, payload("uint8", (65, 5, 15, 15)), TooLarge, "65 samples, at most 64"),
        (1, Payload("fp32+mask", 1, (1, 5, 15, 15), b"\xff" * (141 + 4500)), InvalidInput, "must be finite"),
    ],
)
async def test_a_cloud_refuses_what_it_cannot_decode_and_goes_on(cut, sent, error, complaint, nodes):
    cloud = nodes.cloud()
    with pytest.raises(error, match=complaint):
        await cloud.resume(cloud.served.content_hash, cut, sent, None)
    assert len((await cloud.resume(cloud.served.content_hash, 1, payload("uint8"), None)).exits) == 1


async def test_a_history_has_to_fit_what_was_decoded(nodes):
    cloud = nodes.cloud(ALEXNET)
    sent = payload("uint8", cloud.shapes[1] and (2, *cloud.shapes[1]))
    rule = ExitRule("patience", (2.0, 2.0))
    with pytest.raises(InvalidInput, match="history"):
        await cloud.resume(cloud.served.content_hash, 1, sent, rule, np.zeros((1, 2), np.int32))
