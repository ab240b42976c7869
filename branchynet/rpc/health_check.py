"""`python -m branchynet.rpc.health_check HOST:PORT`: does the node there serve?

A container asks this every few seconds, so it loads gRPC alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["check", "main"]


def check(target: str, *, timeout_s: float = 2.0) -> str:
    """What the node at *target* (`host:port`) says of itself: SERVING, NOT_SERVING, or why it says nothing."""
    # A proxy that the environment names is meant for other things than a container's own node.
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the status; 0 if the node serves, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="python -m branchynet.rpc.health_check", description="Ask a node for its grpc.health.v1 status."
    )
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--timeout-s", type=float, default=2.0, metavar="S", help="longest wait (default 2)")
    asked = parser.parse_args(arguments)
    status = check(asked.target, timeout_s=asked.timeout_s)
    print(status)
    return 0 if status == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
