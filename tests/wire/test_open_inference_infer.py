"""A tritonclient gets the answers that our own client gets, and each of its parameters does what it says."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from running_nodes import SHIPPED, Split, in_process, serving_cloud, serving_edge
from triton_calls import (
    TIMEOUT_S,
    VERSION,
    aio_client,
    assert_same,
    assert_says,
    infer,
    sync_client,
    tensor_input,
    where,
)
from tritonclient.grpc import service_pb2, service_pb2_grpc

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.exits.rules import Criterion, ExitRule, entropy, softmax
from branchynet.models.architectures import cut_shapes
from branchynet.rpc.channel import open_channel
from branchynet.serving.prediction import Policy


@pytest.mark.parametrize("batch", [1, 7, 64, 256])
async def test_answers_equal_those_of_our_own_client(split: Split, sample: Dataset, batch: int) -> None:
    images = sample.images[200 : 200 + batch]
    ours = await split.client.classify(images)
    async with aio_client(split.edge.target) as client:
        result = await infer(client, images)
    assert_same(result, ours)


async def test_the_blocking_client_gets_the_same_and_its_id_back(split: Split, sample: Dataset) -> None:
    images = sample.images[:32]

    def ask() -> tuple[triton.InferResult, triton.InferResult]:
        with sync_client(split.edge.target) as client:
            options: dict[str, Any] = {"model_name": SHIPPED, "inputs": [tensor_input(images)]}
            plain = client.infer(**options, request_id="camera-7/41", model_version=VERSION)
            return plain, client.infer(**options, compression_algorithm="gzip")

    plain, squeezed = await asyncio.to_thread(ask)
    ours = await split.client.classify(images)
    for result in (plain, squeezed):
        assert_same(result, ours)
        response = result.get_response()
        assert (response.model_name, response.model_version) == (SHIPPED, VERSION)
    assert plain.get_response().id == "camera-7/41"
    assert squeezed.get_response().id == ""


async def test_many_requests_at_once_reach_their_askers(split: Split, sample: Dataset) -> None:
    batches = [sample.images[start : start + 1 + start % 4] for start in range(0, 60, 3)]
    async with aio_client(split.edge.target) as client:
        results = await asyncio.gather(
            *(infer(client, images, request_id=str(number)) for number, images in enumerate(batches))
        )
    for number, (images, result) in enumerate(zip(batches, results, strict=True)):
        assert result.get_response().id == str(number)
        assert_same(result, await split.client.classify(images))


async def test_only_the_outputs_asked_for_come_in_the_order_asked(split: Split, sample: Dataset) -> None:
    outputs = [triton.InferRequestedOutput(name) for name in ("where", "label")]
    async with aio_client(split.edge.target) as client:
        everything = await infer(client, sample.images[:16])
        result = await infer(client, sample.images[:16], outputs=outputs)
    assert [output.name for output in result.get_response().outputs] == ["where", "label"]
    assert len(result.get_response().raw_output_contents) == 2
    assert where(result) == where(everything)
    np.testing.assert_array_equal(result.as_numpy("label"), everything.as_numpy("label"))
    assert result.as_numpy("probabilities") is None


async def test_costs_come_as_response_parameters(split: Split, sample: Dataset) -> None:
    images = sample.images[:64]
    ours = await split.client.classify(images)
    async with aio_client(split.edge.target) as client:
        told = (await infer(client, images)).get_response().parameters
        alone = (await infer(client, images, parameters={"policy": "edge-only"})).get_response().parameters
    assert set(told) == set(alone) == {"edge_ms", "network_ms", "cloud_ms", "uplink_bytes"}
    assert told["uplink_bytes"].int64_param == sum(answer.uplink_bytes for answer in ours) > 0
    assert min(told[name].double_param for name in ("edge_ms", "network_ms", "cloud_ms")) > 0
    assert alone["edge_ms"].double_param > 0
    assert alone["network_ms"].double_param == alone["cloud_ms"].double_param == alone["uplink_bytes"].int64_param == 0


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        ({"threshold": 0.25}, ExitRule(Criterion.ENTROPY, (0.25,))),
        ({"threshold": "0.25"}, ExitRule(Criterion.ENTROPY, (0.25,))),
        ({"threshold": 1}, ExitRule(Criterion.ENTROPY, (1.0,))),
        ({"threshold": 0.9, "criterion": "max-probability"}, ExitRule(Criterion.MAX_PROBABILITY, (0.9,))),
        ({"threshold": "0.5", "criterion": "margin"}, ExitRule(Criterion.MARGIN, (0.5,))),
    ],
)
async def test_a_rule_in_the_parameters_is_obeyed(
    split: Split, sample: Dataset, parameters: dict[str, Any], rule: ExitRule
) -> None:
    images = sample.images[:128]
    served, ours = await split.client.classify(images), await split.client.classify(images, rule=rule)
    assert [answer.exit for answer in served] != [answer.exit for answer in ours]
    async with aio_client(split.edge.target) as client:
        assert_same(await infer(client, images, parameters=parameters), ours)
        # The whole network in the cloud takes the same parameters.
    async with aio_client(split.cloud.target) as client:
        result = await infer(client, images, parameters=parameters)
    whole = in_process(images, rule=rule)
    assert_says(result, whole.exits, softmax(whole.logits).astype(np.float32), ["cloud"] * 128)


async def test_the_served_criterion_may_be_named_alone(split: Split, sample: Dataset) -> None:
    async with aio_client(split.edge.target) as client:
        named = await infer(client, sample.images[:32], parameters={"criterion": "entropy"})
    assert_same(named, await split.client.classify(sample.images[:32]))


async def test_thresholds_at_their_ends_send_all_or_nothing(split: Split, sample: Dataset) -> None:
    async with aio_client(split.edge.target) as client:
        never = await infer(client, sample.images[:32], parameters={"threshold": 0.0})
        always = await infer(client, sample.images[:32], parameters={"threshold": 1e9})
    assert set(where(never)) == {"cloud"}
    assert set(never.as_numpy("exit")) == {1}
    assert set(where(always)) == {"edge"}
    assert [call.samples for call in split.seen] == [32]


@pytest.mark.parametrize("policy", list(Policy))
async def test_the_policy_decides_what_is_sent(split: Split, sample: Dataset, policy: Policy) -> None:
    images = sample.images[:64]
    ours = await split.client.classify(images, policy=policy)
    sent = [call.samples for call in split.seen]
    async with aio_client(split.edge.target) as client:
        assert_same(await infer(client, images, parameters={"policy": policy.value}), ours)
    assert [call.samples for call in split.seen] == 2 * sent
    expected = {Policy.SPLIT: {"edge", "cloud"}, Policy.EDGE_ONLY: {"edge"}, Policy.CLOUD_ONLY: {"cloud"}}
    assert {answer.place.value for answer in ours} == expected[policy]


@pytest.mark.parametrize("deadline_ms", [1, 1.5])
async def test_a_deadline_too_short_for_the_cloud_falls_back(split: Split, sample: Dataset, deadline_ms: float) -> None:
    parameters = {"threshold": 0.0, "deadline_ms": deadline_ms}
    async with aio_client(split.edge.target) as client:
        result = await infer(client, sample.images[:8], parameters=parameters)
    told = result.get_response().parameters
    assert where(result) == ["fallback"] * 8
    assert set(result.as_numpy("exit")) == {0}
    assert told["fallback_reason"].string_param.startswith("DEADLINE_EXCEEDED: ")
    assert split.seen == []


@pytest.mark.parametrize(("deadline_ms", "client_timeout_s"), [(400, TIMEOUT_S), (400, None), (1_000 * TIMEOUT_S, 0.8)])
async def test_the_shorter_of_both_deadlines_counts(
    split: Split, sample: Dataset, deadline_ms: int, client_timeout_s: float | None
) -> None:
    """The link stalls and the edge would wait 20 s by itself; the connection is made before."""
    async with aio_client(split.edge.target) as client:
        await infer(client, sample.images[:8], parameters={"policy": "cloud-only"})
        split.link.stall()
        started_s = time.monotonic()
        parameters = {"policy": "cloud-only", "deadline_ms": deadline_ms}
        result = await infer(client, sample.images[:8], parameters=parameters, client_timeout=client_timeout_s)
        assert time.monotonic() - started_s < 10
    assert where(result) == ["fallback"] * 8


async def test_an_edge_without_a_cloud_says_why_it_fell_back(sample: Dataset) -> None:
    async with serving_edge("") as edge, aio_client(edge.target) as client:
        result = await infer(client, sample.images[:64])
        assert_same(result, await edge.client.classify(sample.images[:64]))
    assert set(where(result)) == {"edge", "fallback"}
    reason = result.get_response().parameters["fallback_reason"].string_param
    assert reason == "UNAVAILABLE: this edge was given no cloud"


async def test_typed_contents_are_as_good_as_raw_ones(split: Split, sample: Dataset) -> None:
    """tritonclient sends raw bytes only; other clients of the standard fill the typed fields."""
    images = sample.images[:16]
    request = service_pb2.ModelInferRequest(model_name=SHIPPED)
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    tensor.contents.uint_contents.extend(images.ravel().tolist())
    async with open_channel(split.edge.target, 2**24) as channel:
        reply = await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=TIMEOUT_S)
    assert_same(triton.InferResult(reply), await split.client.classify(images))
    maps = np.random.default_rng(1).standard_normal((3, 5, 15, 15)).astype(np.float32)
    request = service_pb2.ModelInferRequest(model_name=SHIPPED)
    request.parameters["cut"].uint64_param = 1
    tensor = request.inputs.add(name="features", datatype="FP32", shape=maps.shape)
    tensor.contents.fp32_contents.extend(maps.ravel().tolist())
    async with open_channel(split.cloud.target, 2**24) as channel, aio_client(split.cloud.target) as client:
        reply = await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=TIMEOUT_S)
        raw = await infer(client, maps, "features", parameters={"cut": 1})
    assert list(reply.raw_output_contents) == list(raw.get_response().raw_output_contents)


async def test_the_described_name_answers_like_the_wire_name(split: Split, sample: Dataset) -> None:
    images = sample.images[:4]
    request = service_pb2.ModelInferRequest(raw_input_contents=[images.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    async with open_channel(split.edge.target, 2**24) as channel:
        call = channel.unary_unary(
            "/branchynet.oip.v1.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        reply = await call(request, timeout=TIMEOUT_S)
    assert_same(triton.InferResult(reply), await split.client.classify(images))


def pictures(name: str, sample: Dataset) -> np.ndarray[Any, Any]:
    shape = Artifact.open(name).manifest.architecture.input_shape
    if shape == sample.images.shape[1:]:
        return sample.images[:96]
    return np.random.default_rng(5).integers(0, 256, (96, *shape), dtype=np.uint8)


@pytest.mark.parametrize("name", ["lenet-fashion", "alexnet-cifar10"])
async def test_features_of_a_real_edge_half_give_the_answers_of_the_whole_network(sample: Dataset, name: str) -> None:
    """At every legal cut: those whom the edge half leaves undecided are answered as if nobody had cut."""
    folder: Path = zoo.find(name)
    images = pictures(name, sample)
    artifact = Artifact.open(folder)
    manifest, whole = artifact.manifest, artifact.network()
    first = whole.resume(images.copy(), 0, 1, ExitRule.never(whole.exits))
    rule = ExitRule(Criterion.ENTROPY, (float(np.median(entropy(first.logits))),) * (whole.exits - 1))
    expected = whole.resume(images.copy(), 0, whole.last, rule)
    parameters = {"threshold": ",".join(map(str, rule.thresholds)), "criterion": "entropy"}
    async with serving_cloud(folder) as cloud, aio_client(cloud.target) as client:
        cuts = range(1, len(cut_shapes(manifest.architecture)))
        for cut in cuts:
            half = Artifact.open(folder).network(0, cut)
            progress = half.resume(images.copy(), 0, cut, rule)
            left = progress.remaining
            assert 0 < len(left) < len(images)
            result = await infer(
                client,
                progress.features,
                "features",
                model_name=name,
                parameters={**parameters, "cut": cut},
            )
            assert_says(
                result, expected.exits[left], softmax(expected.logits[left]).astype(np.float32), ["cloud"] * len(left)
            )
        for parameter in ({}, {"cut": 0}):
            result = await infer(client, images, model_name=name, parameters={**parameters, **parameter})
            assert_says(result, expected.exits, softmax(expected.logits).astype(np.float32), ["cloud"] * len(images))
    assert len(cuts) == whole.last - 1
    assert set(result.get_response().parameters) == {"cloud_ms"}
