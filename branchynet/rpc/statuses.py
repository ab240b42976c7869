"""Errors to gRPC statuses. (`channel.error_from_rpc` is the way back.)"""

from __future__ import annotations

from branchynet.errors import BranchyNetError
from branchynet.serving.logging import Event, logger

__all__ = ["report"]

MAX_DETAILS = 1_000


def report(error: Exception, method: str) -> tuple[str, str]:
    """Log that *method* ended with *error*; the name of its gRPC status, and the details for the caller.

    Our errors have their own status and message; anything else is INTERNAL, with its traceback in the log.
    """
    if isinstance(error, BranchyNetError):
        details = _details(error)
        logger().info(Event.REFUSED, method=method, status=error.grpc_status, details=details)
        return error.grpc_status, details
    logger().error(Event.FAILED, method=method, exc_info=error)
    return "INTERNAL", f"{type(error).__name__}: {_details(error)}"


def _details(error: Exception) -> str:
    """The error's message, cut where a value in it runs on: statuses travel as metadata, which gRPC bounds at 16 KB."""
    text = str(error)
    return text if len(text) <= MAX_DETAILS else f"{text[: MAX_DETAILS - 40]} … ({len(text)} characters)"
