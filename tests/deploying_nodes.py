"""Edges and a cloud that may load another version, wired as their programs wire them, and what each version answers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from branchynet.artifact.artifact import Artifact
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.models.architectures import Architecture, build
from branchynet.network.normalisation import Normalisation
from branchynet.rpc import server
from branchynet.rpc.control import ControlService
from branchynet.rpc.open_inference.service import WIRE_NAME, OpenInferenceService
from branchynet.rpc.open_inference.values import Model
from branchynet.serving.prediction import Prediction
from cloud_node.build import open_cloud
from cloud_node.node import CloudNode
from cloud_node.open_inference import CloudModel
from cloud_node.service import CloudService
from cloud_node.settings import CloudSettings
from edge_node.build import open_edge
from edge_node.node import EdgeNode
from edge_node.open_inference import EdgeModel
from edge_node.service import EdgeService
from edge_node.settings import EdgeSettings
from orchestrator.runs.deploy import deploy

LABELS = tuple("abcdefghij")


@dataclass(frozen=True)
class Running:
    """A node and where it listens."""

    node: Any
    target: str

    def holds(self) -> list[str]:
        """Content hashes of its versions; the one that is served comes first."""
        return [version.served.content_hash for version in self.node.versions.held]


def save(folder: Path, seed: int, images: NDArray[np.uint8], **fields: Any) -> Artifact:
    """A network with weights drawn from *seed*, which half of *images* leave early, in *folder*; its name is that."""
    shape = fields.pop("shape", Architecture("b-lenet"))
    channels = shape.input_shape[0]
    torch.manual_seed(seed)
    network = build(shape, Normalisation((0.5,) * channels, (0.25,) * channels)).eval()
    made = Artifact.create(
        folder, network, name=folder.name, architecture=shape, labels=LABELS, dataset="fashion-mnist"
    )
    thresholds: tuple[float, ...] = (1.0,) * (network.exits - 1)
    if images.shape[1:] == shape.input_shape:
        logits = network.run(0, images.copy())[1]
        thresholds = (float(np.median(ExitRule(Criterion.ENTROPY, thresholds).score(0, logits))),)
    return made.with_fields(**{"rule": ExitRule(Criterion.ENTROPY, thresholds), **fields}).save()


def answers_of(artifact: Artifact, images: NDArray[np.uint8]) -> tuple[list[int], NDArray[np.float32]]:
    """Exits and probabilities of the whole network, on one machine."""
    network, rule = _whole(artifact.folder), artifact.manifest.rule
    done = network.resume(images.copy(), 0, network.last, rule)
    return done.exits.tolist(), rule.probabilities(done.exits, done.logits)


@cache
def _whole(folder: Path) -> Any:
    return Artifact.open(folder).network()


def are_of(answers: list[Prediction], expected: tuple[list[int], NDArray[np.float32]]) -> bool:
    """Whether *answers* are the *expected* ones, bit for bit."""
    exits, probabilities = expected
    return [answer.exit for answer in answers] == exits and all(
        np.array_equal(answer.probabilities, row) for answer, row in zip(answers, probabilities, strict=True)
    )


@dataclass(frozen=True)
class Nodes:
    """A cloud and its edges, which serve the *old* version of *folder*; *lines* is what a deployment reports."""

    cloud: Running
    edges: list[Running]
    folder: Path
    old: Artifact
    new: Artifact
    lines: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[Running]:
        return [self.cloud, *self.edges]

    async def deploy(self, name: str = "net@v2", edges: list[str] | None = None, **options: float) -> bool:
        targets = [edge.target for edge in self.edges] if edges is None else edges
        chosen = {"quiet_s": 0.0, "wait_s": 5.0, **options}
        return (await deploy(name, targets, self.cloud.target, self.lines.append, **chosen)).complete

    def hold(self, *artifacts: Artifact) -> bool:
        """Whether every node holds these versions and no other; the first is the one that is served."""
        hashes = [artifact.manifest.content_hash for artifact in artifacts]
        return all(node.holds() == hashes for node in self.all)


@contextlib.asynccontextmanager
async def running(made: Path, edges: int = 1, edge_folder: Path | None = None) -> AsyncIterator[Nodes]:
    async with contextlib.AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(deploying_cloud(made / "net", made))
        starting = [deploying_edge(made / "net", edge_folder or made, cloud.target) for _ in range(edges)]
        started = [await stack.enter_async_context(edge) for edge in starting]
        yield Nodes(cloud, started, made, Artifact.open(made / "net"), Artifact.open(made / "net@v2"))


@contextlib.asynccontextmanager
async def deploying_cloud(first: Path, folder: Path | None, **options: Any) -> AsyncIterator[Running]:
    """A cloud that serves the artifact at *first* and may load those in *folder*."""
    settings = CloudSettings.model_construct(artifact=str(first), artifacts=folder, port=0, grace_s=1.0, **options)
    with open_cloud(settings) as (node, limit):
        async with _serving(node, CloudService(node), CloudModel(node), settings, limit) as running:
            yield running


@contextlib.asynccontextmanager
async def deploying_edge(first: Path, folder: Path | None, cloud: str, **options: Any) -> AsyncIterator[Running]:
    """An edge of the cloud at *cloud* that serves the artifact at *first* and may load those in *folder*."""
    settings = EdgeSettings.model_construct(
        artifact=str(first), artifacts=folder, cloud=cloud, port=0, grace_s=1.0, offload_timeout_ms=20_000, **options
    )
    async with (
        open_edge(settings) as (node, limit),
        _serving(node, EdgeService(node), EdgeModel(node), settings, limit) as running,
    ):
        yield running


@contextlib.asynccontextmanager
async def _serving(
    node: EdgeNode | CloudNode, service: Any, model: Model, settings: Any, limit: int
) -> AsyncIterator[Running]:
    planned = node if isinstance(node, EdgeNode) else None
    services = [
        service.register,
        OpenInferenceService(model).register,
        ControlService(node.prober, settings, planned, node.deployment).register,
    ]
    with mock.patch.object(server, "FAREWELL_S", 0.0):
        async with server.running_server(services, settings, limit, [WIRE_NAME]) as port:
            yield Running(node, f"127.0.0.1:{port}")
