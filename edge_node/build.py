"""An edge node and all it needs, open for serving: in a program of its own, or as one of several in a process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.manifest import Manifest
from branchynet.artifact.plan_file import PlanFile, read_plan, read_plan_file
from branchynet.errors import InvalidInput
from branchynet.network.runner import Runner, set_torch_threads
from branchynet.placement.offload_deadline import OffloadLimits
from branchynet.placement.plan import Plan
from branchynet.placement.replanner import Replanner
from branchynet.rpc.deployment import Deployment
from branchynet.rpc.message_limits import bounded_batch
from branchynet.serving.settings import engine_of
from edge_node.drift_watcher import Watcher
from edge_node.grpc_uplink import GrpcUplink
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from edge_node.version import EdgeVersion

__all__ = ["open_edge"]


@contextlib.asynccontextmanager
async def open_edge(settings: EdgeSettings, plan: Plan | None = None) -> AsyncIterator[tuple[EdgeNode, int]]:
    """An edge with *settings*, and the largest message it takes in bytes; *plan* is as good as the file of one.

    Raises what `Artifact.runner` raises for its half, `DamagedData` and `InvalidInput` for a file of plans that this
    edge cannot serve by, and `InvalidInput` if it shall keep an exit share beside a plan, or without a reference of
    the scores.
    """
    artifact = Artifact.open(settings.artifact)
    _check_one_chooser(settings)
    _, limit = bounded_batch(settings.max_batch, artifact.manifest.max_sample_bytes)
    uplink = GrpcUplink(settings.cloud, artifact.manifest.content_hash, limit) if settings.cloud else None
    try:
        node = EdgeNode(_version(settings, artifact, uplink, limit, plan), settings.slowdown)
        # A plan that was handed over is the first artifact's; the next one's is what settings and artifact say.
        node.deployment = Deployment(
            node.versions, settings.artifacts, lambda found: _version(settings, found, uplink, limit), node.warm_up
        )
        try:
            yield node, limit
        finally:
            node.close()
    finally:
        if uplink is not None:
            await uplink.close()


def _version(
    settings: EdgeSettings, artifact: Artifact, uplink: GrpcUplink | None, limit_bytes: int, plan: Plan | None = None
) -> EdgeVersion:
    """*artifact* at an edge with *settings*, whose messages have at most *limit_bytes*.

    Files of plans are read anew for each version, and must be for it.
    """
    manifest = artifact.manifest
    plans = None if settings.adapt is None else _plans(settings.adapt, manifest, settings.cut)
    plan = plan if settings.plan is None else read_plan(settings.plan, manifest)
    cut = plans.profile.held if plans else settings.cut or (plan.cut if plan else 0) or manifest.cut
    half = artifact.runner(0, cut, engine_of(settings), settings.threads)
    set_torch_threads(half, settings.threads)
    max_batch, _ = bounded_batch(settings.max_batch, manifest.max_sample_bytes, limit_bytes)
    version = EdgeVersion(
        artifact,
        half,
        uplink and uplink.for_artifact(manifest.content_hash),
        OffloadLimits(settings.offload_timeout_ms, settings.reserve_ms),
        max_batch,
        image_codec=settings.image_codec,
    )
    if (watcher := _watcher(artifact, half, settings.keep_exit_share)) is not None:
        version.watch(watcher)
    version.adopt(plan or Plan(cut, manifest.rule, codec=settings.codec))
    if plans:
        version.follow(Replanner(plans.candidates, plans.profile, plans.guessed, plans.adaptation, time.perf_counter()))
    return version


def _check_one_chooser(settings: EdgeSettings) -> None:
    """Raise `InvalidInput` where two settings would say by which thresholds this edge serves."""
    choosers = {
        "keep_exit_share": settings.keep_exit_share,
        "plan": settings.plan,
        "adapt": settings.adapt,
    }
    given = [f"{name} is {value}" for name, value in choosers.items() if value is not None]
    if len(given) > 1:
        raise InvalidInput(f"{' and '.join(given)}: each says which thresholds are used; give one of them")


def _plans(path: Path, manifest: Manifest, cut: int | None) -> PlanFile:
    """The plans at *path* to adapt by, for an edge that shall hold stages [0, *cut*), or as many as they need.

    Raises `DamagedData`, and `InvalidInput` for plans of another artifact, or of an edge that holds other stages.
    """
    plans = read_plan_file(path)
    plans.check_artifact(manifest.name, manifest.content_hash)
    if cut not in (None, plans.profile.held):
        raise InvalidInput(
            f"cut is {cut}, but the plans in {path} are for an edge that holds stages [0, {plans.profile.held}); "
            "leave it out, or write plans with `branchynet plan --held`"
        )
    return plans


def _watcher(artifact: Artifact, half: Runner, keep_exit_share: float | None) -> Watcher | None:
    """What watches the exits of *half*; None for an artifact without a reference of its scores."""
    manifest, reference = artifact.manifest, artifact.drift_reference
    if reference is not None and not manifest.rule.remembers:  # an edge does not keep the history of those who left
        exits = sum(number is not None for number in half.exit_of_stage[: half.last])
        return Watcher(reference, exits, keep_exit_share)
    if keep_exit_share is not None:
        raise InvalidInput(
            f"keep_exit_share is {keep_exit_share:g}, but {manifest.name} has no scores of its calibration to go by; "
            "`branchynet calibrate --out` writes them, for any criterion but patience"
        )
    return None
