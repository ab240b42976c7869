"""The study of drift on outcome tables, without images: fixed rule, alarms, re-tuning."""

import numpy as np
import pytest
from network_examples import seeded
from test_outcomes import random_table

from branchynet.evaluation.drift_study import samples_until_alarm, study
from branchynet.exits.drift import Reference
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule

CALIBRATION = random_table(3, 2_000, seed=1)
RULE = ExitRule(Criterion.ENTROPY, (0.4, 0.6))
REFERENCE = Reference.of(CALIBRATION, RULE)
BUDGET = CALIBRATION.apply(RULE).cost


def fresh(samples=1_500, doubtful=()):
    """New samples of the same kind; the exits *doubtful* are less sure of them."""
    table = random_table(3, samples, seed=2)
    logits = table.logits.copy()
    logits[list(doubtful)] *= 0.6
    return OutcomeTable(logits, table.labels, CALIBRATION.costs)


def test_the_same_kind_of_samples_raises_no_alarm_and_keeps_its_cost():
    found = study(fresh(), REFERENCE, BUDGET, orders=10, false_alarm=0.01)
    assert (found.alarms, found.alarm_after, found.alarm_exit) == (0, None, None)
    assert found.fixed == fresh().apply(RULE)
    assert found.retuned_cost == pytest.approx(found.fixed.cost, rel=0.05)
    assert sum(found.retuned_shares) == pytest.approx(1)


@pytest.mark.parametrize("changed", [0, 1])
def test_a_change_is_found_at_its_exit_and_the_budget_is_kept_all_the_same(changed):
    found = study(fresh(doubtful=[changed]), REFERENCE, BUDGET, orders=5, false_alarm=0.01)
    assert (found.alarms, found.alarm_exit) == (1, changed)
    assert 0 < found.alarm_after < 500
    assert found.fixed.cost > 1.02 * BUDGET
    assert abs(found.retuned_cost - BUDGET) < 0.25 * (found.fixed.cost - BUDGET)
    written = found.to_json()
    assert (written["macs"], written["retuned_macs"]) == (found.fixed.cost, found.retuned_cost)
    assert written["alarm_exit"] == changed


def test_the_order_is_what_the_monitor_sees():
    """Doubtful samples that come last are noticed last."""
    calm, changed = fresh(), fresh(doubtful=[0])
    both = OutcomeTable(
        np.concatenate([calm.logits, changed.logits], axis=1),
        np.concatenate([calm.labels, changed.labels]),
        calm.costs,
    )
    first, _ = samples_until_alarm(both, REFERENCE, seeded().permutation(1_500) + 1_500, 0.01)
    late, _ = samples_until_alarm(both, REFERENCE, np.arange(3_000), 0.01)
    assert first < 300
    assert 1_500 < late < 1_900
