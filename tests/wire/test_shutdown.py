"""A node that is told to stop says so first, refuses what is new, and answers what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running_nodes import SHIPPED, Gate, computing, eventually, serving_cloud, serving_edge

from branchynet.artifact.artifact import Artifact
from branchynet.client.client import AsyncClient
from branchynet.data.datasets import Dataset
from branchynet.placement.offload_deadline import OffloadLimits
from branchynet.rpc.channel import open_channel
from branchynet.rpc.server import running_server
from branchynet.serving.prediction import Policy
from edge_node.node import EdgeNode
from edge_node.service import EdgeService
from edge_node.settings import EdgeSettings
from edge_node.version import EdgeVersion
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass(frozen=True)
class Stoppable:
    """An edge on a server that drains when *stop* is set; *ended* is done when it has."""

    target: str
    gate: Gate
    stop: asyncio.Event
    ended: asyncio.Task[None]


@contextlib.asynccontextmanager
async def stoppable_edge(grace_s: float) -> AsyncIterator[Stoppable]:
    artifact = Artifact.open(SHIPPED)
    network = artifact.network(0, 1)
    node = EdgeNode(EdgeVersion(artifact, network, None, OffloadLimits(1_000, 20), 256))
    gate, stop = Gate(network), asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        settings = EdgeSettings.model_construct(port=0, grace_s=grace_s)
        async with running_server([EdgeService(node).register], settings, 2**24) as bound:
            port.set_result(bound)
            await stop.wait()

    ended = asyncio.create_task(serve())
    try:
        yield Stoppable(f"127.0.0.1:{await port}", gate, stop, ended)
    finally:
        gate.open()
        stop.set()
        await ended
        node.close()


def watch_health(channel: grpc.aio.Channel) -> grpc.aio.UnaryStreamCall[object, health_pb2.HealthCheckResponse]:
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)


async def refused(target: str) -> bool:
    """Whether a newcomer is turned away."""
    async with open_channel(target, 2**20) as channel:
        try:
            await pb_grpc.EdgeStub(channel).Describe(pb.DescribeRequest(), timeout=2)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


async def test_a_request_in_flight_is_answered_after_health_says_not_serving(sample: Dataset) -> None:
    async with (
        stoppable_edge(grace_s=30) as edge,
        AsyncClient(edge.target) as client,
        open_channel(edge.target, 2**20) as channel,
    ):
        watch = watch_health(channel)
        assert (await watch.read()).status == SERVING
        request = asyncio.create_task(client.classify(sample.images[:8], policy=Policy.EDGE_ONLY, deadline_ms=60_000))
        await eventually(computing(edge.gate), "the edge computes")
        edge.stop.set()
        assert (await watch.read()).status == NOT_SERVING
        await eventually(lambda: refused(edge.target), "new requests are refused")
        assert not request.done()
        assert not edge.ended.done()
        edge.gate.open()
        assert len(await request) == 8


async def test_a_request_longer_than_the_grace_does_not_hold_the_node(sample: Dataset) -> None:
    async with stoppable_edge(grace_s=0.2) as edge, AsyncClient(edge.target) as client:
        request = asyncio.create_task(client.classify(sample.images[:8], policy=Policy.EDGE_ONLY, deadline_ms=60_000))
        await eventually(computing(edge.gate), "the edge computes")
        edge.stop.set()
        await asyncio.wait_for(asyncio.shield(edge.ended), 20)
        with pytest.raises(Exception, match=r"(?i)cancel|unavailable|closed|shut|reset|removed"):
            await request


async def test_whoever_watches_health_does_not_hold_the_node() -> None:
    async with stoppable_edge(grace_s=60) as edge, open_channel(edge.target, 2**20) as channel:
        watch = watch_health(channel)
        assert (await watch.read()).status == SERVING
        edge.stop.set()
        assert (await watch.read()).status == NOT_SERVING
        await asyncio.wait_for(asyncio.shield(edge.ended), 20)


async def test_a_port_in_use_is_an_error_that_names_it() -> None:
    async with serving_cloud() as cloud:
        with pytest.raises(OSError, match=str(cloud.port)):
            async with serving_cloud(port=cloud.port):
                pass


async def test_a_stopped_node_leaves_its_port_free() -> None:
    async with serving_cloud() as first:
        port = first.port
    async with serving_cloud(port=port) as second, serving_edge(second.target) as edge:
        assert (await edge.client.describe()).model == SHIPPED
