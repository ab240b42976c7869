"""What tools ask a node: is it well, what does it offer. Nothing but reflection is needed for a call."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from running_nodes import Gate, Split, computing, eventually, in_process, serving_cloud, serving_edge

from branchynet.data.datasets import Dataset
from branchynet.rpc.channel import open_blocking_channel, open_channel
from branchynet.serving.prediction import Policy

SERVING = health_pb2.HealthCheckResponse.SERVING
HEALTH, REFLECTION = "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"
OPEN_INFERENCE = "branchynet.oip.v1.GRPCInferenceService"


def check(channel: grpc.aio.Channel, service: str, timeout_s: float = 20) -> Any:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)


async def test_both_nodes_say_serving_for_themselves_and_for_their_service(split: Split) -> None:
    for target, service in ((split.edge.target, "branchynet.v1.Edge"), (split.cloud.target, "branchynet.v1.Cloud")):
        async with open_channel(target, 2**20) as channel:
            for name in ("", service):
                assert (await check(channel, name)).status == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await check(channel, "branchynet.v1.Fog")
            assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_edge_is_well_without_its_cloud(sample: Dataset) -> None:
    async with serving_edge("") as edge, open_channel(edge.target, 2**20) as channel:
        await edge.client.classify(sample.images[:64])
        assert (await check(channel, "")).status == SERVING


@pytest.mark.parametrize("node", ["edge", "cloud"])
async def test_health_is_answered_while_a_network_computes(split: Split, sample: Dataset, node: str) -> None:
    """The layers hold their thread for as long as this test likes; on the event loop they would hold everybody."""
    running = split.edge if node == "edge" else split.cloud
    gate = Gate(running.network)
    policy = Policy.EDGE_ONLY if node == "edge" else Policy.CLOUD_ONLY
    request = asyncio.create_task(split.client.classify(sample.images[:256], policy=policy))

    try:
        await eventually(computing(gate), "the network computes")
        async with open_channel(running.target, 2**20) as channel:
            for _ in range(20):
                assert (await check(channel, "", timeout_s=5)).status == SERVING
            assert not request.done()
    finally:
        gate.open()
    assert len(await request) == 256


@pytest.mark.parametrize("node", ["edge", "cloud"])
async def test_reflection_lists_the_services_and_their_descriptors(split: Split, node: str) -> None:
    target = split.edge.target if node == "edge" else split.cloud.target
    service = f"branchynet.v1.{node.capitalize()}"

    def ask() -> tuple[list[str], list[str]]:
        with open_blocking_channel(target, 2**24) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            methods = pool.FindServiceByName(service).methods
            return sorted(database.get_services()), [method.name for method in methods]

    services, methods = await asyncio.to_thread(ask)
    assert services == sorted([service, OPEN_INFERENCE, HEALTH, REFLECTION])
    assert methods == (["Classify", "Describe"] if node == "edge" else ["Resume", "Describe"])


async def test_a_call_can_be_made_from_reflection_alone(split: Split, sample: Dataset) -> None:
    """As grpcurl does it: no stub of ours is used."""

    def ask() -> Any:
        with open_blocking_channel(split.edge.target, 2**24) as channel:
            pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            method = pool.FindServiceByName("branchynet.v1.Edge").methods_by_name["Classify"]
            request = message_factory.GetMessageClass(method.input_type)()
            reply = message_factory.GetMessageClass(method.output_type)
            request.images.dtype = 1
            request.images.shape.extend([16, 1, 28, 28])
            request.images.data = sample.images[:16].tobytes()
            call = channel.unary_unary(
                f"/{method.containing_service.full_name}/{method.name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=reply.FromString,
            )
            return call(request, timeout=20)

    reply = await asyncio.to_thread(ask)
    assert [answer.label for answer in reply.answers] == in_process(sample.images[:16]).logits.argmax(axis=1).tolist()


async def test_health_can_be_watched() -> None:
    async with serving_cloud() as cloud, open_channel(cloud.target, 2**20) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="branchynet.v1.Cloud"), timeout=20
        )
        assert (await watch.read()).status == SERVING
        watch.cancel()
