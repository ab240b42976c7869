"""How fast plans are judged: a whole set of candidates on a new link, against walking the samples of each plan.

    python benchmarks/placement.py [--rounds 15] [--samples 5000] [--json FILE]

In every round the link is another one. All candidates are judged on it and the fastest accurate one is chosen, as a
node does that re-plans; right before or after, in turns first, some of the same plans are routed sample by sample, and
both must say the same. Then a node at work looks for a better plan, by risk and deadline, among those that are accurate
enough. The network has four stages and three exits, of which the edge holds three stages and two exits;
two lossy codecs at each cut. Its outcomes are drawn at random, of growing accuracy, so that no data are needed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion
from branchynet.placement.candidates import Candidates
from branchynet.placement.optimise import Constraints, EnergyModel, Measures, best, evaluate
from branchynet.placement.plan import route
from branchynet.placement.replanner import Adaptation, Replanner
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile, StageTimes

ENERGY = EnergyModel(joules_per_busy_ms=3e-3, joules_per_sent_byte=5e-7, joules_per_waiting_ms=1e-3)
CODECS = {"uint8": 0.05, "uint4": 0.3}
CLASSES = 10
WALKED = 20
# Combinations of thresholds at each cut and codec: the first gives about 2,000 plans, the last is the default.
RULES = (676, 4_096)


@dataclass
class Case:
    """A set of candidates, what making it took, and each round's times."""

    candidates: Candidates
    tables: dict[tuple[int, str], OutcomeTable]
    built_s: float
    judged_ms: list[float] = field(default_factory=list)
    chosen_ms: list[float] = field(default_factory=list)
    walked_ms: list[float] = field(default_factory=list)
    decided_ms: list[float] = field(default_factory=list)

    @property
    def replanned_ms(self) -> list[float]:
        """Judging and choosing, in each round."""
        return [judged + chosen for judged, chosen in zip(self.judged_ms, self.chosen_ms, strict=True)]

    @property
    def gains(self) -> list[float]:
        """How many times as fast a plan was judged as walked, in each round."""
        plans = len(self.candidates)
        return [walked * plans / judged for walked, judged in zip(self.walked_ms, self.judged_ms, strict=True)]


def drawn_outcomes(samples: int) -> OutcomeTable:
    """Samples of all degrees of difficulty; each exit is better at them than the one before."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=samples)
    ease = 1 / (0.3 + rng.exponential(1.0, samples))
    logits = rng.normal(0, 1.5, (3, samples, CLASSES))
    for number in range(3):
        logits[number, np.arange(samples), labels] += (3 + 3 * number) * ease
    return OutcomeTable(logits.astype(np.float32), labels, np.array([1.0, 3.0, 9.0]))


def coded_outcomes(table: OutcomeTable, first: int, noise: float) -> OutcomeTable:
    """*table* with *noise* on what the exits from number *first* on say."""
    logits = table.logits.copy()
    logits[first:] += np.random.default_rng(1).normal(0, noise, logits[first:].shape).astype(np.float32)
    return replace(table, logits=logits)


def network() -> ServingProfile:
    """Round numbers: an edge ten times as slow as its cloud."""
    edge = StageTimes((1,), ((4.0,), (6.0,), (5.0,), (5.0,)))
    maps = (3_072, 16_384, 8_192, 8_192)
    parts = {"uint8": 4, "uint4": 8}
    codecs = tuple(
        CodecCost(cut, codec, 80 + maps[cut] // parts[codec], 0.2, 0.1) for cut in (1, 2, 3) for codec in CODECS
    )
    messages = tuple(80 + size for size in maps)
    return ServingProfile(edge, edge.slower(0.1), (0, 1, 3), 3, 1.0, 2.0, messages, 120, 260, codecs)


def case_of(rules: int, samples: int, profile: ServingProfile) -> Case:
    """The candidates from about *rules* combinations of thresholds at each cut with each codec."""
    table = drawn_outcomes(samples)
    coded = {
        (cost.cut, cost.codec): coded_outcomes(table, sum(stage < cost.cut for stage in profile.exit_stages), noise)
        for cost in profile.codecs
        for noise in (CODECS[cost.codec],)
    }
    start_s = time.perf_counter()
    candidates = Candidates.of(table, Criterion.ENTROPY, profile, coded, rules=rules)
    plain = {(way.cut, way.codec): table for way in candidates.ways}
    return Case(candidates, plain | coded, time.perf_counter() - start_s)


def judge(case: Case, profile: ServingProfile, link: Link, floor: float) -> Measures:
    """All candidates on *link*, and the fastest accurate one chosen, as a node does that re-plans."""
    start_s = time.perf_counter()
    measures = evaluate(case.candidates, profile, link, ENERGY)
    judged_s = time.perf_counter()
    best(measures, "mean_ms", Constraints(min_accuracy=floor))
    case.judged_ms.append(1e3 * (judged_s - start_s))
    case.chosen_ms.append(1e3 * (time.perf_counter() - judged_s))
    return measures


def decide(case: Case, profile: ServingProfile, floor: float, rounds: int) -> None:
    """What a node takes that looks for a better plan at each request, among those of its plan file: *rounds* times."""
    plans = case.candidates.accurate(floor)
    replanner = Replanner(plans, profile, Link(5.0, rtt_ms=20.0), Adaptation(floor, period_s=0, deadline_ms=100), 0.0)
    rng = np.random.default_rng(0)
    for number in range(rounds):
        replanner.answered(number, 3_000, float(rng.uniform(10, 200)), 0.0)
        start_s = time.perf_counter()
        replanner.decide(number + 0.5)
        case.decided_ms.append(1e3 * (time.perf_counter() - start_s))


def walk(case: Case, profile: ServingProfile, link: Link, rows: list[int]) -> NDArray[np.float64]:
    """The mean time of the candidates *rows*, in ms, each from the routes of all samples."""
    start_s = time.perf_counter()
    means = []
    for row in rows:
        plan = case.candidates.plan(row)
        routes = route(plan, case.tables[plan.cut, plan.codec], profile.exit_stages, profile.held)
        costs = profile.costs_by_exit(plan.cut, plan.codec, link, edge_only=plan.edge_only)
        means.append(float((costs.busy_ms + costs.waiting_ms)[routes.exits].mean()))
    case.walked_ms.append(1e3 * (time.perf_counter() - start_s) / len(rows))
    return np.array(means)


def run_round(number: int, case: Case, profile: ServingProfile) -> None:
    """Both once, in turns first. Raises `AssertionError` if they disagree."""
    rng = np.random.default_rng(number)
    link = Link(float(rng.uniform(0.5, 50.0)), 50.0, float(rng.uniform(1.0, 100.0)))
    rows = [int(row) for row in rng.integers(len(case.candidates), size=WALKED)]
    floor = float(case.candidates.accuracy.max()) - 0.01
    walked = None if number % 2 else walk(case, profile, link, rows)
    measures = judge(case, profile, link, floor)
    if walked is None:
        walked = walk(case, profile, link, rows)
    np.testing.assert_allclose(measures.mean_ms[rows], walked, rtol=1e-9)


def spread(values: list[float], digits: int = 0) -> str:
    """Median (lowest - highest)."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} – {max(values):,.{digits}f})"


def main() -> None:
    """Measure, print the table, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--json", type=Path, help="write the figures of every round to this file")
    given = parser.parse_args()

    profile = network()
    cases = [case_of(rules, given.samples, profile) for rules in RULES]
    for case in cases:  # what is done only once, such as imports and cached sums, is nobody's
        judge(case, profile, Link(1.0), 0.0)
        case.judged_ms.clear()
        case.chosen_ms.clear()
    for number in range(given.rounds):
        for case in cases:
            run_round(number, case, profile)

    for case in cases:
        decide(case, profile, float(case.candidates.accuracy.max()) - 0.01, given.rounds)

    title = f"{given.samples:,} samples, {len(cases[0].candidates.ways)} cuts and codecs, {given.rounds} rounds"
    table = Table(title=f"{title}: median (lo – hi)")
    for heading in (
        "plans",
        "made in s",
        "re-planned in ms",
        "at work in ms",
        "plans judged per s",
        "walked per s",
        "times as fast",
    ):
        table.add_column(heading, justify="right")
    for case in cases:
        plans = len(case.candidates)
        table.add_row(
            f"{plans:,}",
            f"{case.built_s:.2f}",
            spread(case.replanned_ms, 2),
            spread(case.decided_ms, 2),
            spread([1e3 * plans / ms for ms in case.judged_ms]),
            spread([1e3 / ms for ms in case.walked_ms]),
            spread(case.gains),
        )
    Console(width=170).print(table)
    if given.json:
        figures = [
            {
                "plans": len(case.candidates),
                "built_s": case.built_s,
                "judged_ms": case.judged_ms,
                "chosen_ms": case.chosen_ms,
                "decided_ms": case.decided_ms,
                "walked_ms_per_plan": case.walked_ms,
            }
            for case in cases
        ]
        given.json.write_text(json.dumps({"samples": given.samples, "cases": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
