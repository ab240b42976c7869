"""A cloud node and all it needs, open for serving: in a program of its own, or as one of several in a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from branchynet.artifact.artifact import Artifact
from branchynet.network.runner import set_torch_threads
from branchynet.rpc.deployment import Deployment
from branchynet.rpc.message_limits import bounded_batch
from branchynet.serving.settings import engine_of
from cloud_node.node import CloudNode
from cloud_node.settings import CloudSettings
from cloud_node.version import CloudVersion

__all__ = ["open_cloud"]


@contextlib.contextmanager
def open_cloud(settings: CloudSettings) -> Iterator[tuple[CloudNode, int]]:
    """A cloud with *settings*, and the largest message it takes in bytes.

    Raises what `Artifact.runner` raises for its half.
    """
    artifact = Artifact.open(settings.artifact)
    _, limit = bounded_batch(settings.max_batch, artifact.manifest.max_sample_bytes)

    def build(artifact: Artifact) -> CloudVersion:
        network = artifact.runner(settings.first_stage, engine=engine_of(settings), threads=settings.threads)
        set_torch_threads(network, settings.threads)
        max_batch, _ = bounded_batch(settings.max_batch, artifact.manifest.max_sample_bytes, limit)
        return CloudVersion(artifact, network, max_batch)

    node = CloudNode(build(artifact), settings.slowdown)
    node.deployment = Deployment(node.versions, settings.artifacts, build, node.warm_up)
    try:
        yield node, limit
    finally:
        node.close()
