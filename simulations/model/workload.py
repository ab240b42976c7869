"""Which request comes when, at which edge, with which sample: the same for real nodes and for simulated ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.model.scenario import Arrivals, Scenario, Trace

__all__ = ["Requests", "all_requests", "link_offsets_s", "requests_of"]


@dataclass(frozen=True)
class Requests:
    """The requests of E edges, n each, in the order they are sent.

    *edges*: int64 [E], the edges' numbers. *sent_s*: float64 [E, n], ascending. *rows*: int64 [E, n], the sample of
    each. *offset_s*: float64 [E], where in its course each edge's link is at the start. *cloud*: the number of
    the cloud that these edges ask.
    """

    edges: NDArray[np.int64]
    sent_s: NDArray[np.float64]
    rows: NDArray[np.int64]
    offset_s: NDArray[np.float64]
    cloud: int = 0


def all_requests(scenario: Scenario, samples: int) -> list[Requests]:
    """All requests, cloud by cloud and group by group, as the simulator writes its rows."""
    periods_s = [uplink.period_s for uplink in scenario.uplinks()]
    return [
        requests_of(scenario, cloud, samples, period_s, group)
        for cloud in range(scenario.clouds)
        for group, period_s in enumerate(periods_s)
    ]


def requests_of(scenario: Scenario, cloud: int, samples: int, link_period_s: float = 0.0, group: int = 0) -> Requests:
    """The requests of all edges of *cloud* that are in the *group* with that number, each for one of *samples* samples.

    They depend on the scenario's seed, the cloud's and the group's number only, so a scenario cut into shards gives the
    same ones. *link_period_s*: after how long the course of the group's links starts anew.
    """
    numbers, edges_alike = list(scenario.edge_groups())[group]
    rng = np.random.default_rng(_seeds(scenario, 0, cloud, group))
    edges = np.array(scenario.edges_of(cloud, numbers), dtype=np.int64)
    workload = edges_alike.workload
    shape = (len(edges), workload.requests)
    if workload.arrivals is Arrivals.POISSON:
        sent_s = np.cumsum(rng.exponential(1 / workload.rate_per_s, shape), axis=1)
    else:
        phase = rng.uniform(0.0, 1.0, (len(edges), 1))
        sent_s = (np.arange(shape[1]) + phase) / workload.rate_per_s
    rows = rng.integers(samples, size=shape)
    return Requests(edges, sent_s, rows, link_offsets_s(scenario, cloud, link_period_s, group), cloud)


def link_offsets_s(scenario: Scenario, cloud: int, link_period_s: float, group: int = 0) -> NDArray[np.float64]:
    """Where in their course the links are at the start: float64 [E], for the edges that `requests_of` has."""
    numbers, edges_alike = list(scenario.edge_groups())[group]
    count, uplink = len(scenario.edges_of(cloud, numbers)), edges_alike.link.uplink_mbps
    if isinstance(uplink, Trace) and uplink.start_s is not None:
        return np.full(count, uplink.start_s)
    return np.random.default_rng(_seeds(scenario, 2, cloud, group)).uniform(0.0, link_period_s, count)


def _seeds(scenario: Scenario, purpose: int, cloud: int, group: int) -> list[int]:
    """Seeds of a generator; a first group draws what edges draw that are all alike."""
    return [scenario.seed, purpose, cloud, *([group] if group else [])]
