"""Which node listens at an address, and by which protocol it can be asked."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from enum import StrEnum

from branchynet.client.client import AsyncClient
from branchynet.client.cloud import AsyncCloudClient
from branchynet.client.connection import DESCRIBE_TIMEOUT_MS
from branchynet.client.open_inference import OpenInferenceClient, OpenInferenceModel
from branchynet.client.retrying import NodeClient
from branchynet.data.preprocessing import Preprocessing
from branchynet.errors import Unimplemented
from branchynet.serving.prediction import ServedModel

__all__ = ["Node", "Role", "WireProtocol", "find_node"]


class WireProtocol(StrEnum):
    """What is spoken with a node."""

    BRANCHYNET = "branchynet"
    OPEN_INFERENCE = "open-inference"


class Role(StrEnum):
    """Which part of the network a node answers with."""

    EDGE = "edge"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that runs: its address, how it is asked, and what it serves.

    *input_shape*: channels, height, width of one image; empty for a cloud that takes feature maps only. *max_batch*:
    most images in one request. *preprocessing*: how image files become its input, the default if it does not say.
    """

    target: str
    role: Role
    protocol: WireProtocol
    model: str
    content_hash: str
    input_shape: tuple[int, ...]
    labels: tuple[str, ...]
    max_batch: int
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def connect(self, target: str) -> NodeClient:
        """A connection to *target*, which serves the same as this node."""
        if self.protocol is WireProtocol.OPEN_INFERENCE:
            return OpenInferenceClient(target)
        return AsyncClient(target) if self.role is Role.EDGE else AsyncCloudClient(target)


async def find_node(
    target: str, protocol: WireProtocol | None = None, *, timeout_ms: float = DESCRIBE_TIMEOUT_MS
) -> Node:
    """Ask the node at *target* (`host:port`) what it is; ours is preferred where it speaks both protocols.

    Raises `Unavailable` if none answers within *timeout_ms*, `Unimplemented` if it does not speak *protocol* (any).
    """
    if protocol is not WireProtocol.OPEN_INFERENCE:
        for role, ours in ((Role.EDGE, AsyncClient(target)), (Role.CLOUD, AsyncCloudClient(target))):
            async with ours:
                with contextlib.suppress(Unimplemented):
                    return _node(target, role, await ours.describe(timeout_ms=timeout_ms))
    if protocol is not WireProtocol.BRANCHYNET:
        async with OpenInferenceClient(target) as client:
            with contextlib.suppress(Unimplemented):
                return _open_inference_node(target, await client.describe(timeout_ms=timeout_ms))
    raise Unimplemented(f"{target} does not speak {protocol or ' or '.join(WireProtocol)}")


def _open_inference_node(target: str, found: OpenInferenceModel) -> Node:
    role = Role.CLOUD if found.server.endswith(Role.CLOUD) else Role.EDGE
    model = (found.model, found.content_hash, found.input_shape, found.labels, found.max_batch)
    return Node(target, role, WireProtocol.OPEN_INFERENCE, *model)


def _node(target: str, role: Role, served: ServedModel) -> Node:
    # A cloud that begins behind stage 0 takes feature maps, which only an edge has.
    shape = served.input_shape if served.stages[0] == 0 else ()
    return Node(
        target,
        role,
        WireProtocol.BRANCHYNET,
        served.model,
        served.content_hash,
        shape,
        served.labels,
        served.max_batch,
        served.preprocessing,
    )
