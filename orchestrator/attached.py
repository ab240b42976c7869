"""Edges and links that somebody else runs: containers, other machines, other terminals."""

from __future__ import annotations

from collections.abc import Sequence

from branchynet.client import AsyncClient
from branchynet.errors import InvalidInput
from simulations.link_control import ask_link

__all__ = ["AttachedTopology"]


class AttachedTopology:
    """The edges at *targets* and the links whose controls listen at *link_controls*, all `host:port`."""

    def __init__(self, targets: Sequence[str], link_controls: Sequence[str]) -> None:
        if not targets:
            raise InvalidInput("there is no edge to attach to")
        if not link_controls:
            raise InvalidInput("edges that run already need their links' controls, which count the bytes that cross")
        self.targets = list(targets)
        self._link_controls = list(link_controls)

    async def reset_links(self) -> None:
        """Set the links' byte counters to zero."""
        for address in self._link_controls:
            await ask_link(address, "reset")

    async def uplink_bytes(self) -> int:
        """Bytes that crossed the links towards the cloud since the last reset, gRPC's own included."""
        return sum([int((await ask_link(address, "stats"))["bytes_up"]) for address in self._link_controls])

    async def describe(self) -> tuple[str, str]:
        """The name of the artifact that the edges serve, and what the links are set to, for people.

        Raises `Unavailable` if an edge or a link does not answer.
        """
        models = []
        for target in self.targets:
            async with AsyncClient(target) as edge:
                models.append((await edge.describe()).model)
        settings = [await ask_link(address, "settings") for address in self._link_controls]
        links = (_describe(link["uplink_mbps"], link["rtt_ms"]) for link in settings)
        return ", ".join(dict.fromkeys(models)), "; ".join(dict.fromkeys(links))


def _describe(uplink_mbps: float | None, rtt_ms: float) -> str:
    rate = "no limit" if uplink_mbps is None else f"{uplink_mbps:g} Mbit/s"
    return f"{rate} up, {rtt_ms:g} ms round trip"
