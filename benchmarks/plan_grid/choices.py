"""Chosen plans over a grid of links and edges, beside the better of edge only and cloud only at the same accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from branchynet.placement.candidates import Candidates
from branchynet.placement.optimise import Constraints, Measures, best, evaluate
from branchynet.placement.plan import Plan, plain_codec
from branchynet.placement.serving_profile import Link, ServingProfile
from orchestrator.runs.plan_inputs import PlanInputs

__all__ = [
    "RTTS_MS",
    "SLOWDOWNS",
    "UPLINKS_MBPS",
    "Choice",
    "Point",
    "choose_over",
    "profiles_of",
    "sized_as",
    "spread_over",
]

UPLINKS_MBPS = (0.25, 1.0, 5.0, 20.0, 100.0, 1_000.0)
RTTS_MS = (5.0, 20.0, 80.0, 200.0)
# The edge beside its cloud: as fast, and ten times as slow.
SLOWDOWNS = (1, 10)


@dataclass(frozen=True)
class Choice:
    """A *plan* with its *accuracy*, the *shares* of samples at each exit, and its predicted mean."""

    plan: Plan
    mean_ms: float
    accuracy: float
    shares: NDArray[np.float64]

    @classmethod
    def of(cls, measures: Measures, index: int) -> Choice:
        """The candidate at *index*."""
        found = measures.candidates
        return cls(found.plan(index), float(measures.mean_ms[index]), float(found.accuracy[index]), found.shares[index])


@dataclass(frozen=True)
class Point:
    """An edge that is slower by *slowdown*, behind a *link*: the *chosen* plan, and the fastest that need no choice.

    All keep to the same accuracy. *edge_only*: everybody leaves at the edge; None where no rule is accurate enough
    there. *cloud_only*: images as they are to the cloud, every exit taken there that may be.
    """

    link: Link
    slowdown: int
    chosen: Choice
    edge_only: Choice | None
    cloud_only: Choice

    @property
    def gain(self) -> float:
        """How many times as fast the chosen plan is as cloud only."""
        return self.cloud_only.mean_ms / self.chosen.mean_ms

    @property
    def margin(self) -> float:
        """How many times as fast it is as the better of edge only and cloud only; below 1 it would be slower."""
        alone = [self.cloud_only.mean_ms, *([self.edge_only.mean_ms] if self.edge_only else [])]
        return min(alone) / self.chosen.mean_ms


def profiles_of(profile: ServingProfile) -> dict[int, ServingProfile]:
    """*profile* with an edge that is slower by each of `SLOWDOWNS`."""
    return {slowdown: profile.slower(edge=slowdown) for slowdown in SLOWDOWNS}


def choose_over(inputs: PlanInputs, profiles: Mapping[int, ServingProfile], floor: float) -> Iterator[Point]:
    """The fastest plans with an accuracy of at least *floor*, for each of `SLOWDOWNS`, `RTTS_MS`, `UPLINKS_MBPS`.

    *profiles*: for each slowdown, of the network and the edge's half that *inputs* is of; sizes of messages are the
    inputs's. Raises `InvalidInput` if no plan is accurate enough.
    """
    candidates = inputs.candidates()
    for slowdown in SLOWDOWNS:
        profile = sized_as(profiles[slowdown], inputs.profile)
        for rtt_ms in RTTS_MS:
            for uplink_mbps in UPLINKS_MBPS:
                yield _point(candidates, profile, Link(uplink_mbps, rtt_ms=rtt_ms), slowdown, floor)


def spread_over(points: list[Point], count: int) -> list[Point]:
    """*count* of *points*, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(points) - 1, count).round().astype(np.int64)
    return [points[place] for place in places]


def _point(candidates: Candidates, profile: ServingProfile, link: Link, slowdown: int, floor: float) -> Point:
    measures = evaluate(candidates, profile, link)
    ways = candidates.ways
    alone = np.array([way.edge_only for way in ways])[candidates.way]
    raw = np.array([way.cut == 0 and way.codec == plain_codec(0) for way in ways])[candidates.way]
    chosen = Choice.of(measures, best(measures, "mean_ms", Constraints(min_accuracy=floor)))
    edge_only, cloud_only = (_fastest(measures, kind & (candidates.accuracy >= floor)) for kind in (alone, raw))
    assert cloud_only is not None, "cloud only can have the final exit's accuracy, and no floor is above that"
    return Point(link, slowdown, chosen, edge_only, cloud_only)


def _fastest(measures: Measures, among: NDArray[np.bool_]) -> Choice | None:
    rows = np.flatnonzero(among)
    return Choice.of(measures, int(rows[measures.mean_ms[rows].argmin()])) if len(rows) else None


def sized_as(profile: ServingProfile, sized: ServingProfile) -> ServingProfile:
    """*profile* with what *sized* holds: the edge's half, and the codecs with the sizes of their messages."""
    bytes_of = {(cost.cut, cost.codec): cost.message_bytes for cost in sized.codecs}
    codecs = [
        replace(cost, message_bytes=bytes_of[cost.cut, cost.codec])
        for cost in profile.codecs
        if (cost.cut, cost.codec) in bytes_of
    ]
    return replace(profile, codecs=tuple(codecs), held=sized.held)
