"""`python -m edge_node`: load the edge half and serve it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence

import torch

from branchynet.errors import BranchyNetError
from branchynet.rpc.control import ControlService
from branchynet.rpc.open_inference.service import WIRE_NAME, OpenInferenceService
from branchynet.rpc.server import serve_until_stopped
from branchynet.settings import read_settings
from branchynet.telemetry import configure_logging
from edge_node.node import EdgeNode
from edge_node.open_inference import EdgeModel
from edge_node.service import EdgeService
from edge_node.serving import open_edge
from edge_node.settings import EdgeSettings

__all__ = ["main"]


def main(
    argv: Sequence[str] | None = None,
    program: str = "python -m edge_node",
    prepare: Callable[[EdgeNode], None] = lambda _node: None,
) -> int:
    """Serve until SIGTERM; the exit code. *prepare* is given the node before it serves."""
    try:
        settings = read_settings(EdgeSettings, sys.argv[1:] if argv is None else argv, program)
        configure_logging(settings.log_level, settings.log_format)
        torch.set_num_threads(settings.threads)
        asyncio.run(_serve(settings, prepare))
    except (BranchyNetError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(settings: EdgeSettings, prepare: Callable[[EdgeNode], None]) -> None:
    async with open_edge(settings) as (node, limit):
        prepare(node)
        services = [EdgeService(node).register, OpenInferenceService(EdgeModel(node)).register]
        if settings.control:
            services.append(ControlService(node.prober(), settings).register)
        await serve_until_stopped(services, settings, limit, aliases=[WIRE_NAME])


if __name__ == "__main__":
    sys.exit(main())
