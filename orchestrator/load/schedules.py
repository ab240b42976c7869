"""Which request is sent when. Pure: no clock runs here.

    open loop     at its time, whether or not earlier ones were answered, as cameras send: shows an overload
    closed loop   so many at a time, each next one as soon as one is answered: shows what a node can do
    interleaved   requests of several classes one after the other: what they take may be compared

The generator sends a *lane* of requests beside the others; how many of a lane are under way at a time is its
*concurrency*, None for an open loop.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.rules import ExitRule
from branchynet.placement.plan import Plan
from branchynet.serving.prediction import Policy
from simulations.model.workload import Requests

__all__ = ["Lane", "Request", "RequestClass", "closed_loop", "constant_rate", "interleaved", "open_loop", "policy_of"]

# A camera asks a few dozen times a second; without a pause, caches would be warmer than it finds them.
PAUSE_S = 0.015


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its *number*, the *edge* that is asked first, and the *row* of its image.

    In batches of B it brings B images, those from *row* times B on. *due_s*: when it is sent, from the start of the
    run; None: as soon as its lane has room. *cloud*: whom its edge asks. *rule* and *policy* as for `Client.classify`.
    """

    number: int
    edge: int
    row: int
    due_s: float | None = None
    cloud: int = 0
    rule: ExitRule | None = None
    policy: Policy = Policy.SPLIT


@dataclass(frozen=True, slots=True)
class Lane:
    """*requests* in their order, *concurrency* at a time (None: each when it is due), each after a pause."""

    requests: Iterable[Request]
    concurrency: int | None = None
    pause_s: float = 0.0

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise InvalidInput(f"concurrency is {self.concurrency}; it must be 1 or more")


@dataclass(frozen=True, eq=False)
class RequestClass:
    """Requests to the edge at *target* (`host:port`), by *plan*, with the images at *rows*, int64 [n]."""

    target: str
    plan: Plan
    rows: NDArray[np.int64]


def policy_of(plan: Plan) -> Policy:
    """What a request asks for, so that an edge that holds stages [0, plan.cut) carries out *plan*.

    Raises `InvalidInput` for a plan with a codec, which no request asks for.
    """
    plan.check_plain()
    if plan.edge_only:
        return Policy.EDGE_ONLY
    return Policy.CLOUD_ONLY if plan.cut == 0 else Policy.SPLIT


def open_loop(parts: Sequence[Requests], plan: Plan | None = None, policy: Policy = Policy.SPLIT) -> Lane:
    """The requests of a scenario's clouds, *parts*, each at its time; by *plan*, or (None) by the edges' own rules.

    *policy* counts where there is no plan. They are numbered cloud by cloud and edge by edge, as the simulator's rows.
    """
    rule, policy = (None, policy) if plan is None else (plan.rule, policy_of(plan))
    numbers = itertools.count()
    requests = [
        Request(next(numbers), int(edge), int(row), float(due_s), part.cloud, rule, policy)
        for part in parts
        for edge, rows, dues_s in zip(part.edges, part.rows, part.sent_s, strict=True)
        for row, due_s in zip(rows, dues_s, strict=True)
    ]
    return Lane(sorted(requests, key=_due_s))


def constant_rate(rate_per_s: float, samples: int, edges: int, seconds: float = math.inf) -> Lane:
    """*rate_per_s* requests a second for *seconds*: the *samples* images over and over, to the *edges* by turns."""
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise InvalidInput(f"rate_per_s is {rate_per_s}; it must be above 0")
    if not seconds > 0:
        raise InvalidInput(f"seconds is {seconds}; it must be above 0")
    requests = (Request(n, n % edges, n % samples, n / rate_per_s) for n in itertools.count())
    return Lane(itertools.takewhile(lambda request: _due_s(request) < seconds, requests))


def closed_loop(
    samples: int, edges: int, concurrency: int, *, requests: float = math.inf, policy: Policy = Policy.SPLIT
) -> list[Lane]:
    """A lane of *concurrency* for each of *edges*, to which *requests* are dealt out: *samples* images over and over.

    Whoever is free takes the next image of its edge.
    """

    def of_edge(edge: int) -> Iterator[Request]:
        for number in itertools.takewhile(lambda number: number < requests, itertools.count(edge, edges)):
            yield Request(number, edge, number % samples, policy=policy)

    return [Lane(of_edge(edge), concurrency) for edge in range(edges)]


def interleaved(classes: Sequence[RequestClass], edges: Sequence[int]) -> Lane:
    """The requests of *classes*, whose targets have the numbers *edges*, one at a time and numbered class by class.

    In a round each class has one request, in an order that is random, always the same; classes with fewer requests
    leave rounds out, evenly. So nobody waits behind anybody, a slow minute of the machine falls on all classes alike,
    and none has always the same one before it.
    """
    rounds, rng = max(len(one.rows) for one in classes), np.random.default_rng(0)
    firsts = np.cumsum([0, *(len(one.rows) for one in classes)]).tolist()
    requests, done = [], [0] * len(classes)
    for number in range(rounds):
        for place in rng.permutation(len(classes)).tolist():
            one, position = classes[place], done[place]
            if position < (number + 1) * len(one.rows) // rounds:
                row, rule, policy = int(one.rows[position]), one.plan.rule, policy_of(one.plan)
                requests.append(Request(firsts[place] + position, edges[place], row, rule=rule, policy=policy))
                done[place] += 1
    return Lane(requests, concurrency=1, pause_s=PAUSE_S)


def _due_s(request: Request) -> float:
    assert request.due_s is not None
    return request.due_s
