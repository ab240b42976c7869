"""Which pictures are held out from training: by what is in them, so no name, folder or other picture moves one.

Pure: digests in, sets out. Two copies of a picture have one digest, so both lie on the same side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from branchynet.errors import InvalidInput

__all__ = ["HeldOut", "draw"]

# Of a digest, in hexadecimal; among 5,000 pictures two are taken for one another once in 300 sets.
_KEPT = 8


@dataclass(frozen=True)
class HeldOut:
    """The pictures held out: a *share* of all, drawn by *seed*; and the beginnings of their digests, sorted."""

    share: float
    seed: int
    beginnings: tuple[str, ...]

    @classmethod
    def of(cls, share: float, seed: int, digests: Sequence[str]) -> HeldOut:
        """What to record of the pictures with *digests*."""
        return cls(share, seed, tuple(sorted({digest[:_KEPT] for digest in digests})))

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> HeldOut | None:
        """What the *recipe* of an artifact records; None if it records no such split."""
        share, seed, text = (recipe.get(name) for name in ("share", "seed", "held_out"))
        if not isinstance(share, float) or not isinstance(seed, int) or not isinstance(text, str):
            return None
        beginnings = tuple(text[start : start + _KEPT] for start in range(0, len(text), _KEPT))
        if hashlib.sha256(text.encode()).hexdigest() != recipe.get("held_out_digest"):
            raise InvalidInput("the recipe's held_out is not what its held_out_digest says; train the exits again")
        return cls(share, seed, beginnings)

    def to_recipe(self) -> dict[str, Any]:
        """The same as entries of a recipe."""
        text = "".join(self.beginnings)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {"share": self.share, "seed": self.seed, "held_out": text, "held_out_digest": digest}

    def missing(self, digests: Sequence[str]) -> int:
        """How many of the held-out pictures are not among those with *digests*."""
        return len(set(self.beginnings) - {digest[:_KEPT] for digest in digests})

    def part(self, digests: Sequence[str]) -> tuple[list[int], list[int]]:
        """Where in *digests* those to train on are, with all that came later, and those held out."""
        recorded = set(self.beginnings)
        sides: tuple[list[int], list[int]] = ([], [])
        for number, digest in enumerate(digests):
            sides[digest[:_KEPT] in recorded].append(number)
        return sides


def draw(digests: Sequence[str], labels: Sequence[int], share: float, seed: int) -> HeldOut:
    """Hold about *share* of the pictures out; of each class with two different ones at least one, and never all.

    Raises `InvalidInput` for a share outside 0..1, and if nothing would be left on one of the sides.
    """
    if not 0 < share < 1:
        raise InvalidInput(f"the share that is held out is {share}; it must be more than 0 and less than 1")
    drawn = {digest: _draw(digest, seed) for digest in digests}
    held = {digest for digest, number in drawn.items() if number < share}
    classes: dict[int, set[str]] = {}
    for digest, label in zip(digests, labels, strict=True):
        classes.setdefault(label, set()).add(digest)
    for _, those in sorted(classes.items()):
        if len(those) > 1 and not those & held:
            held.add(min(those, key=drawn.__getitem__))
        elif those <= held:
            held.remove(max(those, key=drawn.__getitem__))
    if not held:
        raise InvalidInput(f"of {len(set(digests)):,} different pictures none can be held out; each class needs two")
    return HeldOut.of(share, seed, sorted(held))


def _draw(digest: str, seed: int) -> float:
    """A number 0..1 that depends on a picture and *seed* alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {digest}".encode()).digest()[:8]) / 2**64
