"""What a tritonclient is told about a node, its model and its work."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from running_nodes import SHIPPED, Gate, Split, computing, eventually, serving_cloud
from triton_calls import VERSION, aio_client, infer, refused, sync_client, where
from tritonclient.utils import InferenceServerException

from branchynet.data.datasets import Dataset
from branchynet.rpc.channel import open_blocking_channel, open_channel

NODES = ("edge", "cloud")
OUTPUTS = [
    ("label", "INT64", [-1]),
    ("probabilities", "FP32", [-1, 10]),
    ("exit", "INT32", [-1]),
    ("where", "BYTES", [-1]),
]
INPUTS = {
    "edge": [("image", "UINT8", [-1, 1, 28, 28])],
    "cloud": [("image", "UINT8", [-1, 1, 28, 28]), ("features", "FP32", [-1, 5, 15, 15])],
}
# Numbers of the standard's DataType.
TYPES = {"UINT8": 2, "INT32": 8, "INT64": 9, "FP32": 11, "BYTES": 13}


def target(split: Split, node: str) -> str:
    return split.edge.target if node == "edge" else split.cloud.target


@pytest.mark.parametrize("node", NODES)
async def test_the_blocking_client_is_told_everything(split: Split, node: str) -> None:
    def ask() -> dict[str, Any]:
        with sync_client(target(split, node)) as client:
            return {
                "live": client.is_server_live(),
                "ready": client.is_server_ready(),
                "model": [client.is_model_ready(SHIPPED, version) for version in ("", VERSION)],
                "server": client.get_server_metadata(as_json=True),
                "metadata": client.get_model_metadata(SHIPPED, as_json=True),
                "config": client.get_model_config(SHIPPED, as_json=True)["config"],
                "statistics": client.get_inference_statistics(as_json=True)["model_stats"],
            }

    told = await asyncio.to_thread(ask)
    assert (told["live"], told["ready"], told["model"]) == (True, True, [True, True])
    assert told["server"]["name"] == f"branchynet-{node}"
    assert told["metadata"]["name"] == SHIPPED
    assert told["config"]["model_transaction_policy"] == {}
    assert [model["name"] for model in told["statistics"]] == [SHIPPED]


@pytest.mark.parametrize("node", NODES)
async def test_metadata_lists_inputs_and_outputs(split: Split, node: str) -> None:
    async with aio_client(target(split, node)) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        server = await client.get_server_metadata()
        model = await client.get_model_metadata(SHIPPED, VERSION)
    assert (server.name, list(server.extensions)) == (
        f"branchynet-{node}",
        ["model_configuration", "parameters", "statistics"],
    )
    assert (model.name, list(model.versions), model.platform) == (SHIPPED, [VERSION], "pytorch")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in model.inputs] == INPUTS[node]
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in model.outputs] == OUTPUTS


@pytest.mark.parametrize("node", NODES)
async def test_the_configuration_tells_limits_stages_and_rule(split: Split, node: str) -> None:
    served = (split.edge if node == "edge" else split.cloud).node.served
    async with aio_client(target(split, node)) as client:
        config = (await client.get_model_config(SHIPPED)).config
    assert (config.name, config.platform, config.backend, config.max_batch_size) == (
        SHIPPED,
        "pytorch",
        "branchynet",
        256,
    )
    assert not config.model_transaction_policy.decoupled
    one_of = len(INPUTS[node]) > 1
    assert [(tensor.name, tensor.data_type, list(tensor.dims), tensor.optional) for tensor in config.input] == [
        (name, TYPES[datatype], shape[1:], one_of) for name, datatype, shape in INPUTS[node]
    ]
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.output] == [
        (name, TYPES[datatype], shape[1:] or [1]) for name, datatype, shape in OUTPUTS
    ]
    told = {name: parameter.string_value for name, parameter in config.parameters.items()}
    assert told.pop("content_hash") == served.content_hash
    assert told.pop("criterion") == served.rule.criterion
    assert tuple(float(number) for number in told.pop("thresholds").split(",")) == served.rule.thresholds
    assert tuple(json.loads(told.pop("labels"))) == served.labels
    assert json.loads(told.pop("preprocessing")) == served.preprocessing.to_json()
    if node == "edge":
        plan = {"cut": "1", "codec": "fp32", "edge_only": "false"}
        assert told == {"first_stage": "0", "last_stage": "1", "total_stages": "2", **plan}
    else:
        assert json.loads(told.pop("cut_shapes")) == {"0": [1, 28, 28], "1": [5, 15, 15]}
        assert told == {"first_stage": "0", "last_stage": "2", "total_stages": "2"}


async def test_a_cloud_without_the_early_stages_offers_no_image() -> None:
    async with serving_cloud(first_stage=1) as cloud, aio_client(cloud.target) as client:
        metadata = await client.get_model_metadata(SHIPPED)
        config = (await client.get_model_config(SHIPPED)).config
    assert [tensor.name for tensor in metadata.inputs] == ["features"]
    assert [(tensor.name, tensor.optional) for tensor in config.input] == [("features", False)]
    assert json.loads(config.parameters["cut_shapes"].string_value) == {"1": [5, 15, 15]}


@pytest.mark.parametrize("node", NODES)
async def test_another_model_or_version_is_not_ready_and_not_found(split: Split, node: str) -> None:
    async with aio_client(target(split, node)) as client:
        served = (split.edge if node == "edge" else split.cloud).node.served
        assert await client.is_model_ready(SHIPPED, served.content_hash)
        for model, version, words in (
            ("resnet-5000", "", ["'resnet-5000'", f"'{SHIPPED}'"]),
            (SHIPPED, "1", ["'1'", VERSION]),
        ):
            assert not await client.is_model_ready(model, version)
            for ask in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
                with pytest.raises(InferenceServerException) as refusal:
                    await ask(model, version)
                status, message = refused(refusal.value)
                assert status == "NOT_FOUND"
                assert all(word in message for word in words)


async def test_what_is_not_served_says_so(split: Split) -> None:
    async with aio_client(split.edge.target) as client:
        for ask in (client.get_model_repository_index, lambda: client.load_model(SHIPPED)):
            with pytest.raises(InferenceServerException) as refusal:
                await ask()
            assert refused(refusal.value)[0] == "UNIMPLEMENTED"


@pytest.mark.parametrize("node", NODES)
async def test_health_knows_both_names_and_reflection_the_described_one(split: Split, node: str) -> None:
    described = "branchynet.oip.v1.GRPCInferenceService"
    async with open_channel(target(split, node), 2**20) as channel:
        for name in (described, "inference.GRPCInferenceService"):
            reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING

    def ask() -> tuple[list[str], list[str]]:
        with open_blocking_channel(target(split, node), 2**24) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            methods = DescriptorPool(database).FindServiceByName(described).methods
            return list(database.get_services()), [method.name for method in methods]

    services, methods = await asyncio.to_thread(ask)
    assert described in services
    assert "inference.GRPCInferenceService" not in services
    assert methods == [
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelInfer",
        "ModelStreamInfer",
        "ModelConfig",
        "ModelStatistics",
    ]


@pytest.mark.parametrize("node", NODES)
async def test_statistics_add_up(split: Split, sample: Dataset, node: str) -> None:
    """Three good requests, two bad ones, one for another model, and one of our own protocol, which does not count."""
    started_ms = time.time_ns() // 1_000_000
    answered: Counter[str] = Counter()
    async with aio_client(target(split, node)) as client:
        before = (await client.get_inference_statistics()).model_stats[0]
        assert (before.inference_count, before.execution_count, before.last_inference) == (0, 0, 0)
        for batch in (1, 30, 64):
            result = await infer(client, sample.images[:batch])
            answered.update(
                f"{place}/{number}" for place, number in zip(where(result), result.as_numpy("exit"), strict=True)
            )
        for spoilt in ({"parameters": {"luck": 1}}, {"model_name": "other"}):
            with pytest.raises(InferenceServerException):
                await infer(client, sample.images[:4], **spoilt)
        with pytest.raises(InferenceServerException):
            await infer(client, sample.images[:4].astype(np.float32))
        await split.client.classify(sample.images[:9])
        (after,) = (await client.get_inference_statistics(SHIPPED, VERSION)).model_stats
    ended_ms = time.time_ns() // 1_000_000
    assert (after.name, after.version) == (SHIPPED, VERSION)
    assert (after.inference_count, after.execution_count) == (95, 3)
    assert started_ms <= after.last_inference <= ended_ms
    spent = after.inference_stats
    parts = (spent.queue, spent.compute_input, spent.compute_infer, spent.compute_output)
    assert [part.count for part in (spent.success, *parts)] == [3] * 5
    assert spent.fail.count == 2
    assert all(part.ns > 0 for part in (spent.fail, *parts))
    assert spent.success.ns == sum(part.ns for part in parts)
    assert spent.success.ns < 1e6 * (ended_ms + 1 - started_ms)
    assert {name: images.success.count for name, images in after.response_stats.items()} == answered
    assert len(answered) == 2
    assert sum(images.success.ns for images in after.response_stats.values()) > spent.success.ns


@pytest.mark.parametrize("node", NODES)
async def test_waiting_for_the_compute_thread_is_told_apart_from_computing(
    split: Split, sample: Dataset, node: str
) -> None:
    """One request computes for 0.3 s, the other waits for it."""
    gate = Gate((split.edge if node == "edge" else split.cloud).network)
    try:
        async with aio_client(target(split, node)) as client:
            started_ns = time.perf_counter_ns()
            requests = [asyncio.create_task(infer(client, sample.images[:64])) for _ in range(2)]
            await eventually(computing(gate), "the first request computes")
            await asyncio.sleep(0.3)
            gate.open()
            await asyncio.gather(*requests)
            elapsed_ns = time.perf_counter_ns() - started_ns
            spent = (await client.get_inference_statistics()).model_stats[0].inference_stats
    finally:
        gate.open()
    assert 0.2e9 < spent.queue.ns < spent.success.ns / 2
    assert spent.compute_infer.ns > 0.2e9
    assert spent.success.ns < 2 * elapsed_ns
