"""Channels to a node, and statuses back to errors."""

from __future__ import annotations

import os

import grpc

from branchynet.errors import BranchyNetError, SettingsError, error_for_status
from branchynet.serving.address import Address

__all__ = ["USE_PROXY", "error_from_rpc", "open_blocking_channel", "open_channel"]

# The environment variable that asks for the proxy which the environment names for all programs.
USE_PROXY = "BRANCHYNET_USE_PROXY"


def open_channel(target: str, max_message_bytes: int) -> grpc.aio.Channel:
    """A channel to *target* (`host:port`) that finds a restarted node again within about a second.

    gRPC's own back-off grows to two minutes, which suits a data centre; an edge wants its cloud back.
    Its compression stays off: deflating a float map costs more time than it saves on all but the thinnest links.
    It goes through the proxy that the environment names (`http_proxy` and its kind) only if `BRANCHYNET_USE_PROXY` is
    1, and to this machine never.

    Raises `InvalidInput` for a *target* that is no address, and `SettingsError` if that variable is neither 0 nor 1.
    """
    address = Address.parse(target)
    return grpc.aio.insecure_channel(str(address), options=_options(address, max_message_bytes))


def open_blocking_channel(target: str, max_message_bytes: int) -> grpc.Channel:
    """The same for callers without an event loop; it may be used from several threads."""
    address = Address.parse(target)
    return grpc.insecure_channel(str(address), options=_options(address, max_message_bytes))


def _options(address: Address, max_message_bytes: int) -> list[tuple[str, int]]:
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
        # An office's proxy is meant for the web: it does not know the nodes, and takes HTTP/2 from few.
        ("grpc.enable_http_proxy", int(_proxy_wanted() and not address.is_loopback)),
    ]


def _proxy_wanted() -> bool:
    wanted = os.environ.get(USE_PROXY, "0")
    if wanted not in ("", "0", "1"):
        raise SettingsError(f"environment variable {USE_PROXY} is {wanted!r}; it must be 0 or 1")
    return wanted == "1"


def error_from_rpc(error: grpc.RpcError) -> BranchyNetError:
    """Our error for a failed call of either kind of channel, with the other side's details as its message."""
    return error_for_status(error.code().name, error.details() or error.code().name)
