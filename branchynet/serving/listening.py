"""Where to listen: all addresses of a host, or an error that says which one cannot be had, and who has it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Mapping

from branchynet.serving.address import Address

__all__ = ["cannot_listen", "free_addresses", "listen_on"]

# A port that the system picks as free for one address of a host may be taken for another.
TRIES = 20
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_ALL = ("0.0.0.0", "::")  # noqa: S104 (compared with, not listened on)


async def free_addresses(host: str, port: int) -> list[Address]:
    """The addresses that *host* stands for, all free on *port*; for port 0 on one that is free for all of them.

    `localhost` stands for two on most machines: callers of a node that has only one of them may reach whoever has the
    other. An address that this machine lacks is left out if there is another. A host with a single address keeps port
    0. Raises `OSError`, with address and reason, if one is taken or none can be had.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(f"cannot listen on {host}: {error.strerror}") from None
    families = {str(where[0]): family for family, _, _, _, where in found}
    if port == 0 and len(families) == 1:
        return [Address(name, 0) for name in families]
    for _ in range(TRIES if port == 0 else 1):
        try:
            return _free(families, port)
        except OSError as error:
            failure = error
    raise failure


def listen_on(address: Address, backlog: int) -> socket.socket:
    """A socket that listens on *address*; raises `OSError`, with address and reason, if that cannot be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=backlog)
    except OSError as error:
        raise cannot_listen(address, error) from None


def cannot_listen(address: Address, error: OSError) -> OSError:
    """*error*, which came of listening on *address*, with that address and, where it is taken, who has it."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.EADDRINUSE:
        reason = f"the port is taken{_owner(address)}; choose another (0 takes a free one)"
    return OSError(f"cannot listen on {address}: {reason}")


def _free(families: Mapping[str, int], port: int) -> list[Address]:
    """The addresses of *families*, each bound once to see that it is free."""
    bound, absent = [], None
    with contextlib.ExitStack() as stack:
        for host, family in families.items():
            probe = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # A port whose last connections are still fading away is free, as servers see it.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                failure = cannot_listen(Address(host, port), error)
                if error.errno not in _NOT_HERE:
                    raise failure from None
                absent = failure
                continue
            port = int(probe.getsockname()[1])
            bound.append(Address(host, port))
    if absent is not None and not bound:
        raise absent
    return bound


def _owner(address: Address) -> str:
    """Who listens on *address*, as far as this user may know."""
    import psutil  # only who has bad news needs it

    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if not one.laddr or one.status != psutil.CONN_LISTEN or one.laddr.port != address.port:
                continue
            if one.laddr.ip == address.host or one.laddr.ip in _ALL or address.host in _ALL:
                return f" by {psutil.Process(one.pid).name()} (process {one.pid})" if one.pid else " by another user"
    return ""
