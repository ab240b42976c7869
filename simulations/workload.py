"""Which request comes when, at which edge, with which sample: the same for real nodes and for simulated ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.scenarios import Arrivals, Scenario

__all__ = ["Requests", "requests_of"]


@dataclass(frozen=True)
class Requests:
    """The requests of E edges, n each, in the order they are sent.

    *edges*: int64 [E], the edges' numbers. *sent_s*: float64 [E, n], ascending. *rows*: int64 [E, n], the sample of
    each. *offset_s*: float64 [E], where in its course each edge's link is at the start.
    """

    edges: NDArray[np.int64]
    sent_s: NDArray[np.float64]
    rows: NDArray[np.int64]
    offset_s: NDArray[np.float64]


def requests_of(scenario: Scenario, cloud: int, samples: int, link_period_s: float = 0.0) -> Requests:
    """The requests of all edges of *cloud*, each for one of *samples* samples.

    They depend on the scenario's seed and the cloud's number only, so a scenario cut into shards gives the same ones.
    """
    rng = np.random.default_rng([scenario.seed, 0, cloud])
    edges = np.array(scenario.edges_of(cloud), dtype=np.int64)
    shape = (len(edges), scenario.workload.requests)
    if scenario.workload.arrivals is Arrivals.POISSON:
        sent_s = np.cumsum(rng.exponential(1 / scenario.workload.rate_per_s, shape), axis=1)
    else:
        phase = rng.uniform(0.0, 1.0, (len(edges), 1))
        sent_s = (np.arange(shape[1]) + phase) / scenario.workload.rate_per_s
    rows = rng.integers(samples, size=shape)
    return Requests(edges, sent_s, rows, rng.uniform(0.0, link_period_s, len(edges)))
