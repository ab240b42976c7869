"""The versions that a node holds, as messages and back, and how to have it load one, serve it, and drop the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil

from branchynet.errors import InvalidInput
from branchynet.rpc.control_channel import control_of
from branchynet.serving.versions import Versions
from protos import split_inference_pb2 as pb

__all__ = [
    "HeldVersion",
    "NodeVersions",
    "load_version",
    "retire_version",
    "switch_version",
    "versions_from_reply",
    "versions_to_reply",
]

# Reading weights takes seconds, and exporting graphs, where there are none, seconds a stage.
LOAD_TIMEOUT_S = 300.0
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class HeldVersion:
    """A version as its node tells of it: the *id* of this loading, what it is, and how many requests hold it now."""

    id: str
    model: str
    content_hash: str
    under_way: int


@dataclass(frozen=True, slots=True)
class NodeVersions:
    """What a node holds: the version that is *served*, the one *beside* it if there is one.

    *id*: of the version that it was asked about. *rss_bytes*: memory of its whole process.
    """

    served: HeldVersion
    beside: HeldVersion | None
    id: str
    rss_bytes: int

    @property
    def asked(self) -> HeldVersion:
        """The version that the node was asked about, which it holds."""
        return self.beside if self.beside is not None and self.beside.id == self.id else self.served


def versions_to_reply(versions: Versions[Any], version_id: str) -> pb.VersionsReply:
    """What a node that was asked about the version of that id holds."""
    held = [
        pb.HeldVersion(
            id=version.id,
            model=version.served.model,
            content_hash=version.served.content_hash,
            under_way=version.under_way,
        )
        for version in versions.held
    ]
    return pb.VersionsReply(versions=held, id=version_id, rss_bytes=psutil.Process().memory_info().rss)


def versions_from_reply(reply: pb.VersionsReply) -> NodeVersions:
    """What the node that sent *reply* holds; `InvalidInput` unless that is one version or two."""
    held = [HeldVersion(one.id, one.model, one.content_hash, one.under_way) for one in reply.versions]
    if not 1 <= len(held) <= 2:
        raise InvalidInput(f"a node says that it holds {len(held)} versions; it must be 1 or 2")
    return NodeVersions(held[0], held[1] if len(held) > 1 else None, reply.id, reply.rss_bytes)


async def load_version(target: str, artifact: str, *, force: bool = False) -> NodeVersions:
    """Have the node at *target* (`host:port`) hold its *artifact* beside what it serves; nothing changes for requests.

    *force*: also if clients hold a description that will be wrong. Raises what the node refuses, and `Unavailable`,
    with the address, if it is away, was started without --control, or loads another one.
    """
    async with control_of(target) as control:
        request = pb.LoadVersionRequest(artifact=artifact, force=force)
        return versions_from_reply(await control.LoadVersion(request, timeout=LOAD_TIMEOUT_S))


async def switch_version(target: str, version_id: str) -> NodeVersions:
    """Have the node serve the requests that come from now on by that version; it keeps the other. Raises as above."""
    async with control_of(target) as control:
        request = pb.SwitchVersionRequest(id=version_id)
        return versions_from_reply(await control.SwitchVersion(request, timeout=TIMEOUT_S))


async def retire_version(target: str, version_id: str, unused_s: float = 0.0) -> NodeVersions:
    """Have the node drop that version, if it holds it and served nobody by it for *unused_s*.

    Raises `Unavailable` while requests need it, and as above.
    """
    async with control_of(target) as control:
        request = pb.RetireVersionRequest(id=version_id, unused_s=unused_s)
        return versions_from_reply(await control.RetireVersion(request, timeout=TIMEOUT_S))
