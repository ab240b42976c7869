"""The uplink is learnt from ordinary offloads: soon, with an honest range, and anew when it changes."""

import itertools
import math

import numpy as np
import pytest

from branchynet.errors import InvalidInput
from branchynet.placement.link_estimator import LinkEstimator, _mean_beyond

SIZES = (900, 3_000, 12_000, 40_000)
LINKS = [(0.5, 150.0), (2.0, 80.0), (10.0, 20.0), (50.0, 40.0)]


class Live:
    """An estimator fed by a link of *mbps* and *rtt_ms* whose times are up to some 10 % longer than they should be."""

    def __init__(self, mbps, rtt_ms, guess=(10.0, 50.0), seed=0):
        self.mbps, self.rtt_ms, self.now_s = mbps, rtt_ms, 0.0
        self.estimator = LinkEstimator(*guess)
        self.random = np.random.default_rng(seed)

    def takes_ms(self, size):
        return self.rtt_ms + size * 8e-3 / self.mbps

    def send(self, count, sizes=SIZES, apart_s=0.2):
        for size in itertools.islice(itertools.cycle(sizes), count):
            self.now_s += apart_s
            late = 1 + 0.04 * abs(self.random.normal())
            self.estimator.observe(self.now_s, size, late * self.takes_ms(size))
        return self.now

    @property
    def now(self):
        return self.estimator.estimate(self.now_s)


@pytest.mark.parametrize(("mbps", "rtt_ms"), LINKS)
def test_rate_and_round_trip_are_found_from_messages_of_several_sizes(mbps, rtt_ms):
    live = Live(mbps, rtt_ms)
    found = live.send(40)
    slow, fast = found.uplink_range_mbps
    assert slow * 0.8 <= mbps <= fast * 1.25
    for size in (*SIZES, 100_000):
        expected = found.transfer(size)
        assert abs(expected.mean_ms - live.takes_ms(size)) <= 0.12 * live.takes_ms(size) + 2 * expected.std_ms
    assert found.transfer(SIZES[-1]).mean_ms == pytest.approx(live.takes_ms(SIZES[-1]), rel=0.12)
    assert found.observations == 40


@pytest.mark.parametrize(("mbps", "rtt_ms"), LINKS)
def test_with_one_size_only_its_own_time_is_known(mbps, rtt_ms):
    live = Live(mbps, rtt_ms)
    found = live.send(40, sizes=(3_000,))
    own = found.transfer(3_000)
    assert own.mean_ms == pytest.approx(live.takes_ms(3_000), rel=0.08)
    assert own.std_ms < 0.1 * own.mean_ms
    slow, fast = found.uplink_range_mbps
    assert fast / slow > 1.5, "the rate cannot be known"
    assert found.transfer(300_000).std_ms > 5 * own.std_ms


@pytest.mark.parametrize(
    ("before", "after"), [((20.0, 40.0), (1.0, 40.0)), ((1.0, 80.0), (20.0, 30.0)), ((5.0, 20.0), (5.0, 300.0))]
)
def test_a_link_that_changed_is_known_again_within_a_dozen_offloads(before, after):
    live = Live(*before)
    live.send(40)
    live.mbps, live.rtt_ms = after
    found = live.send(12)
    for size in SIZES:
        assert found.transfer(size).mean_ms == pytest.approx(live.takes_ms(size), rel=0.35)


def test_one_late_message_changes_little():
    live = Live(10.0, 40.0)
    calm = live.send(40).transfer(3_000)
    live.estimator.observe(live.now_s + 0.1, 3_000, 5_000.0)
    after = live.estimator.estimate(live.now_s + 0.1).transfer(3_000)
    assert after.mean_ms < 1.3 * calm.mean_ms
    assert live.send(8).transfer(3_000).mean_ms == pytest.approx(calm.mean_ms, rel=0.1)


def test_silence_makes_it_less_sure_and_in_the_end_as_unsure_as_at_first():
    live = Live(10.0, 40.0)
    live.send(40)
    spreads = [
        live.estimator.estimate(live.now_s + later_s).transfer(10_000).std_ms for later_s in (0, 1, 10, 1e3, 1e6)
    ]
    assert spreads == sorted(spreads)
    assert spreads[1] > spreads[0]
    assert spreads[-1] == pytest.approx(spreads[-2], rel=1e-3)
    late = live.estimator.estimate(live.now_s + 1e6)
    assert late.rtt_std_ms == pytest.approx(math.log(3) * late.rtt_ms)
    assert live.estimator.estimate(live.now_s) == live.now, "asking changes nothing"


def test_an_answer_that_never_came_says_that_it_takes_longer():
    live = Live(10.0, 40.0)
    before = live.send(20).transfer(3_000).mean_ms
    for _ in range(3):
        live.now_s += 1
        live.estimator.lost(live.now_s, 3_000, 800.0)
    assert live.now.transfer(3_000).mean_ms > 5 * before
    known = live.now
    live.estimator.lost(live.now_s, 3_000, 10.0)
    assert live.now == known, "a wait shorter than expected is no news"


def test_the_first_guess_is_what_it_was_told_and_hardly_believed():
    first = LinkEstimator(10.0, 50.0).estimate(3.0)
    assert (first.uplink_mbps, first.rtt_ms, first.observations) == (pytest.approx(10.0), 50.0, 0)
    slow, fast = first.uplink_range_mbps
    assert slow < 5
    assert fast == math.inf


def test_clocks_that_stand_still_or_step_back_do_no_harm():
    estimator = LinkEstimator(10.0, 50.0)
    for now_s in (5.0, 5.0, 4.0):
        estimator.observe(now_s, 3_000, 60.0)
    assert 0 < estimator.estimate(1.0).transfer(3_000).std_ms < 100


@pytest.mark.parametrize("longest_ms", [1e-6, 1e6, 1e9])
def test_whatever_times_come_for_however_long_the_belief_stays_a_number(longest_ms):
    random, estimator = np.random.default_rng(3), LinkEstimator(10.0, 50.0)
    for step in range(4_000):
        size, took_ms = float(random.choice([1, 1e3, 1e6, 1e9])), longest_ms * float(random.choice([0.0, 1e-9, 1.0]))
        report = estimator.observe if random.random() < 0.5 else estimator.lost
        report(0.01 * step, size, took_ms)
        believed = estimator.estimate(0.01 * step)
        assert min(believed.mean) > 0
        assert min(np.linalg.eigvalsh(believed.covariance)) >= -1e-12 * np.trace(believed.covariance)
        assert min(np.diag(believed.covariance)) > 0
        assert math.isfinite(believed.transfer(size).std_ms)


def test_it_never_believes_in_a_link_that_is_faster_than_nothing():
    estimator = LinkEstimator(1.0, 100.0)
    for number in range(50):
        estimator.observe(0.1 * number, SIZES[number % 4], 0.0)
    found = estimator.estimate(5.0)
    assert found.rtt_ms > 0
    assert 0 < found.uplink_mbps < math.inf


@pytest.mark.parametrize("guess", [(0, 50), (-1, 50), (math.inf, 50), (10, 0), (10, math.nan)])
def test_a_guess_that_is_no_link_is_refused(guess):
    with pytest.raises(InvalidInput, match="first guess"):
        LinkEstimator(*guess)


@pytest.mark.parametrize(("size", "took_ms"), [(0, 1.0), (-5, 1.0), (math.nan, 1.0), (100, -1.0), (100, math.inf)])
def test_what_no_message_does_is_refused(size, took_ms):
    with pytest.raises(InvalidInput, match="took"):
        LinkEstimator(10.0, 50.0).observe(0.0, size, took_ms)


def test_waits_that_are_too_short_again_and_again_are_not_taken_for_the_time_it_takes():
    """A belief that follows the waits themselves would stay at 80 ms, and the next wait would seem long enough."""
    live = Live(10.0, 40.0)
    live.send(20)
    for _ in range(12):
        live.now_s += 1
        live.estimator.lost(live.now_s, 3_000, 80.0)
    found = live.now.transfer(3_000)
    assert found.mean_ms - found.std_ms > 80


@pytest.mark.parametrize("least", [-9.0, -1.0, 0.0, 1.0, 3.0, 7.999, 8.001, 40.0])
def test_the_mean_of_what_is_longer_is_that_of_a_normal_tail(least):
    x = np.linspace(least, max(least, 0) + 12, 400_001)
    weights = np.exp(-(x**2 - max(least, 0) ** 2) / 2)
    assert _mean_beyond(least) == pytest.approx(float((x * weights).sum() / weights.sum()), abs=2e-4, rel=1e-3)
