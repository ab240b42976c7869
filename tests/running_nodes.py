"""Real nodes on real sockets, in this process: the servers, services and nodes that the programs wire up.

client ──> edge ──> LinkProxy ──> cloud
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import numpy as np
import torch
from numpy.typing import NDArray

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.client.client import AsyncClient
from branchynet.exits.rules import ExitRule
from branchynet.models.architectures import Architecture, build
from branchynet.network.normalisation import Normalisation
from branchynet.network.runner import Progress
from branchynet.network.stages import BranchyNet
from branchynet.placement.offload_deadline import OffloadLimits
from branchynet.placement.plan import Plan
from branchynet.rpc import server
from branchynet.rpc.control import ControlService
from branchynet.rpc.message_limits import bounded_batch
from branchynet.rpc.open_inference.service import WIRE_NAME, OpenInferenceService
from branchynet.rpc.open_inference.values import Model
from branchynet.serving.stage_timer import Prober
from cloud_node.node import CloudNode
from cloud_node.open_inference import CloudModel
from cloud_node.service import CloudService
from cloud_node.settings import CloudSettings
from cloud_node.version import CloudVersion
from edge_node.grpc_uplink import GrpcUplink
from edge_node.node import EdgeNode
from edge_node.open_inference import EdgeModel
from edge_node.service import EdgeService
from edge_node.settings import EdgeSettings
from edge_node.version import EdgeVersion
from protos import split_inference_pb2_grpc as pb_grpc
from simulations.link.proxy import Direction, LinkProxy, LinkSettings

SHIPPED = "lenet-fashion"
CLEAR = LinkSettings(Direction(None), Direction(None))


@dataclass(frozen=True)
class Cloud:
    port: int
    node: CloudNode
    network: BranchyNet

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Edge:
    port: int
    node: EdgeNode
    network: BranchyNet
    client: AsyncClient

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Split:
    """An edge and a cloud with a link between them; *seen* is what reached the cloud."""

    edge: Edge
    cloud: Cloud
    link: LinkProxy
    seen: list[SeenCall]

    @property
    def client(self) -> AsyncClient:
        return self.edge.client


@dataclass(frozen=True)
class SeenCall:
    """A call as the cloud met it: size of its message, samples, and how long the edge would wait."""

    size_bytes: int
    samples: int
    time_remaining_s: float | None


class RecordingCloud(CloudService):
    """The real service, which also notes each call in *seen*."""

    def __init__(self, node: CloudNode) -> None:
        super().__init__(node)
        self.seen: list[SeenCall] = []

    async def Resume(self, request: Any, context: Any) -> Any:  # noqa: N802
        samples = next(iter(getattr(request, request.WhichOneof("input") or "tensor").shape), 0)
        call = SeenCall(request.ByteSize(), samples, context.time_remaining())
        self.seen.append(call)
        return await super().Resume(request, context)


class FakeCloud(pb_grpc.CloudServicer):
    """Answers each Resume with whatever *behave* makes of the request."""

    def __init__(self, behave: Callable[[Any, Any], Awaitable[Any]]) -> None:
        self._behave = behave

    def register(self, server: grpc.aio.Server) -> str:
        pb_grpc.add_CloudServicer_to_server(self, server)
        return "branchynet.v1.Cloud"

    async def Resume(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._behave(request, context)


@contextlib.asynccontextmanager
async def serving(
    add_service: Callable[[grpc.aio.Server], str],
    settings: Any,
    limit: int,
    model: Model | None = None,
    prober: Callable[[], Prober] | None = None,
    planned: EdgeNode | None = None,
) -> AsyncIterator[int]:
    """`running_server` without the moment for which it says NOT_SERVING when it ends: nobody watches here.

    *model* is served by the Open Inference Protocol beside it, and the orders to *prober* and *planned*.
    """
    services = [add_service, *([OpenInferenceService(model).register] if model else [])]
    if prober is not None:
        services.append(ControlService(prober, settings, planned).register)
    with mock.patch.object(server, "FAREWELL_S", 0.0):
        async with server.running_server(services, settings, limit, [WIRE_NAME] if model else []) as port:
            yield port


@contextlib.asynccontextmanager
async def serving_fake_cloud(behave: Callable[[Any, Any], Awaitable[Any]]) -> AsyncIterator[str]:
    """The target of a real server whose Cloud service is a fake."""
    settings = CloudSettings.model_construct(port=0, grace_s=0)
    async with serving(FakeCloud(behave).register, settings, 64 * 1024 * 1024) as port:
        yield f"127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def serving_cloud(
    folder: str | Path = SHIPPED,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    max_batch: int = 256,
    first_stage: int = 0,
    seen: list[SeenCall] | None = None,
    control: bool = False,
) -> AsyncIterator[Cloud]:
    artifact = Artifact.open(folder)
    network = artifact.network(first_stage)
    node = CloudNode(CloudVersion(artifact, network, max_batch))
    service = RecordingCloud(node)
    service.seen = seen if seen is not None else []
    max_batch, limit = bounded_batch(max_batch, artifact.manifest.max_sample_bytes)
    settings = CloudSettings.model_construct(host=host, port=port, max_batch=max_batch, grace_s=2.0)
    try:
        prober = node.prober if control else None
        async with serving(service.register, settings, limit, CloudModel(node), prober) as bound:
            yield Cloud(bound, node, network)
    finally:
        node.close()


@contextlib.asynccontextmanager
async def serving_edge(
    cloud: str = "",
    folder: str | Path = SHIPPED,
    *,
    max_batch: int = 256,
    cut: int | None = None,
    offload_timeout_ms: float = 20_000,
    reserve_ms: float = 20,
    codec: str = "fp32",
    image_codec: str = "raw",
    clock_s: Callable[[], float] = time.perf_counter,
    control: bool = False,
    slowdown: float = 1.0,
) -> AsyncIterator[Edge]:
    """An edge that asks the cloud at *cloud* (empty: none), waiting long for it unless a test says otherwise."""
    found = zoo.find(folder)
    artifact = Artifact.open(found)
    manifest, network = artifact.manifest, artifact.network(0, cut or artifact.manifest.cut)
    max_batch, limit = bounded_batch(max_batch, manifest.max_sample_bytes)
    uplink = GrpcUplink(cloud, manifest.content_hash, limit) if cloud else None
    limits = OffloadLimits(offload_timeout_ms, reserve_ms)
    version = EdgeVersion(artifact, network, uplink, limits, max_batch, clock_s, image_codec)
    node = EdgeNode(version, slowdown)
    node.adopt(Plan(network.last, manifest.rule, codec=codec))
    settings = EdgeSettings.model_construct(port=0, max_batch=max_batch, grace_s=2.0)
    try:
        async with (
            serving(
                EdgeService(node).register, settings, limit, EdgeModel(node), node.prober if control else None, node
            ) as port,
            AsyncClient(f"127.0.0.1:{port}") as client,
        ):
            yield Edge(port, node, network, client)
    finally:
        if uplink is not None:
            await uplink.close()
        node.close()


@contextlib.asynccontextmanager
async def serving_split(
    link: LinkSettings = CLEAR, folder: str | Path = SHIPPED, *, max_batch: int = 256, **edge_options: Any
) -> AsyncIterator[Split]:
    seen: list[SeenCall] = []
    async with (
        serving_cloud(folder, max_batch=max_batch, seen=seen) as cloud,
        LinkProxy("127.0.0.1", cloud.port, link) as proxy,
        serving_edge(f"127.0.0.1:{proxy.port}", folder, max_batch=max_batch, **edge_options) as edge,
    ):
        yield Split(edge, cloud, proxy, seen)


class Gate:
    """Holds a network's compute thread from its first layer until opened."""

    def __init__(self, network: BranchyNet) -> None:
        self.entered = threading.Event()
        self.calls = 0
        self._open = threading.Event()
        self._resume = network.resume
        network.resume = self._gated  # type: ignore[method-assign]

    def _gated(self, *args: Any) -> Progress:
        self.calls += 1
        self.entered.set()
        if not self._open.wait(30):
            raise TimeoutError("the test never opened the gate")
        return self._resume(*args)

    def open(self) -> None:
        self._open.set()


@dataclass
class Stream:
    """Good requests sent one after the other; *answers* grows while they are answered."""

    answers: list[Any] = field(default_factory=list)

    async def goes_on(self, answers: int = 2) -> None:
        """Wait until as many more have been answered."""
        enough = len(self.answers) + answers

        async def check() -> bool:
            return len(self.answers) >= enough

        await eventually(check, "good requests go on")


@contextlib.asynccontextmanager
async def streaming(call: Callable[[], Awaitable[Any]], callers: int = 2) -> AsyncIterator[Stream]:
    """Keep *callers* calls in flight while the block runs; a call that fails fails the block."""
    stream, stop = Stream(), asyncio.Event()

    async def go_on() -> None:
        while not stop.is_set():
            stream.answers.append(await call())

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(go_on())
        try:
            yield stream
        finally:
            stop.set()


async def eventually(check: Callable[[], Awaitable[bool]], what: str, within_s: float = 20.0) -> None:
    """Poll *check* until it holds; fail after *within_s*."""
    deadline_s = time.monotonic() + within_s
    while not await check():
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.02)


def computing(gate: Gate) -> Callable[[], Awaitable[bool]]:
    """A check for `eventually`: the network behind *gate* has been asked to compute."""

    async def check() -> bool:
        return gate.entered.is_set()

    return check


def in_process(images: NDArray[np.uint8], stages: int | None = None, rule: ExitRule | None = None) -> Progress:
    """What the shipped network says about the batch *images* without any wire, by its first *stages* (all)."""
    artifact = Artifact.open(SHIPPED)
    manifest, network = artifact.manifest, artifact.network(0, stages)
    return network.resume(images.copy(), 0, network.last, rule or manifest.rule)


def save_artifact(folder: Path, architecture: str = "b-lenet", seed: int = 1, name: str = "fresh") -> Path:
    """An untrained artifact in *folder*, its weights drawn from *seed*."""
    shape = Architecture(architecture)
    channels = shape.input_shape[0]
    torch.manual_seed(seed)
    network = build(shape, Normalisation((0.5,) * channels, (0.5,) * channels)).eval()
    Artifact.create(
        folder,
        network,
        name=name,
        architecture=shape,
        labels=[str(label) for label in range(shape.classes)],
        dataset="cifar10" if channels == 3 else "fashion-mnist",
    )
    return folder


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else is given meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
