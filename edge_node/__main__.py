"""`python -m edge_node`: load the edge half and serve it."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence

import torch

from branchynet import artifact
from branchynet.decisions.deadlines import OffloadLimits
from branchynet.errors import BranchyNetError
from branchynet.manifest import Manifest
from branchynet.models import cut_shapes, zoo
from branchynet.network import BranchyNet
from branchynet.rpc.open_inference.service import WIRE_NAME, OpenInferenceService
from branchynet.rpc.server import MESSAGE_OVERHEAD_BYTES, serve_until_stopped
from branchynet.settings import read_settings
from branchynet.telemetry import configure_logging
from edge_node.node import EdgeNode
from edge_node.offload import GrpcUplink
from edge_node.open_inference import EdgeModel
from edge_node.service import EdgeService
from edge_node.settings import EdgeSettings

__all__ = ["main"]


def main(argv: Sequence[str] | None = None, program: str = "python -m edge_node") -> int:
    """Serve until SIGTERM; the exit code."""
    try:
        settings = read_settings(EdgeSettings, sys.argv[1:] if argv is None else argv, program)
        configure_logging(settings.log_level, settings.log_format)
        torch.set_num_threads(settings.threads)
        folder = zoo.find(settings.artifact)
        cut = settings.cut or artifact.read_manifest(folder).cut
        manifest, half = artifact.load(folder, 0, cut)
        asyncio.run(_serve(manifest, half, settings))
    except (BranchyNetError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(manifest: Manifest, half: BranchyNet, settings: EdgeSettings) -> None:
    sample_bytes = max(4 * math.prod(shape) for shape in cut_shapes(manifest.architecture))
    limit = settings.max_batch * sample_bytes + MESSAGE_OVERHEAD_BYTES
    uplink = GrpcUplink(settings.cloud, manifest.content_hash, limit) if settings.cloud else None
    limits = OffloadLimits(settings.offload_timeout_ms, settings.reserve_ms)
    node = EdgeNode(manifest, half, uplink, limits, settings.max_batch)
    try:
        services = [EdgeService(node).register, OpenInferenceService(EdgeModel(node)).register]
        await serve_until_stopped(services, settings, limit, aliases=[WIRE_NAME])
    finally:
        if uplink is not None:
            await uplink.close()
        node.close()


if __name__ == "__main__":
    sys.exit(main())
