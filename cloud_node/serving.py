"""A cloud node and all it needs, open for serving: in a program of its own, or as one of several in a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from branchynet import artifact
from branchynet.engine import Engine
from branchynet.models import zoo
from branchynet.rpc.server import MESSAGE_OVERHEAD_BYTES
from cloud_node.node import CloudNode
from cloud_node.settings import CloudSettings

__all__ = ["open_cloud"]


@contextlib.contextmanager
def open_cloud(settings: CloudSettings) -> Iterator[tuple[CloudNode, int]]:
    """A cloud with *settings*, and the largest message it takes in bytes.

    Raises what `artifact.load_runner` raises for its half.
    """
    manifest, network = artifact.load_runner(
        zoo.find(settings.artifact), settings.first_stage, engine=Engine(settings.engine), threads=settings.threads
    )
    node = CloudNode(manifest, network, settings.max_batch)
    try:
        yield node, settings.max_batch * node.max_sample_bytes + MESSAGE_OVERHEAD_BYTES
    finally:
        node.close()
