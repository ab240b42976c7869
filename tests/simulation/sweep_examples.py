"""A measured network that never ran, for the tests of sweeps."""

from __future__ import annotations

from typing import Any

import numpy as np

from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.placement.plan import Plan
from branchynet.placement.serving_profile import ServingProfile, StageTimes
from simulations.model.scenario import Scenario, Workload
from simulations.model.simulator import Measured
from simulations.sweep.results import Row, Setting

SAMPLES, CLASSES = 400, 10
BASE = Scenario(workload=Workload(requests=200))
OWN = Plan(1, ExitRule(Criterion.ENTROPY, (0.7,)))


def times(*ms: float) -> StageTimes:
    return StageTimes((1,), tuple((value,) for value in ms))


def measured(seed: int = 0) -> Measured:
    """Two exits: the first right about 85 % and often in doubt, the second right about 95 %."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=SAMPLES)
    logits = rng.normal(0, 1, (2, SAMPLES, CLASSES))
    for number, share in enumerate((0.85, 0.95)):
        right = rng.random(SAMPLES) < share
        said = np.where(right, labels, (labels + 1) % CLASSES)
        logits[number, np.arange(SAMPLES), said] += rng.uniform(3, 8, SAMPLES)
    table = OutcomeTable(logits.astype(np.float32), labels, np.array([1.0, 5.0]))
    profile = ServingProfile(times(2, 10), times(0.5, 2.5), (0, 1), 1, 1.0, 1.5, (900, 4_700), 90, 260)
    return Measured(table, profile, OWN)


def setting(uplink_mbps: float = 10.0, rtt_ms: float = 20.0, slowdown: float = 1.0) -> Setting:
    return Setting(slowdown, 1, 5.0, 1, rtt_ms, uplink_mbps)


def row(mean_ms: float, selection_accuracy: float, name: str = "", cut: int = 1, **other: Any) -> Row:
    """A row with the figures that choosing looks at; by default both accuracies are the same."""
    values: dict[str, Any] = {
        "setting": setting(),
        "plan": Plan(cut, OWN.rule, name == "edge only"),
        "accuracy": selection_accuracy,
        "p50_ms": mean_ms,
        "p95_ms": mean_ms,
        "p99_ms": mean_ms,
        "uplink_bytes": 100.0,
        "edge_share": 1.0,
        "cloud_share": 0.0,
        "fallback_share": 0.0,
        "in_time": 1.0,
        "edge_ms": 1.0,
        "network_ms": 0.0,
        "cloud_ms": 0.0,
    }
    return Row(name=name, mean_ms=mean_ms, selection_accuracy=selection_accuracy, **{**values, **other})
