"""Random small networks, links and scenarios that the simulator's tests share.

Continuous quantities come from a seeded generator, not from hypothesis: round numbers would let things happen at the
same moment by chance, and which of them rounding puts first is nothing two programs can agree on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import LOGIT_CRITERIA, Criterion, ExitRule
from branchynet.placement.plan import Plan
from branchynet.placement.serving_profile import ServingProfile, StageTimes
from simulations.link.capacity import Capacity, ConstantRate, DeliveryLog, PiecewiseRate
from simulations.model.scenario import Arrivals, Scenario
from simulations.model.simulator import Measured

SAMPLES = 40
CLASSES = 4
UPLINKS = ("constant", "piecewise", "markov", "deliveries")


@dataclass(frozen=True, repr=False)
class Scene:
    """A scenario, the network it is about, and the uplink; None: the scenario's own."""

    scenario: Scenario
    measured: Measured
    capacity: Capacity | None = None

    def __repr__(self) -> str:
        return f"Scene({self.scenario!r}, {self.measured.profile!r}, {self.capacity!r})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # What hypothesis prints; it would print every logit.
        printer.text(repr(self))

    @property
    def uplink(self) -> Capacity:
        return self.capacity or self.scenario.link.capacity(self.scenario.seed)


def table_of(exits: int, rng: np.random.Generator) -> OutcomeTable:
    """Noise."""
    return OutcomeTable(
        logits=rng.normal(0, 2, (exits, SAMPLES, CLASSES)).astype(np.float32),
        labels=rng.integers(CLASSES, size=SAMPLES),
        costs=np.arange(1.0, exits + 1),
    )


def rule_for(table: OutcomeTable, criterion: Criterion, rng: np.random.Generator) -> ExitRule:
    """At every exit some random share leaves."""
    scores = table.scores(criterion)
    return ExitRule(criterion, tuple(float(np.quantile(scores[i], rng.uniform(0, 1))) for i in range(table.exits - 1)))


def times_of(stages: int, mean_ms: float, batches: tuple[int, ...], rng: np.random.Generator) -> StageTimes:
    """Stages of about *mean_ms* each; a batch takes longer than its part and less than its parts one by one."""
    rows = []
    for first_ms in rng.uniform(0.2, 1.8, stages) * mean_ms:
        gain = rng.uniform(0.2, 0.9)
        rows.append(tuple(float(first_ms * size**gain) for size in batches))
    return StageTimes(batches, tuple(rows))


def plain_measured(
    edge_ms: float = 0.0,
    cloud_ms: float = 0.0,
    message_bytes: int = 1_000,
    request_ms: float = 0.0,
    offload_ms: float = 0.0,
) -> Measured:
    """Two stages with an exit each and a time for both together; nobody leaves before the last exit."""
    rng = np.random.default_rng(0)
    table = table_of(2, rng)
    profile = ServingProfile(
        edge=StageTimes((1,), ((edge_ms / 2,), (edge_ms / 2,))),
        cloud=StageTimes((1,), ((cloud_ms / 2,), (cloud_ms / 2,))),
        exit_stages=(0, 1),
        held=2,
        request_ms=request_ms,
        offload_ms=offload_ms,
        message_bytes=(message_bytes, message_bytes),
        framing_bytes=0,
        reply_bytes=0,
    )
    return Measured(table, profile, Plan(0, ExitRule.never(2)))


def piecewise_of(mean_mbps: float, period_s: float, rng: np.random.Generator) -> PiecewiseRate:
    """Up to six pieces, some of them silent."""
    pieces = int(rng.integers(1, 7))
    lasts_s = rng.uniform(0.05, 1.0, pieces)
    mbps = rng.uniform(0.1, 2.0, pieces) * (rng.uniform(0, 1, pieces) > 0.3)
    mbps[rng.integers(pieces)] = rng.uniform(0.5, 2.0)
    ends_s = np.cumsum(lasts_s) * period_s / lasts_s.sum()
    return PiecewiseRate(ends_s, mbps * mean_mbps)


def deliveries_of(mean_mbps: float, period_s: float, rng: np.random.Generator) -> DeliveryLog:
    """Whole milliseconds, some of them more than once, with a delivery at the very start now and then."""
    count = max(2, round(mean_mbps * 1e6 * period_s / 12_000))
    times_ms = np.sort(rng.integers(0, max(2, int(period_s * 1e3)), count))
    times_ms[-1] += 1
    if rng.uniform() < 0.3:
        times_ms[0] = 0
    length_s = float(rng.choice([0.0, times_ms[-1] / 1e3 + rng.uniform(0, period_s)]))
    return DeliveryLog(times_ms / 1e3, length_s)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Small fleets, many of them overloaded somewhere or short of time."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def about(value: float) -> float:
        return float(value * rng.uniform(0.8, 1.25))

    stages = draw(st.integers(1, 5))
    inner = draw(st.sets(st.integers(0, stages - 2), max_size=min(2, stages - 1))) if stages > 1 else set()
    exit_stages = (*sorted(inner), stages - 1)
    first_end = exit_stages[0] + 1
    held = draw(st.integers(first_end, stages))
    cut = draw(st.sampled_from([0, *range(first_end, stages + 1)]))
    edges = draw(st.integers(1, 4))
    workers = draw(st.integers(1, 3))
    load = st.sampled_from([0.1, 0.5, 1.0, 2.0])

    gap_ms = about(draw(st.sampled_from([5.0, 50.0])))
    message_bytes = tuple(int(size) for size in rng.integers(100, 20_000, stages))
    framing_bytes = int(rng.integers(0, 400))
    bits = 8 * (message_bytes[min(cut, stages - 1)] + framing_bytes)
    uplink_mbps = about(bits / gap_ms / 1e3 / draw(load))
    measured = _measured_of(
        draw(st.sampled_from([*LOGIT_CRITERIA, Criterion.PATIENCE])),
        exit_stages,
        held,
        edge_ms=gap_ms / stages * draw(load),
        cloud_ms=gap_ms * workers / edges / stages * draw(st.sampled_from([0.5, 1.0, 8.0, 8.0])),
        extra_ms=about(gap_ms / 10) if draw(st.booleans()) else 0.0,
        sizes=(message_bytes, framing_bytes),
        rng=rng,
    )
    scenario = Scenario.model_validate(
        {
            "edges": edges,
            "clouds": draw(st.integers(1, min(2, edges))),
            "seed": draw(st.integers(0, 1_000)),
            "workload": {
                "arrivals": draw(st.sampled_from(Arrivals)),
                "rate_per_s": 1e3 / gap_ms,
                "requests": draw(st.sampled_from([1, 5, 15, 25, 25])),
            },
            "link": {
                "uplink_mbps": uplink_mbps,
                "downlink_mbps": about(8 * measured.profile.reply_bytes / gap_ms / 1e3 / draw(load)) + 1e-3,
                "rtt_ms": draw(st.sampled_from([0.0, about(gap_ms / 2), about(2 * gap_ms)])),
            },
            "plan": {"cut": cut, "edge_only": draw(st.sampled_from([False, False, False, True]))},
            "edge": {"slowdown": about(1.0)},
            "cloud": {"workers": workers, "max_batch": draw(st.sampled_from([1, 2, 3, 5, 5])), "slowdown": about(1.0)},
            "limits": {
                "deadline_ms": about(draw(st.sampled_from([1_000, 1_000, 4, 1])) * gap_ms),
                "offload_timeout_ms": about(draw(st.sampled_from([1_000, 1_000, 3, 0.5])) * gap_ms),
                "reserve_ms": draw(st.sampled_from([0.0, about(gap_ms / 2), about(2 * gap_ms)])),
            },
        }
    )
    return _with_uplink(scenario, measured, draw(st.sampled_from(UPLINKS)), uplink_mbps, 10 * gap_ms / 1e3, rng)


def _measured_of(
    criterion: Criterion,
    exit_stages: tuple[int, ...],
    held: int,
    edge_ms: float,
    cloud_ms: float,
    extra_ms: float,
    sizes: tuple[tuple[int, ...], int],
    rng: np.random.Generator,
) -> Measured:
    stages = exit_stages[-1] + 1
    batches = ((1,), (1, 2), (1, 2, 4))[int(rng.integers(3))]
    table = table_of(len(exit_stages), rng)
    profile = ServingProfile(
        edge=times_of(stages, edge_ms, batches, rng),
        cloud=times_of(stages, cloud_ms, batches, rng),
        exit_stages=exit_stages,
        held=held,
        request_ms=extra_ms,
        offload_ms=2 * extra_ms,
        message_bytes=sizes[0],
        framing_bytes=sizes[1],
        reply_bytes=int(rng.integers(50, 2_000)),
    )
    return Measured(table, profile, Plan(min(1, held), rule_for(table, criterion, rng)))


def _with_uplink(
    scenario: Scenario, measured: Measured, kind: str, mbps: float, period_s: float, rng: np.random.Generator
) -> Scene:
    if kind == "piecewise":
        return Scene(scenario, measured, piecewise_of(mbps, period_s, rng))
    if kind == "deliveries":
        return Scene(scenario, measured, deliveries_of(mbps, period_s, rng))
    if kind == "markov":
        stays_s = [float(stay) for stay in rng.uniform(0.1, 1.0, 2) * period_s]
        states = {"states": [0.0, 2 * mbps], "mean_stay_s": stays_s}
        link = type(scenario.link).model_validate({**scenario.link.model_dump(), "uplink_mbps": states})
        return Scene(scenario.model_copy(update={"link": link}), measured)
    return Scene(scenario, measured, ConstantRate(mbps))
