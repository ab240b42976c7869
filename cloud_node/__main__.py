"""`python -m cloud_node`: load the cloud half and serve it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from branchynet.errors import BranchyNetError
from branchynet.rpc.control import ControlService
from branchynet.rpc.open_inference.service import WIRE_NAME, OpenInferenceService
from branchynet.rpc.server import serve_until_stopped
from branchynet.serving.logging import configure_logging
from branchynet.serving.settings import read_settings
from branchynet.terminal import complain, steady_output
from cloud_node.build import open_cloud
from cloud_node.open_inference import CloudModel
from cloud_node.service import CloudService
from cloud_node.settings import CloudSettings

__all__ = ["main"]


@steady_output()
def main(argv: Sequence[str] | None = None, program: str = "python -m cloud_node") -> int:
    """Serve until SIGTERM; the exit code."""
    try:
        settings = read_settings(CloudSettings, sys.argv[1:] if argv is None else argv, program)
        configure_logging(settings.log_level, settings.log_format)
        asyncio.run(_serve(settings))
    except (BranchyNetError, OSError) as error:
        complain(program, error)
        return 2
    return 0


async def _serve(settings: CloudSettings) -> None:
    with open_cloud(settings) as (node, limit):
        services = [CloudService(node).register, OpenInferenceService(CloudModel(node)).register]
        if settings.control:
            services.append(ControlService(node.prober, settings, deployment=node.deployment).register)
        await serve_until_stopped(services, settings, limit, aliases=[WIRE_NAME])


if __name__ == "__main__":
    sys.exit(main())
