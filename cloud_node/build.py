"""A cloud node and all it needs, open for serving: in a program of its own, or as one of several in a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from branchynet.artifact.artifact import Artifact
from branchynet.network.runner import set_torch_threads
from branchynet.rpc.message_limits import bounded_batch
from branchynet.serving.settings import engine_of
from cloud_node.node import CloudNode
from cloud_node.settings import CloudSettings

__all__ = ["open_cloud"]


@contextlib.contextmanager
def open_cloud(settings: CloudSettings) -> Iterator[tuple[CloudNode, int]]:
    """A cloud with *settings*, and the largest message it takes in bytes.

    Raises what `Artifact.runner` raises for its half.
    """
    artifact = Artifact.open(settings.artifact)
    network = artifact.runner(settings.first_stage, engine=engine_of(settings), threads=settings.threads)
    set_torch_threads(network, settings.threads)
    max_batch, limit = bounded_batch(settings.max_batch, artifact.manifest.max_sample_bytes)
    node = CloudNode(artifact, network, max_batch, settings.slowdown)
    try:
        yield node, limit
    finally:
        node.close()
