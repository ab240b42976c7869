"""Addresses of nodes and links, as people write them: `127.0.0.1:8001`, `edge.local:8001`, `[::1]:8001`. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from branchynet.errors import InvalidInput

__all__ = ["HIGHEST_PORT", "Address", "checked_host"]

HIGHEST_PORT = 65535
EXAMPLE = "write HOST:PORT, for example 127.0.0.1:8001 or [::1]:8001"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")
# Underscores are in no host name of the standards, but in those of containers.
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_LONGEST_NAME = 253


@dataclass(frozen=True, slots=True)
class Address:
    """A *host*, which is a name or an IP address without brackets, and a *port*; as text `host:port`."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, lowest_port: int = 1) -> Self:
        """The address in *text*, HOST:PORT with brackets around an IPv6 host; *lowest_port* 0 is for who listens.

        Raises `InvalidInput`, which says what is wrong and how an address is written.
        """
        if fault := _shape_fault(text):
            raise InvalidInput(f"{text!r} is no address: {fault}; {EXAMPLE}")
        host, _, port = text.rpartition(":")
        if fault := _host_fault(host.removeprefix("[").removesuffix("]")):
            raise InvalidInput(f"{text!r} is no address: {fault}; {EXAMPLE}")
        if not (port.isascii() and port.isdecimal() and lowest_port <= int(port) <= HIGHEST_PORT):
            fault = f"its port is {port!r}, it must be {lowest_port} to {HIGHEST_PORT}"
            raise InvalidInput(f"{text!r} is no address: {fault}; {EXAMPLE}")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it can only be this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def checked_host(text: str) -> str:
    """*text*, a name or an IP address to listen on, without brackets; `InvalidInput`, which says what is wrong."""
    host = text.removeprefix("[").removesuffix("]") if ":" in text else text
    fault = "it has a port, which is given by itself" if _has_port(text) else _host_fault(host)
    if fault := _scheme_fault(text) or fault:
        raise InvalidInput(f"{text!r} is no host: {fault}; write a name or an IP address, for example 0.0.0.0 or ::1")
    return host


def _shape_fault(text: str) -> str:
    """What is wrong with *text* before one looks at its host and port; empty if nothing is."""
    host, colon, _ = text.rpartition(":")
    faults = {
        "it has no port": not colon or text.endswith("]"),
        "it has no host": not host,
        "its brackets do not match": host.startswith("[") != host.endswith("]"),
        "an IPv6 host stands in brackets": ":" in host and not host.startswith("["),
        "only an IPv6 host stands in brackets": host.startswith("[") and ":" not in host,
    }
    return _scheme_fault(text) or next((fault for fault, found in faults.items() if found), "")


def _scheme_fault(text: str) -> str:
    scheme = _SCHEME.match(text)
    return f"it begins with {scheme.group()}, and nodes need no scheme" if scheme else ""


def _has_port(text: str) -> bool:
    return text.count(":") == 1 or "]:" in text


def _host_fault(host: str) -> str:
    """What is wrong with *host*, a name or an IP address without brackets; empty if nothing is."""
    last = host.rpartition(".")[2]
    if ":" in host or last.isdecimal():
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return f"{host!r} is no IP address"
        return ""
    # The dot at the end of a complete name is no part of it.
    name = host.removesuffix(".")
    if not name:
        return "its host is empty"
    if len(name) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        return f"{host!r} is no name of a host"
    return ""
