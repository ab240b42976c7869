"""`python -m branchynet.rpc.health_check HOST:PORT`: does the node there serve?

A container asks this every few seconds, so it loads nothing but gRPC.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from branchynet.errors import BranchyNetError
from branchynet.rpc.channel import open_blocking_channel
from branchynet.terminal import shown, steady_output

__all__ = ["check", "main"]

MAX_MESSAGE_BYTES = 64 * 1024


def check(target: str, *, timeout_s: float = 2.0) -> str:
    """What the node at *target* (`host:port`) reports: SERVING, NOT_SERVING, or why nothing came.

    Raises `InvalidInput` for a *target* that is no address.
    """
    with open_blocking_channel(target, MAX_MESSAGE_BYTES) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


@steady_output()
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the status; 0 if the node serves, 1 if not. Raises SystemExit with 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m branchynet.rpc.health_check", description="Ask a node for its grpc.health.v1 status."
    )
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--timeout-s", type=float, default=2.0, metavar="S", help="longest wait (default 2)")
    asked = parser.parse_args(arguments)
    try:
        status = check(asked.target, timeout_s=asked.timeout_s)
    except BranchyNetError as error:
        parser.error(str(error))
    print(shown(status))
    return 0 if status == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
