"""The monitor's promise by exact enumeration and on streams; the retuner's bound on any sequence; the reference."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import many, seeded, some
from test_outcomes import random_table

from branchynet.errors import InvalidInput
from branchynet.exits.drift import ExitReference, Monitor, Reference, Retuner
from branchynet.exits.rules import LOGIT_CRITERIA, Criterion, ExitRule

RULE = ExitRule(Criterion.MAX_PROBABILITY, (0.4,))


def uniform_reference(samples, seed=0, rule=RULE):
    """A reference of as many scores, uniform in 0 … 1, at each exit."""
    exits = []
    for number in range(len(rule.thresholds)):
        scores = np.sort(seeded(seed + number).random(samples))[::-1]
        places = np.linspace(0, samples - 1, 65).round().astype(int)
        exits.append(ExitReference(samples, tuple(scores[places]), tuple(places.tolist())))
    return Reference(rule, tuple(exits))


def watch(monitor, scores, batch=10, index=0):
    """The first alarm at exit *index*, or None."""
    for start in range(0, len(scores), batch):
        alarm = monitor.observe(index, scores[start : start + batch])
        if alarm is not None:
            return alarm
    return None


# --- the reference ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
def test_a_reference_holds_those_who_reach_each_exit(criterion):
    table = random_table(3, 400, seed=1)
    scores = table.scores(criterion)
    rule = ExitRule(criterion, (float(np.median(scores[0])), float(np.median(scores[1]))))
    reference = Reference.of(table, rule)
    left = table.exit_of(rule)
    for index, one in enumerate(reference.exits):
        reached = scores[index][left >= index]
        assert one.samples == len(reached)
        assert set(one.knots) <= set(reached)
        assert one.counts == tuple(int(criterion.confident(reached, knot).sum()) for knot in one.knots)
        assert one.counts[0] == 0
        assert one.counts[-1] == len(reached) - 1


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
def test_shares_and_thresholds_of_a_reference_are_each_others_inverse(criterion):
    table = random_table(2, 900, seed=2)
    one = Reference.of(table, ExitRule(criterion, (0.5,))).exits[0]
    scores = table.scores(criterion)[0]
    for share in (0.1, 0.5, 0.77):
        threshold = one.threshold(share, criterion)
        assert one.share_surer(threshold, criterion) == pytest.approx(share, abs=0.003)
        assert criterion.confident(scores, threshold).mean() == pytest.approx(share, abs=0.01)
    assert not criterion.confident(scores, one.threshold(-1e-9, criterion)).any()
    assert criterion.confident(scores, one.threshold(1 + 1e-9, criterion)).all()


def test_a_reference_survives_json():
    rule = ExitRule(Criterion.ENTROPY, (0.7, 0.5))
    reference = Reference.of(random_table(3, 50, seed=3), rule)
    assert Reference.from_json(reference.to_json(), rule) == reference


@pytest.mark.parametrize("change", [
    {"samples": 0}, {"counts": [1]}, {"counts": [5, 3]}, {"counts": [0, 99]}, {"knots": [0.5, math.nan]},
    {"knots": ["a", "b"]}, {"knots": None}, {"samples": "many"},
])  # fmt: skip
def test_what_is_no_reference_is_refused(change):
    raw = {"exits": [{"samples": 9, "knots": [0.9, 0.1], "counts": [0, 8]}]}
    assert Reference.from_json(raw, RULE).exits[0].samples == 9
    with pytest.raises(InvalidInput):
        Reference.from_json({"exits": [{**raw["exits"][0], **change}]}, RULE)
    with pytest.raises(InvalidInput):
        Reference.from_json({"exits": raw["exits"] * 2}, RULE)


def test_an_exit_that_nobody_reaches_has_no_reference():
    rule = ExitRule(Criterion.ENTROPY, (Criterion.ENTROPY.always, 0.5))
    with pytest.raises(InvalidInput, match="exit 1"):
        Reference.of(random_table(3, 20), rule)


# --- the monitor -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [0, 1])
def test_no_gain_is_to_be_expected_at_the_very_edge_of_the_limits(direction):
    """Every sequence of 7 scores around the one knot, weighted with its probability where the gamblers stand worst."""
    reference = Reference(RULE, (ExitReference(40, (0.5,), (20,)),))
    most = Monitor(reference, 0.2)._exits[0]._most[direction, 0]
    assert 0.6 < most < 1
    surer = most if direction == 0 else 1 - most
    expected = 0.0
    for sequence in itertools.product((0.9, 0.1), repeat=7):
        monitor = Monitor(reference, 0.2)
        for score in sequence:
            monitor.observe(0, np.array([score]))
        capital = np.exp(monitor._exits[0]._log_capital[:, direction]).mean()
        expected += math.prod(surer if score > 0.5 else 1 - surer for score in sequence) * capital
    started = 1 - 1 / 8
    assert expected == pytest.approx(started, rel=1e-9)


def test_false_alarms_are_as_rare_as_promised_however_long_one_watches():
    """Also with a small reference and a long stream, where the reference's own error would show."""
    streams, allowed, alarms = 100, 0.2, 0
    for number in range(streams):
        monitor = Monitor(uniform_reference(60, seed=1000 + number), allowed)
        alarms += watch(monitor, seeded(number).random(4_000), batch=50) is not None
    assert alarms / streams <= allowed + 3 * math.sqrt(allowed * (1 - allowed) / streams)


def test_the_reference_taken_at_its_word_would_be_found_wrong():
    """What the limits are for: with the observed shares in their place, calm streams raise alarms."""
    alarms = 0
    for number in range(20):
        monitor = Monitor(uniform_reference(60, seed=1000 + number), 0.2)
        gamblers = monitor._exits[0]
        gamblers._most = gamblers._expected.copy()
        alarms += watch(monitor, seeded(number).random(6_000), batch=40) is not None
    assert alarms > 10


@pytest.mark.parametrize(("calm", "soon"), [(0, 150), (20_000, 250)])
@pytest.mark.parametrize("lower", [True, False])
def test_a_change_is_noticed_soon_also_after_a_long_calm(calm, soon, lower):
    monitor = Monitor(uniform_reference(2_000), 0.01)
    assert watch(monitor, seeded(1).random(calm), batch=50) is None
    changed = seeded(2).random(2_000) ** (2.5 if lower else 0.4)
    alarm = watch(monitor, changed)
    assert calm < alarm.samples < calm + soon
    assert (alarm.seen_share < alarm.expected_share) is lower
    assert monitor.alarms == (alarm,)
    assert monitor.evidence(0) == 1
    assert watch(monitor, changed) is None  # once is enough


def test_the_alarm_is_at_the_exit_that_changed():
    rule = ExitRule(Criterion.MAX_PROBABILITY, (0.4, 0.4))
    monitor = Monitor(uniform_reference(1_000, rule=rule))
    same, changed = seeded(1).random(3_000), seeded(2).random(3_000) ** 3
    assert watch(monitor, same, index=0) is None
    assert watch(monitor, changed, index=1).exit == 1
    assert [alarm.exit for alarm in monitor.alarms] == [1]
    assert monitor.samples(0) == 3_000
    assert monitor.evidence(0) < 1


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
def test_scores_that_were_passed_on_count_as_not_surer(criterion):
    """At the knots within the threshold a monitor without their scores holds the same capital; beyond it, none."""
    table = random_table(2, 400, seed=4)
    scores = table.scores(criterion)[0]
    rule = ExitRule(criterion, (float(np.median(scores)),))
    full, part = (Monitor(Reference.of(table, rule)) for _ in range(2))
    live = random_table(2, 300, seed=5).scores(criterion)[0]
    threshold = rule.thresholds[0]
    for start in range(0, 300, 20):
        batch = live[start : start + 20]
        leaving = criterion.confident(batch, threshold)
        full.observe(0, batch)
        part.observe(0, batch[leaving], int((~leaving).sum()), threshold)
    knots = part._exits[0].knots
    inside = (knots <= threshold) if criterion is Criterion.ENTROPY else (knots >= threshold)
    assert 0 < inside.sum() < len(knots)
    np.testing.assert_allclose(part._exits[0]._log_capital[..., inside], full._exits[0]._log_capital[..., inside])
    assert (part._exits[0]._log_capital[..., ~inside] <= 1e-12).all()
    assert part.samples(0) == full.samples(0) == 300


@pytest.mark.parametrize("score", [0.0, 1.0, -math.inf, math.inf])
@pytest.mark.parametrize(("batch", "batches"), [(1, 2_000), (1_000, 1_000), (1_000_000, 3)])
def test_a_million_unlike_samples_raise_one_alarm_and_nothing_overflows(score, batch, batches):
    monitor = Monitor(uniform_reference(2_000))
    for _ in range(batches):
        monitor.observe(0, np.full(batch, score))
        assert 0 <= monitor.evidence(0) <= 1
    (alarm,) = monitor.alarms
    assert alarm.samples <= max(200, 2 * batch)
    assert monitor.evidence(0) == 1
    assert monitor.samples(0) == batch * batches
    assert np.isfinite(monitor._exits[0]._log_capital).all()


def test_a_change_after_more_samples_than_a_float_can_tell_apart_is_still_noticed():
    monitor = Monitor(uniform_reference(2_000))
    monitor._exits[0].seen = 10**17
    assert watch(monitor, np.full(2_000, 1.0)) is not None


def test_no_samples_change_nothing():
    monitor = Monitor(uniform_reference(100))
    assert monitor.observe(0, np.empty(0)) is None
    assert (monitor.samples(0), monitor.evidence(0), monitor.alarms) == (0, 0.0, ())


@pytest.mark.parametrize("chance", [0.0, 1.0, -1.0])
def test_a_chance_that_is_none_is_refused(chance):
    with pytest.raises(InvalidInput, match="false alarm"):
        Monitor(uniform_reference(100), chance)


# --- the retuner -----------------------------------------------------------------------------------------------------


@given(scores=st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=8), min_size=1, max_size=60),
       target=st.sampled_from([0.1, 0.5, 0.8]), step=st.sampled_from([0.02, 0.3]))  # fmt: skip
@many
def test_whatever_comes_the_mean_is_within_the_bound(scores, target, step):
    retuner = Retuner(uniform_reference(200), target, step)
    kept = total = 0
    for batch in scores:
        rule = retuner.rule
        staying = int((~rule.criterion.confident(np.array(batch), rule.thresholds[0])).sum())
        retuner.observe(staying, len(batch))
        kept, total = kept + staying, total + len(batch)
    largest = max(map(len, scores))
    assert abs(kept / total - target) <= (1 + step * largest) / (step * total) + 1e-9


def test_it_starts_with_the_calibrated_rule_and_finds_the_target_on_other_scores():
    reference = uniform_reference(1_000)
    retuner = Retuner(reference, target=0.3, step=0.02)
    assert retuner.rule == reference.rule
    live = seeded(3).random(4_000) ** 3
    for score in live:
        retuner.observe(float(score <= retuner.rule.thresholds[0]), 1)
    # The 30 % least sure of the new scores lie below 0.3³.
    assert retuner.rule.thresholds[0] == pytest.approx(0.3**3, abs=0.06)


@given(offset=st.floats(-1.5, 1.5))
@some
def test_all_thresholds_loosen_together_and_only_those_asked_for(offset):
    rule = ExitRule(Criterion.MAX_PROBABILITY, (0.7, 0.2))
    retuner = Retuner(uniform_reference(500, rule=rule), 0.5)
    first = Retuner(uniform_reference(500, rule=rule), 0.5, moved=1)
    retuner.offset = first.offset = offset
    for one, threshold in zip(retuner._reference.exits, retuner.rule.thresholds, strict=True):
        assert min(one.knots) <= threshold <= max(one.knots) or abs(threshold) == 1
    assert all((new - old) * offset <= 0.01 for new, old in zip(retuner.rule.thresholds, rule.thresholds, strict=True))
    assert first.rule.thresholds == (retuner.rule.thresholds[0], 0.2)
