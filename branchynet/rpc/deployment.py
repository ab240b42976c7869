"""What an operator may do to the versions that a node holds. Knows no protobuf."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, TypeVar

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.errors import InvalidInput, Unavailable, UnknownModel
from branchynet.serving.prediction import ServedModel
from branchynet.serving.versions import Version, Versions, check_successor

__all__ = ["Deployable", "Deployment"]

# A version that is left from a deployment that ended half-way makes room when nobody has asked for it so long.
LEFT_OVER_S = 10.0


class Deployable(Version):
    """A version of which is known what *artifact* it is."""

    def __init__(self, artifact: Artifact, served: ServedModel) -> None:
        super().__init__(served)
        self.artifact = artifact


V = TypeVar("V", bound=Deployable)


class Deployment(Generic[V]):
    """Moves a node from one of its *versions* to another, whose artifact lies in *folder* (None: nothing is loaded).

    *build* makes a version of an artifact, as the node's settings say; it is called on a thread of its own. *warm_up*
    shows that the version works before anyone is served by it.
    """

    def __init__(
        self,
        versions: Versions[V],
        folder: Path | None,
        build: Callable[[Artifact], V],
        warm_up: Callable[[V], Awaitable[None]],
    ) -> None:
        self.versions = versions
        self._folder = folder
        self._build = build
        self._warm_up = warm_up
        self._loading = False

    async def load(self, name: str, *, force: bool = False) -> V:
        """Hold the artifact called *name* beside what is served; the very same that is held already is not read again.

        *force*: also if clients hold a description that will be wrong. Raises `InvalidInput`, `UnknownModel`,
        `DamagedData`, what the node raises for an artifact that it cannot serve, and `Unavailable` while there is no
        room; nothing has changed then.
        """
        if self._folder is None:
            raise UnknownModel(
                f"{name!r} is not known here: this node was started without --artifacts, the folder it may load from"
            )
        if self._loading:
            raise Unavailable("this node loads a version for somebody else; ask again when that is done")
        self._loading = True
        try:
            return await self._load(await asyncio.to_thread(_open, self._folder, name), force)
        finally:
            self._loading = False

    async def _load(self, artifact: Artifact, force: bool) -> V:
        for version in self.versions.held:
            if version.artifact.manifest == artifact.manifest:
                return version
        _check_codecs(self.versions.current.artifact, artifact)
        self.versions.make_room(LEFT_OVER_S)  # before the third is read: memory is for two
        version = await asyncio.to_thread(self._build, artifact)
        if not force:
            check_successor(self.versions.current.served, version.served)
        await self._warm_up(version)
        self.versions.put_beside(version)
        return version


def _open(folder: Path, name: str) -> Artifact:
    return Artifact.open(zoo.find_in(folder, name))


def _check_codecs(old: Artifact, new: Artifact) -> None:
    """Raise `InvalidInput` for the same weights with other codecs: the hash in an offload says only which weights."""
    before, after = old.manifest, new.manifest
    same = (before.codec_ranges, before.bottlenecks) == (after.codec_ranges, after.bottlenecks)
    if before.content_hash == after.content_hash and not same:
        raise InvalidInput(
            f"{new.folder.name} has the weights that are served, but other codec ranges or bottlenecks, which offloads "
            "under way could not tell apart; start the nodes again with it"
        )
