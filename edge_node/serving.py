"""An edge node and all it needs, open for serving: in a program of its own, or as one of several in a process."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncIterator

from branchynet import artifact
from branchynet.decisions.deadlines import OffloadLimits
from branchynet.decisions.plans import Plan
from branchynet.engine import Engine, Runner
from branchynet.errors import InvalidInput
from branchynet.manifest import Manifest
from branchynet.models import zoo
from branchynet.plan_file import PlanFile
from branchynet.reference import reference_of
from branchynet.rpc.server import MESSAGE_OVERHEAD_BYTES
from edge_node.adapting import ToldReplanner, plans_for
from edge_node.grpc_uplink import GrpcUplink
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from edge_node.watching import Watcher

__all__ = ["open_edge"]


@contextlib.asynccontextmanager
async def open_edge(settings: EdgeSettings) -> AsyncIterator[tuple[EdgeNode, int]]:
    """An edge with *settings*, and the largest message it takes in bytes.

    Raises what `artifact.load_runner` raises for its half, what `plans_for` raises for the plans that it shall adapt
    by, and `InvalidInput` if it shall keep an exit share as well, or without a reference of the scores.
    """
    folder = zoo.find(settings.artifact)
    plans = _plans(settings, artifact.read_manifest(folder))
    cut = plans.profile.held if plans else settings.cut or artifact.read_manifest(folder).cut
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
    if plans:
        node.follow(ToldReplanner(plans, time.perf_counter()))
    try:
        yield node, limit
    finally:
        if uplink is not None:
            await uplink.close()
        node.close()


def _plans(settings: EdgeSettings, manifest: Manifest) -> PlanFile | None:
    """What the edge adapts by, if it does; `InvalidInput` for what does not go with it."""
    if settings.adapt is None:
        return None
    if settings.keep_exit_share is not None:
        raise InvalidInput(
            f"keep_exit_share is {settings.keep_exit_share:g} and adapt is {settings.adapt}: one moves the thresholds, "
            "the other chooses them; give one of the two"
        )
    return plans_for(manifest, settings.adapt, settings.cut)


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
