"""An edge node and all it needs, open for serving: in a program of its own, or as one of several in a process."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator

from branchynet import artifact
from branchynet.decisions.deadlines import OffloadLimits
from branchynet.decisions.plans import Plan
from branchynet.engine import Engine, Runner
from branchynet.errors import InvalidInput
from branchynet.manifest import Manifest
from branchynet.models import zoo
from branchynet.reference import reference_of
from branchynet.rpc.server import MESSAGE_OVERHEAD_BYTES
from edge_node.node import EdgeNode
from edge_node.offload import GrpcUplink
from edge_node.settings import EdgeSettings
from edge_node.watching import Watcher

__all__ = ["open_edge"]


@contextlib.asynccontextmanager
async def open_edge(settings: EdgeSettings) -> AsyncIterator[tuple[EdgeNode, int]]:
    """An edge with *settings*, and the largest message it takes in bytes.

    Raises what `artifact.load_runner` raises for its half, and `InvalidInput` if it shall keep an exit share without a
    reference of the scores.
    """
    folder = zoo.find(settings.artifact)
    cut = settings.cut or artifact.read_manifest(folder).cut
    manifest, half = artifact.load_runner(folder, 0, cut, engine=Engine(settings.engine), threads=settings.threads)
    watcher = _watcher(manifest, half, settings.keep_exit_share)
    sample_bytes = max(4 * math.prod(shape) for shape in manifest.cut_shapes)
    limit = settings.max_batch * sample_bytes + MESSAGE_OVERHEAD_BYTES
    uplink = GrpcUplink(settings.cloud, manifest.content_hash, limit) if settings.cloud else None
    limits = OffloadLimits(settings.offload_timeout_ms, settings.reserve_ms)
    node = EdgeNode(
        manifest, half, uplink, limits, settings.max_batch, watcher=watcher, image_codec=settings.image_codec
    )
    node.adopt(Plan(cut, manifest.rule, codec=settings.codec))
    try:
        yield node, limit
    finally:
        if uplink is not None:
            await uplink.close()
        node.close()


def _watcher(manifest: Manifest, half: Runner, keep_exit_share: float | None) -> Watcher | None:
    """What watches the exits of *half*; None for an artifact without a reference of its scores."""
    reference = reference_of(manifest)
    if reference is not None and not manifest.rule.remembers:  # an edge does not keep the history of those who left
        exits = sum(number is not None for number in half.exit_of_stage[: half.last])
        return Watcher(reference, exits, keep_exit_share)
    if keep_exit_share is not None:
        raise InvalidInput(
            f"keep_exit_share is {keep_exit_share:g}, but {manifest.name} has no scores of its calibration to go by; "
            "`branchynet calibrate --out` writes them, for any criterion but patience"
        )
    return None
