"""From one version of a network to another on nodes that run, without a request lost or answered by halves of two.

    load on cloud and edges ─► switch edges, then cloud ─► retire the old on edges, then cloud
    nothing has changed yet    the cloud answers for both    when no request needs it any more

Until every edge has switched, whatever fails is taken back: all or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from branchynet.errors import ArtifactMismatch, BranchyNetError, InvalidInput, Unavailable
from branchynet.rpc.versions import HeldVersion, NodeVersions, load_version, retire_version, switch_version

__all__ = ["Deployed", "NodeMove", "deploy"]

POLL_S = 0.1
RETURN_S = 5.0  # for the requests that began while an edge had switched

Report = Callable[[str], None]


@dataclass(slots=True)
class NodeMove:
    """What becomes of the node at *target*: it serves *old*, then *new*, which may be the same.

    *other*: what it holds beside the new one and drops in the end; *kept* says why it did not. *both_rss_bytes*,
    *rss_bytes*: memory of its process with both of them, and after that.
    """

    target: str
    role: str
    old: HeldVersion
    new: HeldVersion
    other: HeldVersion | None
    both_rss_bytes: int
    rss_bytes: int
    kept: str = ""

    @property
    def moves(self) -> bool:
        """Whether it served another version before."""
        return self.old.id != self.new.id

    @property
    def name(self) -> str:
        """The node for people."""
        return f"{self.role} {self.target}"


@dataclass(frozen=True, slots=True)
class Deployed:
    """Every node serves the new version; *seconds* is what that took, the wait for the last of the old included."""

    moves: tuple[NodeMove, ...]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether the old version is gone everywhere."""
        return not any(move.kept for move in self.moves)


async def deploy(
    artifact: str,
    edges: Sequence[str],
    cloud: str,
    report: Report,
    *,
    force: bool = False,
    quiet_s: float = 5.0,
    wait_s: float = 60.0,
) -> Deployed:
    """Have the *edges* and the *cloud* that they ask (`host:port` each) serve what each has as *artifact*.

    *report* gets a line for each step. *force*: also if clients hold a description that will be wrong. The cloud drops
    the old version when it answered nobody by it for *quiet_s*, and is waited for at most *wait_s* longer. Raises
    `InvalidInput` for an address that comes twice, `ArtifactMismatch` for nodes with different artifacts of that name,
    and what a node refuses, with its name; all serve what they did before then.
    """
    started_s = time.monotonic()
    targets = [cloud, *edges]
    if not edges or len(set(targets)) < len(targets):
        raise InvalidInput(f"the nodes are {', '.join(targets)}; there must be an edge, and each must come once")
    moves: list[NodeMove] = []
    asked: list[NodeMove] = []
    try:
        for target in targets:
            moves.append(await _load(target, "edge" if moves else "cloud", artifact, force, report))
        _check_alike(moves)
        for move in (*moves[1:], moves[0]):
            asked.append(move)
            await _switch(move, move.new, report)
    except BranchyNetError:
        await _take_back(moves, asked, report)
        raise
    for move in (*moves[1:], moves[0]):
        if move.other is not None:
            await _drop(move, move.other, quiet_s if move.role == "cloud" else 0.0, wait_s, report)
    return Deployed(tuple(moves), time.monotonic() - started_s)


async def _load(target: str, role: str, artifact: str, force: bool, report: Report) -> NodeMove:
    """Have one node hold the new version; raises what it refuses, with its name."""
    with _named(f"{role} {target}"):
        held = await load_version(target, artifact, force=force)
    old, new = held.served, held.asked
    other = held.beside if old.id == new.id else old  # of the same that is served, one may be left from an earlier time
    move = NodeMove(target, role, old, new, other, held.rss_bytes, held.rss_bytes)
    told = f"holds {_words(move.new)} beside {_words(move.old)}" if move.moves else f"serves {_words(move.new)} already"
    report(f"{move.name} {told}")
    return move


def _check_alike(moves: Sequence[NodeMove]) -> None:
    """Raise `ArtifactMismatch` unless all have loaded the same network: folders are copied by hand."""
    first = moves[0]
    for other in moves[1:]:
        if other.new.content_hash != first.new.content_hash:
            raise ArtifactMismatch(
                f"{first.name} has {_words(first.new)} under this name, {other.name} has {_words(other.new)}; "
                "copy the same artifact to both"
            )


async def _switch(move: NodeMove, version: HeldVersion, report: Report) -> None:
    with _named(move.name):
        await switch_version(move.target, version.id)
    report(f"{move.name} serves {_words(version)}")


async def _take_back(moves: Sequence[NodeMove], asked: Sequence[NodeMove], report: Report) -> None:
    """Every node as it was; what cannot be taken back is reported."""
    lost = False
    for move in asked:
        try:
            await _switch(move, move.old, report)
        except BranchyNetError as error:
            lost = True
            report(f"not taken back: {error}")
    for move in reversed(moves):  # the cloud last, and not if some edge may ask it for either
        if move.moves and not (lost and move.role == "cloud"):
            with contextlib.suppress(BranchyNetError):  # what is left over makes room for the next one
                await _retire(move, move.new, 0.0, RETURN_S)


async def _drop(move: NodeMove, version: HeldVersion, unused_s: float, wait_s: float, report: Report) -> None:
    """Have one node drop *version*, or note why it keeps it."""
    try:
        move.rss_bytes = (await _retire(move, version, unused_s, unused_s + wait_s)).rss_bytes
        report(f"{move.name} has dropped {_words(version)}")
    except BranchyNetError as error:
        move.kept = str(error)
        report(f"{move.name} still holds {_words(version)}: {error}")


async def _retire(move: NodeMove, version: HeldVersion, unused_s: float, wait_s: float) -> NodeVersions:
    """Have one node drop *version*, asking again for *wait_s* while requests need it."""
    until_s = time.monotonic() + wait_s
    while True:
        try:
            return await retire_version(move.target, version.id, unused_s)
        except Unavailable:
            if time.monotonic() >= until_s:
                raise
        await asyncio.sleep(POLL_S)


@contextlib.contextmanager
def _named(node: str) -> Iterator[None]:
    """Around an order to *node*: what it refuses is raised with its name."""
    try:
        yield
    except BranchyNetError as error:
        raise type(error)(f"{node}: {error}") from None


def _words(version: HeldVersion) -> str:
    return f"{version.model} {version.content_hash[:12]}"
