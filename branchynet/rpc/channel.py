"""Channels to a node, and statuses back to errors."""

from __future__ import annotations

import grpc

from branchynet.errors import BranchyNetError, error_for_status

__all__ = ["error_from_rpc", "open_blocking_channel", "open_channel"]


def open_channel(target: str, max_message_bytes: int) -> grpc.aio.Channel:
    """A channel to *target* (`host:port`) that finds a restarted node again within about a second.

    gRPC's own back-off grows to two minutes, which suits a data centre; an edge wants its cloud back.
    Its compression stays off: deflating a float map costs more time than it saves on all but the thinnest links.
    """
    return grpc.aio.insecure_channel(target, options=_options(max_message_bytes))


def open_blocking_channel(target: str, max_message_bytes: int) -> grpc.Channel:
    """The same for callers without an event loop; it may be used from several threads."""
    return grpc.insecure_channel(target, options=_options(max_message_bytes))


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Channels with equal options share connections otherwise, and with them a stalled link.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def error_from_rpc(error: grpc.RpcError) -> BranchyNetError:
    """Our error for a failed call of either kind of channel, with the other side's details as its message."""
    return error_for_status(error.code().name, error.details() or error.code().name)
