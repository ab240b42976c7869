"""`python -m edge_node`: load the edge half and serve it."""

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
from edge_node.build import open_edge
from edge_node.open_inference import EdgeModel
from edge_node.service import EdgeService
from edge_node.settings import EdgeSettings

__all__ = ["main"]


@steady_output()
def main(argv: Sequence[str] | None = None, program: str = "python -m edge_node") -> int:
    """Serve until SIGTERM; the exit code."""
    try:
        settings = read_settings(EdgeSettings, sys.argv[1:] if argv is None else argv, program)
        configure_logging(settings.log_level, settings.log_format)
        asyncio.run(_serve(settings))
    except (BranchyNetError, OSError) as error:
        complain(program, error)
        return 2
    return 0


async def _serve(settings: EdgeSettings) -> None:
    async with open_edge(settings) as (node, limit):
        services = [EdgeService(node).register, OpenInferenceService(EdgeModel(node)).register]
        if settings.control:
            services.append(ControlService(node.prober, settings, node, node.deployment).register)
        await serve_until_stopped(services, settings, limit, aliases=[WIRE_NAME])


if __name__ == "__main__":
    sys.exit(main())
