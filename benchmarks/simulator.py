"""Requests per second: the simulator's arrays against its oracle's events, on the same scenarios.

    python benchmarks/simulator.py [--rounds 7] [--edges 20] [--requests 500] [--json FILE]

In every round both simulate each scenario, one right after the other and in turns first, so that a slow moment of the
machine falls on both; their records are compared as well. The network is the shipped lenet-fashion with its measured
outcomes on the shipped images; its times are round numbers, on which the speed of neither program depends.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import load_sample
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.placement.plan import Plan
from branchynet.placement.serving_profile import ServingProfile, StageTimes
from simulations.link.capacity import Capacity, DeliveryLog
from simulations.model.oracle import simulate_cloud_by_events
from simulations.model.request_records import Records
from simulations.model.scenario import Scenario
from simulations.model.simulator import Measured, simulate_cloud

Simulate = Callable[[Scenario, Measured, int, Capacity], Records]


@dataclass
class Case:
    """A scenario with its uplink, and the requests per second of each round."""

    name: str
    scenario: Scenario
    capacity: Capacity
    arrays: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)

    @property
    def gains(self) -> list[float]:
        """How many times as fast the arrays were in each round."""
        return [arrays / events for arrays, events in zip(self.arrays, self.events, strict=True)]


def measured_network() -> Measured:
    """The shipped network, on an edge ten times as slow as its cloud."""
    opened = Artifact.open("lenet-fashion")
    manifest, network = opened.manifest, opened.runner(engine=opened.reference_engine)
    table = measure_outcomes(network, manifest.cost, load_sample())
    edge = StageTimes((1, 8), ((4.0, 20.0), (3.0, 15.0)))
    profile = ServingProfile(edge, edge.slower(0.1), (0, 1), 1, 1.0, 2.0, (784, 4_480), 120, 260)
    return Measured(table, profile, Plan(1, manifest.rule))


def cases_of(edges: int, requests: int) -> list[Case]:
    """One scenario for each kind of uplink; with a batching cloud on the two that vary."""
    common: dict[str, Any] = {"edges": edges, "workload": {"rate_per_s": 20, "requests": requests}}
    constant = Scenario.model_validate({**common, "link": {"uplink_mbps": 2.0}})
    states = {"uplink_mbps": {"states": [0.5, 4.0], "mean_stay_s": [1.0, 1.0]}}
    batching = {"cloud": {"workers": 2, "max_batch": 8, "slowdown": 5}}
    markov = Scenario.model_validate({**common, **batching, "link": states})
    logged = Scenario.model_validate({**common, **batching})
    # As many deliveries as a log of 2 Mbit/s has in a minute, in whole milliseconds as Mahimahi writes them.
    times_ms = np.sort(np.random.default_rng(0).integers(1, 60_000, 10_000))
    return [
        Case("constant rate, one at a time", constant, constant.link.capacity(0)),
        Case("two states, 2 workers × 8", markov, markov.link.capacity(0)),
        Case("delivery log, 2 workers × 8", logged, DeliveryLog(times_ms / 1e3)),
    ]


def timed(simulate: Simulate, case: Case, measured: Measured) -> tuple[float, Records]:
    """Requests per second, and what became of them."""
    start_s = time.perf_counter()
    records = simulate(case.scenario, measured, 0, [case.capacity])
    return len(records) / (time.perf_counter() - start_s), records


def run_round(number: int, case: Case, measured: Measured) -> None:
    """Both once, in turns first. Raises `AssertionError` if their records differ."""
    pair: list[tuple[Simulate, list[float]]] = [
        (simulate_cloud, case.arrays),
        (simulate_cloud_by_events, case.events),
    ]
    records = []
    for simulate, rates in pair if number % 2 == 0 else reversed(pair):
        rate, became = timed(simulate, case, measured)
        rates.append(rate)
        records.append(became)
    np.testing.assert_allclose(records[0].latency_ms, records[1].latency_ms, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(records[0].exit, records[1].exit)


def spread(values: list[float]) -> str:
    """Median (lowest - highest)."""
    return f"{median(values):,.0f} ({min(values):,.0f} – {max(values):,.0f})"


def main() -> None:
    """Measure, print the table, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--edges", type=int, default=20)
    parser.add_argument("--requests", type=int, default=500, help="of each edge")
    parser.add_argument("--json", type=Path, help="write the figures of every round to this file")
    given = parser.parse_args()

    measured, cases = measured_network(), cases_of(given.edges, given.requests)
    for case in cases:  # what is done only once, such as imports and cached sums, is nobody's
        timed(simulate_cloud, case, measured)
    for number in range(given.rounds):
        for case in cases:
            run_round(number, case, measured)

    count = given.edges * given.requests
    table = Table(title=f"requests simulated per second; {count:,} requests, {given.rounds} rounds: median (lo – hi)")
    for title in ("uplink, cloud", "arrays", "events (SimPy)", "times as fast"):
        table.add_column(title, justify="left" if title == "uplink, cloud" else "right")
    for case in cases:
        table.add_row(case.name, spread(case.arrays), spread(case.events), spread(case.gains))
    Console(width=118).print(table)
    if given.json:
        rounds = {case.name: {"arrays": case.arrays, "events": case.events} for case in cases}
        given.json.write_text(json.dumps({"requests": count, "requests_per_s": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
