"""What an edge's watcher makes of batches, also where the edge holds several exits or all of them."""

import numpy as np
import torch
from network_examples import seeded
from test_outcomes import random_table

from branchynet.exits.drift import Reference
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.network.runner import Progress
from edge_node.drift_watcher import Watcher

TABLE = random_table(3, 600, seed=1)
MEDIANS = np.median(TABLE.scores(Criterion.MAX_PROBABILITY), axis=1)
RULE = ExitRule(Criterion.MAX_PROBABILITY, tuple(MEDIANS[:2].tolist()))
REFERENCE = Reference.of(TABLE, RULE)


def progress_of(table, rule, exits):
    """What the stages up to the *exits*-th exit make of *table*, as `BranchyNet.resume` tells it."""
    wanted = table.exit_of(rule)
    scored = np.minimum(wanted, exits - 1)
    logits = table.logits[scored, np.arange(len(scored))]
    return Progress(scored, logits, np.flatnonzero(wanted >= exits), torch.empty(0))


def batches(watcher, exits, count=30, size=20, rule=None):
    for number in range(count):
        under = rule or watcher.rule
        watcher.note(progress_of(random_table(3, size, seed=100 + number), under, exits), under)


def test_each_exit_on_the_edge_is_watched_with_those_who_reach_it():
    watcher = Watcher(REFERENCE, exits=2)
    batches(watcher, exits=2)
    reached = sum(int((random_table(3, 20, seed=100 + n).exit_of(RULE) >= 1).sum()) for n in range(30))
    assert watcher.gauges() == {
        "exit_0_evidence": 0.0,
        "exit_0_samples": 600,
        "exit_0_threshold": RULE.thresholds[0],
        "exit_1_evidence": 0.0,
        "exit_1_samples": reached,
        "exit_1_threshold": RULE.thresholds[1],
    }
    assert watcher.rule == RULE


def test_the_final_exit_is_not_watched_and_its_answers_have_not_left_early():
    watcher = Watcher(REFERENCE, exits=3, keep_exit_share=0.6)
    batches(watcher, exits=3, count=100)
    left = np.mean([
        (random_table(3, 20, seed=500 + n).exit_of(watcher.rule) < 2).mean() for n in range(20)
    ])  # fmt: skip
    assert abs(left - 0.6) < 0.1
    assert "exit_2_samples" not in watcher.gauges()


def test_behind_a_moved_threshold_nothing_is_compared():
    """Whom exit 0 keeps then is another population than calibration's: no alarm may come of our own doing."""
    watcher = Watcher(REFERENCE, exits=2, keep_exit_share=0.2)
    batches(watcher, exits=2, count=200)
    assert watcher.rule.thresholds[0] != RULE.thresholds[0]
    assert watcher.monitor.samples(0) == 4_000
    assert watcher.monitor.samples(1) < 40
    assert watcher.monitor.alarms == ()


def test_only_thresholds_on_the_edge_are_moved():
    watcher = Watcher(REFERENCE, exits=1, keep_exit_share=0.2)
    batches(watcher, exits=1, count=50)
    assert watcher.rule.thresholds[0] != RULE.thresholds[0]
    assert watcher.rule.thresholds[1] == RULE.thresholds[1]


def test_small_batches_are_looked_at_together_and_never_across_rules():
    watcher = Watcher(REFERENCE, exits=1)
    other = ExitRule(Criterion.MAX_PROBABILITY, (0.9, RULE.thresholds[1]))
    batches(watcher, exits=1, count=15, size=1)
    assert watcher.monitor.samples(0) == 0
    batches(watcher, exits=1, count=1, size=1, rule=other)
    assert watcher.monitor.samples(0) == 15
    batches(watcher, exits=1, count=15, size=1, rule=other)
    assert watcher.monitor.samples(0) == 31


def test_surer_answers_than_ever_are_an_alarm_too():
    watcher = Watcher(REFERENCE, exits=1)
    for number in range(30):
        table = random_table(3, 20, seed=seeded(number).integers(2**31))
        surer = Progress(np.zeros(20, np.int64), 4 * table.logits[0], np.empty(0, np.int64), torch.empty(0))
        watcher.note(surer, RULE)
    (alarm,) = watcher.monitor.alarms
    assert alarm.seen_share > alarm.expected_share
