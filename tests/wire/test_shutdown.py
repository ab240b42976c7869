"""A node that is told to stop says so first, refuses what is new, and answers what it has begun."""

from __future__ import annotations

import asyncio

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running_nodes import SHIPPED, Gate, computing, eventually, serving_cloud, serving_edge

from branchynet import artifact
from branchynet.client import AsyncClient
from branchynet.errors import Unavailable
from branchynet.models import zoo
from branchynet.prediction import Policy
from branchynet.rpc.channel import open_channel
from branchynet.rpc.server import running_server
from branchynet.training.datasets import Dataset
from edge_node.node import EdgeNode, OffloadLimits
from edge_node.service import EdgeService
from edge_node.settings import EdgeSettings

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


async def test_a_request_in_flight_is_answered_after_health_says_not_serving(sample: Dataset) -> None:
    manifest, network = artifact.load(zoo.find(SHIPPED), 0, 1)
    node = EdgeNode(manifest, network, None, OffloadLimits(1_000, 20), 256)
    gate = Gate(network)
    stop = asyncio.Event()
    ports: asyncio.Queue[int] = asyncio.Queue()

    async def serve() -> None:
        settings = EdgeSettings.model_construct(port=0, grace_s=20.0)
        async with running_server([EdgeService(node).register], settings, 2**24) as port:
            await ports.put(port)
            await stop.wait()

    server = asyncio.create_task(serve())
    target = f"127.0.0.1:{await ports.get()}"
    async with AsyncClient(target) as client, open_channel(target, 2**20) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert (await watch.read()).status == SERVING
        request = asyncio.create_task(client.classify(sample.images[:8], policy=Policy.EDGE_ONLY))

        await eventually(computing(gate), "the edge computes")
        stop.set()
        assert (await watch.read()).status == NOT_SERVING
        assert not request.done()
        watch.cancel()
        async with AsyncClient(target) as newcomer:
            with pytest.raises(Unavailable):
                await newcomer.classify(sample.images[:1])
        gate.open()
        assert len(await request) == 8
    await asyncio.wait_for(server, 20)
    node.close()


async def test_a_request_longer_than_the_grace_does_not_hold_the_node(sample: Dataset) -> None:
    manifest, network = artifact.load(zoo.find(SHIPPED), 0, 1)
    node = EdgeNode(manifest, network, None, OffloadLimits(1_000, 20), 256)
    gate = Gate(network)
    settings = EdgeSettings.model_construct(port=0, grace_s=0.2)
    async with running_server([EdgeService(node).register], settings, 2**24) as port:
        client = AsyncClient(f"127.0.0.1:{port}")
        request = asyncio.create_task(client.classify(sample.images[:8], policy=Policy.EDGE_ONLY))

        await eventually(computing(gate), "the edge computes")
    with pytest.raises(Exception, match=r"(?i)cancel|unavailable|closed|shut"):
        await asyncio.wait_for(request, 20)
    gate.open()
    await client.close()
    node.close()


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
