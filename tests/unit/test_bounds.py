"""Bounds on a mean: against exact fractions, and against populations that sit right on the edge of the claim."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import many, seeded

from branchynet.errors import InvalidInput
from branchynet.exits.confidence_bounds import Bound, binomial_cdf, first_true, share_limits

TRIALS = 2_000
SIGNED = [Bound.HOEFFDING_BENTKUS, Bound.BETTING]


def exact_cdf(samples, share):
    p = Fraction(share)
    masses = [math.comb(samples, k) * p**k * (1 - p) ** (samples - k) for k in range(samples + 1)]
    return [float(sum(masses[: k + 1])) for k in range(samples + 1)]


@pytest.mark.parametrize(("samples", "share"), [(1, 0.5), (7, 0.25), (40, 0.01), (60, 0.9)])
def test_the_binomial_equals_exact_fractions(samples, share):
    np.testing.assert_allclose(binomial_cdf(samples, share), exact_cdf(samples, share), rtol=1e-9, atol=1e-15)


def test_the_binomial_stays_finite_for_many_samples():
    cdf = binomial_cdf(100_000, 0.001)
    assert np.isfinite(cdf).all()
    assert (np.diff(cdf) >= 0).all()
    assert cdf[100] == pytest.approx(0.5266, abs=1e-4)


@given(samples=st.integers(1, 60), data=st.data(), error=st.sampled_from([0.001, 0.05, 0.4]))
@many
def test_limits_of_a_share_are_where_its_tails_have_the_error(samples, data, error):
    count = data.draw(st.integers(0, samples))
    lower, upper = share_limits(count, samples, error)
    assert 0 <= lower <= count / samples <= upper <= 1
    if count < samples:
        assert binomial_cdf(samples, upper)[count] == pytest.approx(error, rel=1e-4)
    if count > 0:
        assert 1 - binomial_cdf(samples, lower)[count - 1] == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize(("count", "samples"), [(-1, 5), (6, 5), (0, 0)])
def test_a_share_that_cannot_be_is_refused(count, samples):
    with pytest.raises(InvalidInput, match=f"{count} of {samples}"):
        share_limits(count, samples, 0.1)


def draws(samples, gains, losses, seed):
    """int8 [TRIALS, samples] of -1, 0 and 1 with shares *gains*, the rest and *losses*."""
    uniform = seeded(seed).random((TRIALS, samples))
    return (uniform < losses).astype(np.int8) - (uniform > 1 - gains).astype(np.int8)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(("bound", "tolerated", "gains"), [
    *((bound, 0.03, 0.0) for bound in Bound),
    *((bound, tolerated, gains) for bound in SIGNED for tolerated, gains in [(0.03, 0.1), (0.2, 0.02)]),
])  # fmt: skip
def test_a_true_claim_is_refuted_no_more_often_than_promised(bound, confidence, tolerated, gains):
    """The mean loss is exactly what is tolerated: the worst case of the claim."""
    losses = draws(400, gains, tolerated + gains, seed=3)
    refuted = (bound.p_values(losses, -1 if gains else 0, tolerated, confidence) <= 1 - confidence).mean()
    three_sigma = 3 * math.sqrt(confidence * (1 - confidence) / TRIALS)
    assert refuted <= 1 - confidence + three_sigma


@pytest.mark.parametrize(("bound", "gains", "power"), [(Bound.BINOMIAL, 0.0, 0.9), (Bound.BETTING, 0.03, 0.6)])
def test_a_false_claim_is_refuted(bound, gains, power):
    losses = draws(1_000, gains, 0.01 + gains, seed=4)
    refuted = bound.p_values(losses, -1 if gains else 0, 0.03, 0.9) <= 0.1
    assert refuted.mean() > power


def test_a_bet_does_not_know_the_loss_it_is_on():
    """One stake for whatever comes last, so that each gain is in proportion to how far the loss is below tolerated."""
    tolerated, rows = 0.05, np.tile(np.array([-1, 0], np.int8), (3, 150))
    rows[:, -1] = 0, -1, 1
    little, much, nothing = 1 / Bound.BETTING.p_values(rows, -1, tolerated, 0.9)
    assert 1 < nothing < little
    assert (much - nothing) / (little - nothing) == pytest.approx((tolerated + 1) / tolerated)


def test_a_loss_after_all_is_proved_takes_hardly_anything_away():
    """One loss at the very end, after the best capital was reached, changes nothing."""
    free = np.zeros((1, 300), np.int8)
    spoilt = free.copy()
    spoilt[0, -1] = 1
    before = Bound.BETTING.p_values(free, -1, 0.05, 0.9)
    after = Bound.BETTING.p_values(spoilt, -1, 0.05, 0.9)
    assert before < after < 1.1 * before


@pytest.mark.parametrize("bound", Bound)
@pytest.mark.parametrize(("tolerated", "confidence"), [(0.01, 0.9), (0.005, 0.95), (0.3, 0.5)])
def test_samples_needed_is_the_first_number_that_is_enough(bound, tolerated, confidence):
    needed = bound.samples_needed(0, tolerated, confidence)

    def p_value(samples):
        return bound.p_values(np.zeros((1, samples), np.int8), 0, tolerated, confidence)[0]

    assert p_value(needed) <= 1 - confidence
    assert needed == 1 or p_value(needed - 1) > 1 - confidence


def test_without_a_loss_the_binomial_needs_what_a_geometric_says():
    assert Bound.BINOMIAL.samples_needed(0, 0.01, 0.9) == math.ceil(math.log(0.1) / math.log(0.99))


def test_what_no_bound_can_use_is_refused():
    some = np.zeros((1, 5), np.int8)
    with pytest.raises(InvalidInput, match="tolerated loss is 1"):
        Bound.BETTING.p_values(some, 0, 1.0, 0.9)
    with pytest.raises(InvalidInput, match=r"confidence is 0\.0"):
        Bound.BETTING.p_values(some, 0, 0.1, 0.0)
    with pytest.raises(InvalidInput, match="can be -1"):
        Bound.BINOMIAL.p_values(some, -1, 0.1, 0.9)
    with pytest.raises(InvalidInput, match="0 samples"):
        Bound.BINOMIAL.p_values(some[:, :0], 0, 0.1, 0.9)


@given(st.integers(1, 10_000))
@many
def test_first_true_finds_the_border(border):
    assert first_true(lambda number: number >= border) == border
