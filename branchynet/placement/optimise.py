"""What every candidate plan takes on given devices over a given link, and which one is best.

A plan's mean is the shares of its samples at each exit times what that exit takes (`ServingProfile.costs_by_exit`), its
tail is the time of the exit at which that share of samples is through: a new link needs a few sums of products, and no
sample is looked at again. Nobody waits behind anybody here; what the cloud's other callers cost is one number,
*cloud_queue_ms*. `simulations.model.simulator` reckons with queues, of one plan.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.placement.candidates import Candidates, undominated
from branchynet.placement.serving_profile import Link, ServingProfile

__all__ = [
    "MEASURES",
    "Constraints",
    "EnergyModel",
    "Measures",
    "best",
    "best_of_each_placement",
    "binding",
    "evaluate",
    "pareto",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
MEASURES = ("accuracy", "mean_ms", "tail_ms", "uplink_bytes", "busy_ms", "cloud_ms", "joules")


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """What an edge spends on a request: so much for each millisecond at work, each byte sent, each millisecond waiting.

    Above what it draws when idle. Neurosurgeon (Kang et al. 2017) adds up computing and sending likewise. Raises
    `InvalidInput` for less than nothing.
    """

    joules_per_busy_ms: float
    joules_per_sent_byte: float
    joules_per_waiting_ms: float = 0.0

    def __post_init__(self) -> None:
        values = (self.joules_per_busy_ms, self.joules_per_sent_byte, self.joules_per_waiting_ms)
        if not all(0 <= value < np.inf for value in values):
            raise InvalidInput(f"{self}: energies must be finite and 0 or more")


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a plan must keep to; None asks for nothing. Accuracy is 0..1, the others are a request's mean or its tail.

    Raises `InvalidInput` for what is not a number.
    """

    min_accuracy: float | None = None
    max_mean_ms: float | None = None
    max_tail_ms: float | None = None
    max_uplink_bytes: float | None = None
    max_joules: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.asked():
            if np.isnan(limit):
                raise InvalidInput(f"the limit of {name} is {limit}; it must be a number")

    def asked(self) -> list[tuple[str, float]]:
        """The measures that are limited, each with its limit."""
        limits = [(field.name[len("max_") :], getattr(self, field.name)) for field in fields(self)]
        return [(name, limit) for name, limit in limits if limit is not None]

    def without(self, name: str) -> Constraints:
        """The same but for the limit of the measure *name*."""
        return replace(self, **{field.name: None for field in fields(self) if field.name[len("max_") :] == name})


@dataclass(frozen=True)
class Measures:
    """What each of the P *candidates* takes: float64 [P] each, means over the samples.

    *accuracy*: 0..1. *mean_ms*: from the request to its answer; *tail_ms*: the same of the sample at quantile *tail*
    of all samples. *uplink_bytes*: framing included. *busy_ms*, *cloud_ms*: edge and cloud at work. *joules*: of the
    edge, None without an energy model.
    """

    candidates: Candidates
    tail: float
    accuracy: Floats
    mean_ms: Floats
    tail_ms: Floats
    uplink_bytes: Floats
    busy_ms: Floats
    cloud_ms: Floats
    joules: Floats | None

    def values(self, name: str) -> Floats:
        """The measure *name*, float64 [P]. Raises `InvalidInput` if there is none, or no energy model was given."""
        if name not in MEASURES:
            raise InvalidInput(f"{name!r} is no measure; it must be one of {', '.join(MEASURES)}")
        values: Floats | None = getattr(self, name)
        if values is None:
            raise InvalidInput("joules are unknown; evaluate the plans with an energy model")
        return values

    def losses(self, name: str) -> Floats:
        """The measure *name*, float64 [P], so that less is better."""
        return -self.accuracy if name == "accuracy" else self.values(name)


def evaluate(
    candidates: Candidates,
    profile: ServingProfile,
    link: Link,
    energy: EnergyModel | None = None,
    *,
    cloud_queue_ms: float = 0.0,
    tail: float = 0.95,
) -> Measures:
    """What each of *candidates* takes on the devices of *profile* over *link*, an offload waiting *cloud_queue_ms*.

    Raises `InvalidInput` for a profile of another network or another edge's half, a codec that it does not know, a
    queue below 0, or a tail that is not above 0 and at most 1.
    """
    if (profile.exit_stages, profile.held) != (candidates.exit_stages, candidates.held):
        raise InvalidInput(
            f"the profile has exits after {profile.exit_stages} and an edge with {profile.held} stages; "
            f"the candidates are for {candidates.exit_stages} and {candidates.held}"
        )
    if not 0 < tail <= 1:
        raise InvalidInput(f"tail is {tail}; it must be above 0 and at most 1")
    by_way = [
        profile.costs_by_exit(way.cut, way.codec, link, edge_only=way.edge_only, cloud_queue_ms=cloud_queue_ms)
        for way in candidates.ways
    ]
    # [W, 4, E], of which each plan gets the matrix of its way.
    costs = np.array([[cost.busy_ms, cost.waiting_ms, cost.cloud_ms, cost.uplink_bytes] for cost in by_way])
    busy_ms, waiting_ms, cloud_ms, uplink_bytes = np.einsum("pme,pe->mp", costs[candidates.way], candidates.shares)
    # The shares are whole numbers of samples divided, so they may miss the quantile by rounding only.
    through = np.argmax(np.cumsum(candidates.shares, axis=1) >= tail - 1e-9, axis=1)
    joules = None
    if energy is not None:
        joules = energy.joules_per_busy_ms * busy_ms + energy.joules_per_waiting_ms * waiting_ms
        joules += energy.joules_per_sent_byte * uplink_bytes
    return Measures(
        candidates=candidates,
        tail=tail,
        accuracy=candidates.accuracy,
        mean_ms=busy_ms + waiting_ms,
        tail_ms=(costs[:, 0] + costs[:, 1])[candidates.way, through],
        uplink_bytes=uplink_bytes,
        busy_ms=busy_ms,
        cloud_ms=cloud_ms,
        joules=joules,
    )


def best(measures: Measures, objective: str = "mean_ms", constraints: Constraints | None = None) -> int:
    """The candidate with the least *objective* (the most, for `accuracy`) of those that keep to *constraints*.

    Of equals: fewer bytes, then the lower mean, the higher accuracy, the deeper exit to answer without the cloud, and
    the one that comes first. Raises `InvalidInput`, with the nearest values there are, if none keeps to them.
    """
    rows = _rows_within(measures, constraints or Constraints())
    losses = measures.losses(objective)[rows]
    return int(_preferred_first(measures, rows[losses == losses.min()])[0])


def best_of_each_placement(
    measures: Measures, objective: str = "mean_ms", constraints: Constraints | None = None
) -> Integers:
    """For each way that has a plan within *constraints* the `best` one of its plans: int64 [K], the best of all first.

    Raises `InvalidInput` as `best` does.
    """
    rows = _preferred_first(measures, _rows_within(measures, constraints or Constraints()))
    rows = rows[np.argsort(measures.losses(objective)[rows], kind="stable")]
    _, first = np.unique(measures.candidates.way[rows], return_index=True)
    return rows[np.sort(first)]


def binding(measures: Measures, objective: str, constraints: Constraints) -> dict[str, int]:
    """The measures whose limit costs something: each with the plan that would be `best` without only that limit.

    Raises `InvalidInput` as `best` does.
    """
    losses = measures.losses(objective)
    least = losses[best(measures, objective, constraints)]
    relaxed = {name: best(measures, objective, constraints.without(name)) for name, _ in constraints.asked()}
    return {name: plan for name, plan in relaxed.items() if losses[plan] < least}


def pareto(measures: Measures, names: tuple[str, ...] = ("accuracy", "mean_ms")) -> Integers:
    """The candidates that no other one beats in all of the measures *names*: int64 [K], the first one's best first.

    Of equals the one that `best` prefers is in. Raises `InvalidInput` for a name that is no measure, or no names.
    """
    if not names:
        raise InvalidInput(f"a frontier needs measures; give some of {', '.join(MEASURES)}")
    rows = _preferred_first(measures, np.arange(len(measures.candidates)))
    return rows[undominated(np.column_stack([measures.losses(name)[rows] for name in names]))]


def _rows_within(measures: Measures, constraints: Constraints) -> Integers:
    """The candidates that keep to *constraints*, ascending; `InvalidInput` if none does."""
    asked = constraints.asked()
    kept = np.array([_keeps(measures, name, limit) for name, limit in asked], dtype=np.bool_)
    kept = kept.reshape(len(asked), len(measures.candidates))
    rows = np.flatnonzero(kept.all(axis=0))
    if not len(rows):
        raise InvalidInput(_nearest(measures, asked, kept))
    return rows


def _preferred_first(measures: Measures, rows: Integers) -> Integers:
    local = measures.candidates.local_exits[measures.candidates.way[rows]]
    keys = (-local, -measures.accuracy[rows], measures.mean_ms[rows], measures.uplink_bytes[rows])
    return rows[np.lexsort(keys)]


def _keeps(measures: Measures, name: str, limit: float) -> NDArray[np.bool_]:
    return measures.losses(name) <= (-limit if name == "accuracy" else limit)


def _nearest(measures: Measures, asked: list[tuple[str, float]], kept: NDArray[np.bool_]) -> str:
    """The message for limits that no plan keeps to; asking for one of the values in it succeeds."""
    signs = {name: ">=" if name == "accuracy" else "<=" for name, _ in asked}
    wanted = " and ".join(f"{name} {signs[name]} {limit:.6g}" for name, limit in asked)
    others = [np.delete(kept, row, axis=0).all(axis=0) for row in range(len(asked))]
    together = any(mask.any() for mask in others)
    near = []
    for (name, _), mask in zip(asked, others, strict=True):
        values = measures.losses(name)[mask if together else ...]
        if len(values):
            near.append(f"{name} {signs[name]} {_told(float(values.min()), name)}")
    where = "" if len(asked) == 1 else "with the rest kept, " if together else "on its own, "
    return f"no plan has {wanted}; {where}one has {' or '.join(near)}"


def _told(loss: float, name: str) -> str:
    """Six digits, rounded to the side on which the value can be had."""
    value, rounding = (-loss, ROUND_FLOOR) if name == "accuracy" else (loss, ROUND_CEILING)
    return f"{float(Context(prec=6, rounding=rounding).create_decimal_from_float(value)):.6g}"
