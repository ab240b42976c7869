"""Paired comparison of two classifiers, against published examples and known coverage."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import some

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.paired_tests import PairedComparison, compare_paired, difference_points
from branchynet.exits.rules import ExitRule

# Tables of Bentur et al. 2009 and Cavo et al. 2012 with their intervals, as in Fagerland, Lydersen and Laake,
# Statistical Analysis of Contingency Tables (2017), chapter 8; p-values of SciPy's `binomtest`.
PUBLISHED = [
    (PairedComparison(1, 1, 7, 12), -0.286, (-0.507, -0.026), 0.0703),
    (PairedComparison(59, 6, 16, 80), -0.0621, (-0.1186, -0.0046), 0.0525),
]
counts = st.integers(0, 300)


@pytest.mark.parametrize(("compared", "difference", "interval", "p_value"), PUBLISHED)
def test_the_published_examples(compared, difference, interval, p_value):
    assert compared.difference == pytest.approx(difference, abs=5e-4)
    assert compared.interval == pytest.approx(interval, abs=5e-4)
    assert compared.p_value == pytest.approx(p_value, abs=5e-5)


def test_ten_thousand_samples_are_no_trouble():
    compared = PairedComparison(8300, 260, 180, 1260)
    assert compared.samples == 10_000
    low, high = compared.interval
    assert 0 < low < compared.difference < high < 0.02
    assert 1e-5 < compared.p_value < 1e-3
    assert PairedComparison(0, 5000, 5000, 0).p_value == 1.0
    assert PairedComparison(0, 10_000, 0, 0).p_value < 1e-300


def test_an_interval_holds_the_truth_as_often_as_it_says():
    # 95 % of 2,000 worlds are 1,900; five standard deviations of that are 49.
    generator, held = np.random.default_rng(0), 0
    cells = np.array([0.82, 0.05, 0.04, 0.09])
    for row in generator.multinomial(400, cells, size=2000):
        low, high = PairedComparison(*map(int, row)).interval
        held += low <= cells[1] - cells[2] <= high
    assert 1850 <= held <= 1960


@given(st.tuples(counts, counts, counts, counts).filter(any))
@some
def test_swapping_the_two_turns_the_sign_and_nothing_else(table):
    both, first, second, neither = table
    one, other = PairedComparison(*table), PairedComparison(both, second, first, neither)
    assert one.difference == -other.difference
    assert one.interval == pytest.approx([-end for end in reversed(other.interval)], abs=1e-12)
    assert one.p_value == other.p_value
    low, high = one.interval
    assert -1 <= low <= one.difference <= high <= 1
    assert 0 <= one.p_value <= 1


def test_counting_samples():
    pairs = np.array(list(itertools.product([True, False], repeat=2)) * 2 + [(True, False)])
    assert compare_paired(pairs[:, 0], pairs[:, 1]) == PairedComparison(2, 3, 2, 2)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InvalidInput, match=r"\(3,\) and \(4,\)"):
        compare_paired(np.ones(3, bool), np.ones(4, bool))
    with pytest.raises(InvalidInput, match="at least one sample"):
        compare_paired(np.ones(0, bool), np.ones(0, bool))
    with pytest.raises(InvalidInput, match="-1"):
        PairedComparison(1, -1, 2, 3)


def test_a_rule_is_compared_with_the_final_exit_in_points():
    """Of 59 + 6 + 16 + 80 samples, as published above; exit 0 answers all of them."""
    first, final = (np.repeat(right, (59, 6, 16, 80)) for right in ([True, True, False, False], [True, False] * 2))
    logits = np.stack([np.stack([~right, right], 1) for right in (first, final)]).astype(np.float32)
    table = OutcomeTable(logits, np.ones(161, np.int64), np.array([1.0, 2.0]))
    everybody, nobody = ExitRule("entropy", (9.0,)), ExitRule.never(2)
    assert difference_points(table, everybody) == pytest.approx([-11.86, -6.21, -0.46], abs=0.05)
    low, value, high = difference_points(table, nobody)
    assert low < value == 0 < high
