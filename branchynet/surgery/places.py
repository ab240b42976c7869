"""Which of a model's legal cuts are worth a look, and where exits go if nobody says: decided from MACs and bytes alone.

A real model may be cut at hundreds of places, most of them inside a block, where more crosses than at its end.
"""

from __future__ import annotations

from collections.abc import Sequence

from branchynet.errors import InvalidInput
from branchynet.surgery.attach import Cut

__all__ = ["places_to_cut", "proposed_places"]

# Each exit is looked for within this share of all MACs around its even share.
REACH = 0.12
# Before it, hardly any work is saved by leaving there; behind it, hardly any is left to save.
EARLIEST, LATEST = 0.05, 0.9


def places_to_cut(cuts: Sequence[Cut]) -> list[Cut]:
    """Those of *cuts* where one tensor crosses, without those that another one makes needless.

    Of neighbours that hand on tensors of one shape the outermost block stays, at the same depth the last: the
    activation behind a convolution rather than the convolution. The inside of a block goes where fewer bytes cross at
    its end. All of *cuts* if everywhere several tensors cross.
    """
    places: list[Cut] = []
    for cut in cuts:
        if len(cut.crossing) > 1:
            continue
        if places and _alike(places[-1], cut):
            if _depth(cut) <= _depth(places[-1]):
                places[-1] = cut
        else:
            places.append(cut)
    outer = [place for place in places if not any(_within(place, later) for later in places)]
    return outer or list(cuts)


def proposed_places(cuts: Sequence[Cut], exits: int = 2) -> list[Cut]:
    """Where *exits* early exits go: near even shares of the MACs, there where the fewest bytes cross.

    Two exits are looked for near a third and two thirds of the work. Fewer, if *cuts* has not so many places with work
    on both sides; `InvalidInput` if it has none.
    """
    places = [cut for cut in places_to_cut(cuts) if EARLIEST <= _share(cut) <= LATEST]
    if not places:
        raise InvalidInput("no place of the model has work on both sides; name one with --after")
    exits = min(exits, len(places))
    chosen: list[Cut] = []
    for number in range(exits):
        target = (number + 1) / (exits + 1)
        # Those that the exits to come need stay free.
        first = places.index(chosen[-1]) + 1 if chosen else 0
        free = places[first : len(places) - (exits - number - 1)]
        near = [cut for cut in free if abs(_share(cut) - target) <= REACH]
        chosen.append(
            min(near, key=lambda cut: (cut.bytes, _depth(cut), abs(_share(cut) - target)))
            if near
            else min(free, key=lambda cut: abs(_share(cut) - target))
        )
    return chosen


def _share(cut: Cut) -> float:
    return cut.macs_before / max(cut.macs_before + cut.macs_after, 1)


def _depth(cut: Cut) -> int:
    return cut.name.count(".")


def _alike(one: Cut, other: Cut) -> bool:
    """Whether nothing of weight lies between the two, and as much crosses at one as at the other."""
    return one.crossing[0].shape == other.crossing[0].shape and abs(_share(one) - _share(other)) < 0.01


def _within(cut: Cut, block: Cut) -> bool:
    """Whether *cut* lies inside of *block*, close to whose end fewer bytes cross."""
    return cut.name.startswith(f"{block.name}.") and block.bytes < cut.bytes and _share(block) - _share(cut) < REACH / 2
