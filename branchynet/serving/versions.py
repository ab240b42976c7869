"""The versions of a network that one node holds: one that is served and, while requests move over, one beside it.

    load ─► beside ─► switch ─► served          the one that was served is then beside, in case of a way back
                                  beside ─► retire

A request holds the version that it began with until it ends, so no answer is made of two. Which one a cloud's request
means, the content hash in it says.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Iterator
from typing import Generic, TypeVar

from branchynet.errors import BranchyNetError, InvalidInput, Unavailable, UnknownModel
from branchynet.serving.logging import Event, logger
from branchynet.serving.prediction import ServedModel
from branchynet.serving.validation import check_hash

__all__ = ["Version", "Versions", "check_successor"]


class Version:
    """One version of a network in a node, with what *served* says of it; nodes add what runs it.

    *id* names this loading of it: no other one, here or after a restart, has the same. *under_way*: requests that hold
    it now. Names and hashes would not do: the same weights may come back with other thresholds.
    """

    def __init__(self, served: ServedModel) -> None:
        self.id = secrets.token_hex(8)
        self.served = served
        self.under_way = 0
        self._used_s = -math.inf

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Around a request that holds this version."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self._used_s = time.monotonic()

    def check_unused(self, unused_s: float) -> None:
        """Raise `Unavailable` if a request holds this version, or did so less than *unused_s* ago."""
        name, ago_s = f"{self.served.model} {self.served.content_hash[:12]}", time.monotonic() - self._used_s
        if self.under_way:
            raise Unavailable(f"{self.under_way} requests still hold {name}; ask again when they are answered")
        if ago_s < unused_s:
            raise Unavailable(
                f"{name} served a request {ago_s:.1f} s ago, it is dropped after {unused_s:g} s without one: "
                "some edge or client still asks for it"
            )


V = TypeVar("V", bound=Version)


class Versions(Generic[V]):
    """What a node holds: the version *current* that is served, and at most one beside it."""

    def __init__(self, first: V) -> None:
        self.current = first
        self.beside: V | None = None
        self._log = logger()

    @property
    def held(self) -> tuple[V, ...]:
        """All there are; the one that is served comes first."""
        return (self.current,) if self.beside is None else (self.current, self.beside)

    def of_hash(self, content_hash: str) -> V:
        """The version whose halves have this *content_hash*, or its beginning; `ArtifactMismatch` if there is none."""
        if self.beside is not None and not _fits(content_hash, self.current) and _fits(content_hash, self.beside):
            return self.beside
        check_hash(content_hash, self.current.served.content_hash)
        return self.current

    def put_beside(self, version: V) -> None:
        """Hold *version*, too; there must be room."""
        assert self.beside is None, "whoever loads a version makes room for it first"
        self.beside = version
        self._note(Event.LOADED, version)

    def switch(self, version_id: str) -> None:
        """Serve the version of that id to the requests that come from now on; the other one is then beside it.

        Nothing happens if it is served already. Raises `UnknownModel` if it is not held.
        """
        chosen = self._of_id(version_id)
        if chosen is not self.current:
            self.current, self.beside = chosen, self.current
            self._note(Event.SWITCHED, chosen)

    def retire(self, version_id: str, unused_s: float = 0.0) -> None:
        """Drop the version of that id, if it is still here.

        Raises `InvalidInput` for the one that is served or a time that is none, and `Unavailable` while a request holds
        it or did so less than *unused_s* ago.
        """
        if not 0 <= unused_s < math.inf:
            raise InvalidInput(f"unused_s is {unused_s}; it must be a number of seconds, 0 or more")
        if version_id == self.current.id:
            raise InvalidInput(f"version {version_id} is the one that is served; switch to another one first")
        if self.beside is not None and self.beside.id == version_id:
            self.make_room(unused_s)

    def make_room(self, unused_s: float = 0.0) -> None:
        """Drop the version that is not served, if there is one; raises as `retire`."""
        if self.beside is not None:
            self.beside.check_unused(unused_s)
            self._note(Event.RETIRED, self.beside)
            self.beside = None

    def _of_id(self, version_id: str) -> V:
        for version in self.held:
            if version.id == version_id:
                return version
        raise UnknownModel(
            f"version {version_id!r} is not held here, only {', '.join(version.id for version in self.held)}; "
            "a node that was started again has to load it again"
        )

    def _note(self, event: Event, version: V) -> None:
        self._log.info(event, model=version.served.model, content_hash=version.served.content_hash, id=version.id)


def _fits(content_hash: str, version: Version) -> bool:
    with contextlib.suppress(BranchyNetError):
        check_hash(content_hash, version.served.content_hash)
        return True
    return False


def check_successor(old: ServedModel, new: ServedModel) -> None:
    """Raise `InvalidInput` where clients that hold the description of *old* would be refused, or misled, by *new*.

    They may have brought images to the old shape in the old way, read labels by the old names, and named the model.
    """
    changed = ""
    if new.model != old.model:
        changed = f"the model's name would change from {old.model!r} to {new.model!r}"
    elif new.input_shape != old.input_shape:
        changed = f"the shape of an image would change from {old.input_shape} to {new.input_shape}"
    elif new.preprocessing != old.preprocessing:
        changed = f"the preprocessing would change from {old.preprocessing} to {new.preprocessing}"
    elif len(new.labels) != len(old.labels):
        changed = f"there would be {len(new.labels)} labels in place of {len(old.labels)}"
    elif new.labels != old.labels:
        first = next(place for place, pair in enumerate(zip(old.labels, new.labels, strict=True)) if len({*pair}) > 1)
        changed = f"label {first} would change from {old.labels[first]!r} to {new.labels[first]!r}"
    elif new.max_batch < old.max_batch:
        changed = f"a request could hold {new.max_batch} images in place of {old.max_batch}"
    if changed:
        raise InvalidInput(f"{changed}; clients hold the old description until they ask again (--force: all the same)")
