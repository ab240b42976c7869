"""`python -m cloud_node`: load the cloud half and serve it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import torch

from branchynet import artifact
from branchynet.errors import BranchyNetError
from branchynet.models import zoo
from branchynet.rpc.open_inference.service import WIRE_NAME, OpenInferenceService
from branchynet.rpc.server import MESSAGE_OVERHEAD_BYTES, serve_until_stopped
from branchynet.settings import read_settings
from branchynet.telemetry import configure_logging
from cloud_node.node import CloudNode
from cloud_node.open_inference import CloudModel
from cloud_node.service import CloudService
from cloud_node.settings import CloudSettings

__all__ = ["main"]


def main(argv: Sequence[str] | None = None, program: str = "python -m cloud_node") -> int:
    """Serve until SIGTERM; the exit code."""
    try:
        settings = read_settings(CloudSettings, sys.argv[1:] if argv is None else argv, program)
        configure_logging(settings.log_level, settings.log_format)
        torch.set_num_threads(settings.threads)
        manifest, network = artifact.load(zoo.find(settings.artifact), settings.first_stage)
        node = CloudNode(manifest, network, settings.max_batch)
        asyncio.run(_serve(node, settings))
    except (BranchyNetError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(node: CloudNode, settings: CloudSettings) -> None:
    limit = settings.max_batch * node.max_sample_bytes + MESSAGE_OVERHEAD_BYTES
    try:
        services = [CloudService(node).register, OpenInferenceService(CloudModel(node)).register]
        await serve_until_stopped(services, settings, limit, aliases=[WIRE_NAME])
    finally:
        node.close()


if __name__ == "__main__":
    sys.exit(main())
