"""An edge finds the plan that suits its link, keeps it through noise, and leaves it when the link changes."""

import numpy as np
import pytest

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion
from branchynet.placement.candidates import Candidates
from branchynet.placement.optimise import Constraints, best, evaluate
from branchynet.placement.replanner import Adaptation, Replanner
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile, StageTimes


def outcomes(samples=200):
    """Three exits, each better than the one before, all of them surer of what is easier."""
    random = np.random.default_rng(7)
    labels = random.integers(0, 4, samples)
    ease = random.uniform(0, 1, samples)
    logits = random.normal(size=(3, samples, 4))
    for index, strength in enumerate((4.0, 7.0, 12.0)):
        logits[index, np.arange(samples), labels] += strength * ease
    return OutcomeTable(logits.astype(np.float32), labels, np.ones(3))


TABLE = outcomes()
EDGE = StageTimes((1,), ((10.0,), (100.0,), (400.0,)))
CLOUD = StageTimes((1,), ((0.5,), (2.0,), (4.0,)))
PROFILE = ServingProfile(
    EDGE, CLOUD, (0, 1, 2), 3, 1.0, 1.0, (3_200, 16_500, 8_300), 60, 130, (CodecCost(1, "uint4", 900.0, 0.2, 0.1),)
)
CANDIDATES = Candidates.of(TABLE, Criterion.ENTROPY, PROFILE, {(1, "uint4"): TABLE})
FLOOR = float(TABLE.correct[-1].mean()) - 0.01
GUESS = Link(5.0, rtt_ms=50.0)


class World:
    """Requests to an edge that adapts, over a link and to a cloud that can be changed; what is late is given up."""

    def __init__(self, mbps, rtt_ms, *, queue_ms=0.0, noise=0.05, gap_s=1.0, timeout_ms=8_000.0, **options):
        self.mbps, self.rtt_ms, self.queue_ms, self.noise, self.now_s = mbps, rtt_ms, queue_ms, noise, 0.0
        self.gap_s, self.timeout_ms, self.probes = gap_s, timeout_ms, 0
        self.adaptation = Adaptation(FLOOR, **options)
        self.replanner = Replanner(CANDIDATES, PROFILE, GUESS, self.adaptation, 0.0)
        self.random = np.random.default_rng(0)
        self.plans, self.served = [self.replanner.plan], []

    @property
    def truth(self):
        return evaluate(CANDIDATES, PROFILE, Link(self.mbps, rtt_ms=self.rtt_ms), cloud_queue_ms=self.queue_ms)

    def run(self, seconds):
        for _ in range(int(seconds / self.gap_s)):
            self.now_s += self.gap_s
            plan = self.replanner.decide(self.now_s)
            probe = self.replanner.probe(self.now_s)
            if plan is not self.plans[-1]:
                self.plans.append(plan)
            self.served.append(plan)
            row = self.random.integers(200)
            ends = PROFILE.exit_stages[TABLE.exit_of(plan.rule)[row]] + 1
            if not plan.edge_only and ends > plan.cut:
                self.send(plan)
            if probe is not None:
                self.probes += 1
                self.send(probe)
        return self

    def send(self, plan):
        size = PROFILE.message_bytes[plan.cut] if plan.codec != "uint4" else 900
        late = 1 + self.noise * abs(self.random.normal())
        took_ms = late * (self.rtt_ms + 8e-3 * (size + PROFILE.framing_bytes) / self.mbps) + PROFILE.offload_ms
        if took_ms + self.queue_ms > self.timeout_ms:
            self.replanner.unanswered(self.now_s + self.timeout_ms / 1e3, size, self.timeout_ms)
        else:
            self.replanner.answered(self.now_s + took_ms / 1e3, size, took_ms, self.queue_ms)

    def local(self, seconds):
        """Share of the requests of the last *seconds* that were served by a plan that sends nothing."""
        return np.mean([plan.edge_only for plan in self.served[-int(seconds / self.gap_s) :]])

    def regret(self):
        """How many times as long the plan of now takes as the best one, on the link as it is."""
        truth = self.truth
        least = truth.mean_ms[best(truth, "mean_ms", Constraints(min_accuracy=FLOOR))]
        index = next(i for i in range(len(CANDIDATES)) if CANDIDATES.plan(i) == self.replanner.plan)
        assert truth.accuracy[index] >= FLOOR
        return truth.mean_ms[index] / least


LINKS = [(0.1, 300.0), (1.0, 100.0), (5.0, 20.0), (100.0, 5.0), (100.0, 200.0)]


@pytest.mark.parametrize(("mbps", "rtt_ms"), LINKS)
def test_the_plan_becomes_one_that_is_nearly_best_on_the_true_link(mbps, rtt_ms):
    assert World(mbps, rtt_ms).run(30).regret() < 1.25


def test_the_links_above_want_different_plans():
    ways = set()
    for mbps, rtt_ms in LINKS:
        plan = World(mbps, rtt_ms, noise=0.0).run(30).replanner.plan
        ways.add((plan.cut, plan.codec, plan.edge_only))
    assert len(ways) >= 3


@pytest.mark.parametrize(("before", "after"), [((100.0, 5.0), (0.2, 200.0)), ((0.2, 200.0), (100.0, 5.0))])
def test_a_link_that_changes_changes_the_plan(before, after):
    world = World(*before).run(20)
    first = world.replanner.plan
    world.mbps, world.rtt_ms = after
    assert world.regret() > 1.3, "the old plan would not do"
    world.run(30)
    assert world.replanner.plan != first
    assert world.regret() < 1.25


def test_a_plan_is_kept_until_another_is_better_by_the_gain_asked_for():
    def changed(gain):
        world = World(5.0, 20.0, gain=gain).run(20)
        world.mbps, world.rtt_ms = 0.1, 300.0
        return world.run(30)

    assert len(changed(0.0).plans) > 1
    kept = changed(0.9)
    assert len(kept.plans) == 1
    assert 1 < kept.regret() < 1 / (1 - 0.9)


def test_noise_does_not_turn_the_plan_to_and_fro():
    world = World(3.0, 60.0, noise=0.3).run(10)
    settled = len(world.plans)
    world.run(60)
    assert len(world.plans) - settled <= 6


def test_an_edge_that_sends_nothing_tries_again_and_finds_the_link_mended():
    world = World(0.01, 3_000.0, probe_after_s=5.0).run(40)
    assert world.local(30) > 0.6
    world.mbps, world.rtt_ms = 100.0, 5.0
    world.run(30)
    assert world.local(5) == 0
    assert world.regret() < 1.25


def test_a_cloud_that_is_busy_is_left_and_found_again():
    world = World(100.0, 5.0, probe_after_s=5.0).run(10)
    free = world.replanner.plan
    world.queue_ms = 5_000.0
    world.run(30)
    assert world.local(25) > 0.6
    assert world.replanner.cloud_queue_ms(world.now_s) < 5_000, "forgotten bit by bit"
    world.queue_ms = 0.0
    world.run(25)
    assert world.local(5) == 0
    assert world.replanner.plan.cut == free.cut


def test_answers_that_never_come_lead_away_from_the_cloud():
    replanner = World(100.0, 5.0).run(10).replanner
    for number in range(10):
        replanner.unanswered(20 + number, 3_200, 2_000.0)
    assert replanner.decide(31.0).edge_only


def test_nothing_is_looked_at_between_two_periods_and_a_plan_that_stays_is_the_same_object():
    replanner = Replanner(CANDIDATES, PROFILE, GUESS, Adaptation(FLOOR, period_s=1.0), 0.0)
    before = replanner.plan
    for number in range(30):
        replanner.answered(0.01 * number, 3_200, 4_000.0, 0.0)
    assert replanner.decide(0.9) is before
    changed = replanner.decide(1.0)
    assert changed is not before
    assert replanner.decide(2.5) is changed


def test_an_accuracy_that_no_plan_has_is_refused_with_the_nearest():
    with pytest.raises(InvalidInput, match="no plan has accuracy"):
        Replanner(CANDIDATES, PROFILE, GUESS, Adaptation(1.01), 0.0)


@pytest.mark.parametrize(
    "options", [{"gain": 1.0}, {"gain": -0.1}, {"period_s": -1}, {"probe_after_s": 0}, {"objective": "accuracy"}]
)
def test_adaptations_that_mean_nothing_are_refused(options):
    with pytest.raises(InvalidInput, match=r"gain is|objective is"):
        Adaptation(0.5, **options)


def test_nothing_sent_for_a_while_means_a_probe_and_answers_mean_none():
    replanner = Replanner(CANDIDATES, PROFILE, GUESS, Adaptation(FLOOR, probe_after_s=2.0), 0.0)
    assert replanner.probe(1.9) is None
    probe = replanner.probe(2.0)
    assert not probe.edge_only
    assert replanner.probe(2.1) is None, "one at a time"
    replanner.answered(4.0, 3_200, 55.0, 0.0)
    assert replanner.probe(5.9) is None
    assert replanner.probe(6.0) == probe


def test_probes_in_vain_become_rarer_and_an_answer_makes_them_usual_again():
    replanner = Replanner(CANDIDATES, PROFILE, GUESS, Adaptation(FLOOR, probe_after_s=1.0), 0.0)
    now_s, sent_s = 0.0, []
    while now_s < 60:
        now_s += 0.5
        if replanner.probe(now_s) is not None:
            sent_s.append(now_s)
            replanner.unanswered(now_s, 3_200, 400.0)
    assert np.diff(sent_s).tolist() == [2, 4, *[8] * (len(sent_s) - 3)]
    replanner.answered(60.0, 3_200, 55.0, 0.0)
    assert replanner.probe(61.0) is not None


def test_whoever_has_one_plan_only_probes_nothing():
    fixed = Replanner(CANDIDATES.only(np.array([0])), PROFILE, GUESS, Adaptation(0.0), 0.0)
    assert fixed.probe(100.0) is None


def test_an_offload_in_vain_is_looked_at_at_once_and_risk_is_forgotten():
    world = World(100.0, 5.0, period_s=1e9).run(10)
    before = world.replanner.plan
    now_s = world.now_s
    world.replanner.unanswered(now_s, 3_200, 8_000.0)
    assert 0 < world.replanner.risk(now_s + 100) < world.replanner.risk(now_s) < 0.31
    for _ in range(3):
        world.replanner.unanswered(now_s, 3_200, 8_000.0)
    assert world.replanner.decide(now_s + 0.01) is not before


def test_the_pace_of_requests_leads_away_from_an_edge_that_is_too_slow_for_it():
    def alone(gap_s):
        return World(0.05, 1_000.0, gap_s=gap_s).run(300 * gap_s).replanner.plan.edge_only

    assert alone(5.0)
    assert not alone(0.05)


@pytest.mark.parametrize("options", [{"deadline_ms": 0.0}, {"deadline_ms": 5.0, "objective": "uplink_bytes"}])
def test_deadlines_that_mean_nothing_are_refused(options):
    with pytest.raises(InvalidInput, match="deadline_ms is"):
        Adaptation(0.5, **options)
