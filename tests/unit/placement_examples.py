"""Random small networks with devices, link and codecs, and a planner that walks sample by sample."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from network_examples import scorings, seeded
from test_outcomes import random_table

from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import ExitRule
from branchynet.exits.threshold_search import distinct_thresholds
from branchynet.placement.candidates import Candidates
from branchynet.placement.optimise import MEASURES, EnergyModel, Measures, evaluate
from branchynet.placement.plan import Plan, route
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile, StageTimes

CLASSES = 4


@dataclass(frozen=True, repr=False)
class Scene:
    """All that a plan's measures depend on; few samples, so that every combination of thresholds can be walked."""

    table: OutcomeTable
    coded: dict[tuple[int, str], OutcomeTable]
    rule: ExitRule
    profile: ServingProfile
    link: Link
    energy: EnergyModel
    cloud_queue_ms: float
    tail: float

    def __repr__(self) -> str:  # without every logit
        return f"Scene({self.rule}, {self.profile}, {self.link}, {self.energy}, {self.cloud_queue_ms}, {self.tail})"

    def _repr_pretty_(self, printer, cycle):
        printer.text(repr(self))

    def candidates(self, rules: int = 100_000) -> Candidates:
        return Candidates.of(self.table, self.rule, self.profile, self.coded, rules=rules)

    def measures(self, candidates: Candidates, link: Link | None = None) -> Measures:
        conditions = {"cloud_queue_ms": self.cloud_queue_ms, "tail": self.tail}
        return evaluate(candidates, self.profile, link or self.link, self.energy, **conditions)

    def outcomes(self, plan: Plan) -> OutcomeTable:
        return self.coded.get((plan.cut, plan.codec), self.table)

    def walked(self, plan: Plan) -> dict[str, float]:
        """Every measure of *plan*, one sample after the other on the route that the nodes would send it."""
        table, profile = self.outcomes(plan), self.profile
        routes = route(plan, table, profile.exit_stages, profile.held)
        named = {(cost.cut, cost.codec): cost for cost in profile.codecs}
        totals, times = dict.fromkeys(MEASURES, 0.0), []
        for sample in range(len(table.labels)):
            busy_ms = profile.request_ms
            for stage in range(routes.edge_stages[sample]):
                busy_ms += profile.edge.ms[stage][0]
            waiting_ms, cloud_ms, sent_bytes = 0.0, 0.0, 0
            if routes.offloaded[sample]:
                plain = CodecCost(plan.cut, plan.codec, profile.message_bytes[plan.cut], 0.0, 0.0)
                codec = named.get((plan.cut, plan.codec), plain)
                busy_ms += profile.offload_ms + codec.encode_ms
                sent_bytes = codec.message_bytes + profile.framing_bytes
                cloud_ms = codec.decode_ms
                for stage in range(plan.cut, routes.cloud_stages[sample]):
                    cloud_ms += profile.cloud.ms[stage][0]
                up_ms = 8 * sent_bytes / (1e6 * self.link.uplink_mbps) * 1e3
                down_ms = 8 * profile.reply_bytes / (1e6 * self.link.downlink_mbps) * 1e3
                waiting_ms = self.link.rtt_ms + up_ms + down_ms + self.cloud_queue_ms + cloud_ms
            times.append(busy_ms + waiting_ms)
            totals["accuracy"] += bool(table.correct[routes.exits[sample], sample])
            totals["busy_ms"] += busy_ms
            totals["cloud_ms"] += cloud_ms
            totals["uplink_bytes"] += sent_bytes
            totals["joules"] += self.energy.joules_per_busy_ms * busy_ms
            totals["joules"] += self.energy.joules_per_waiting_ms * waiting_ms
            totals["joules"] += self.energy.joules_per_sent_byte * sent_bytes
        means = {name: total / len(times) for name, total in totals.items()}
        rank = math.ceil(self.tail * len(times) - 1e-6)
        return {**means, "mean_ms": math.fsum(times) / len(times), "tail_ms": sorted(times)[rank - 1]}

    def every_plan(self) -> list[Plan]:
        """Each way with every combination of thresholds that makes a difference there."""
        first, last = self.profile.exit_stages[0] + 1, min(self.profile.held, self.profile.exit_stages[-1])
        ways = [Plan(self.profile.held, self.rule, edge_only=True)]
        ways += [Plan(cut, self.rule) for cut in (0, *range(first, last + 1))]
        ways += [Plan(cut, self.rule, codec=codec) for cut, codec in self.coded]
        plans = []
        for way in ways:
            scores = self.outcomes(way).scores(self.rule)[:-1]
            axes = [distinct_thresholds(of_exit, self.rule.criterion) for of_exit in scores]
            for values in itertools.product(*axes):
                rule = self.rule.with_thresholds(tuple(map(float, values)))
                plans.append(Plan(way.cut, rule, way.edge_only, way.codec))
        return plans


@st.composite
def scenes(draw: st.DrawFn, samples: int = 5, exits: int = 3) -> Scene:
    """One to *exits* exits, up to *samples* samples; among the times and sizes some that are nothing."""
    exits = draw(st.integers(1, exits))
    stages = draw(st.integers(exits, exits + 2))
    inner = sorted(draw(st.permutations(range(stages - 1)))[: exits - 1])
    exit_stages = (*inner, stages - 1)
    held = draw(st.integers(exit_stages[0] + 1, stages))
    size = draw(st.integers(1, samples))
    rng = seeded(draw(st.integers(0, 2**32)))

    def some_ms(mean: float) -> float:
        return float(rng.choice([0.0, rng.uniform(0, 2 * mean)]))

    def times(mean: float) -> StageTimes:
        return StageTimes((1,), tuple((some_ms(mean),) for _ in range(stages)))

    cuts = [0, *range(exit_stages[0] + 1, min(held, stages - 1) + 1)]
    table = random_table(exits, size, CLASSES, seed=int(rng.integers(2**32)))
    rule = draw(scorings(exits, CLASSES))
    own = rule.with_thresholds(tuple(float(rng.choice(of_exit)) for of_exit in table.scores(rule)[:-1]))
    coded = {}
    for cut, codec in [(cut, codec) for cut in cuts for codec in ("small", "tiny") if rng.uniform() < 0.4]:
        noise = rng.normal(0, 1, table.logits.shape) * (np.array(exit_stages) >= cut)[:, None, None]
        coded[cut, codec] = OutcomeTable((table.logits + noise).astype(np.float32), table.labels, table.costs)
    profile = ServingProfile(
        edge=times(5),
        cloud=times(1),
        exit_stages=exit_stages,
        held=held,
        request_ms=some_ms(1),
        offload_ms=some_ms(2),
        message_bytes=tuple(int(value) for value in rng.integers(100, 20_000, stages)),
        framing_bytes=int(rng.integers(0, 300)),
        reply_bytes=int(rng.integers(0, 300)),
        codecs=tuple(
            CodecCost(cut, codec, float(rng.uniform(50, 5_000)), some_ms(0.5), some_ms(0.5)) for cut, codec in coded
        ),
    )
    return Scene(
        table,
        coded,
        own,
        profile,
        Link(float(rng.uniform(0.5, 50)), float(rng.choice([math.inf, rng.uniform(0.5, 50)])), some_ms(20)),
        EnergyModel(*(float(value) for value in rng.uniform(0, [1e-2, 1e-5, 1e-3]))),
        some_ms(10),
        float(rng.choice([0.5, 0.95, 1.0])),
    )
