"""When an answer can be expected: the sum of link, queue and work, each forgotten or kept as it deserves."""

import itertools
import math

import pytest

from branchynet.errors import DeadlineExceeded, InvalidInput
from branchynet.placement.cloud_estimator import QUEUE_HALF_LIFE_S, CloudTimes, Expected
from branchynet.placement.offload_deadline import OLD_S, TRY_S, InTime

SIZE = 3_000


def settled(network_ms=40.0, queue_ms=0.0, work_ms=(), overhead_ms=0.0, now_s=10.0):
    """Times after fifty offloads of `SIZE` bytes, one every 0.1 s, the last one at *now_s*."""
    times = CloudTimes(overhead_ms=overhead_ms)
    for number in range(50):
        times.answered(now_s - 0.1 * (49 - number), SIZE, network_ms, queue_ms)
    for one in work_ms:
        times.worked(1, 4, one)
    return times


def test_nothing_is_expected_of_a_cloud_that_was_never_asked():
    times = CloudTimes()
    times.worked(1, 4, 5.0)
    assert times.expected(0.0, SIZE, 1, 4) is None
    times.unanswered(1.0, SIZE, 500.0)
    assert times.expected(1.0, SIZE, 1, 4).mean_ms > 100


@pytest.mark.parametrize("overhead_ms", [0.0, 7.0])
def test_an_answer_takes_link_queue_and_work(overhead_ms):
    found = settled(40.0, queue_ms=30.0, work_ms=(5.0, 5.0), overhead_ms=overhead_ms).expected(10.0, SIZE, 1, 4)
    assert found.mean_ms == pytest.approx(40 + 30 + 5, rel=0.02)
    assert 0 < found.std_ms < 8
    assert found.age_s == 0


def test_a_guess_and_an_overhead_may_be_given():
    with pytest.raises(InvalidInput, match="first guess"):
        CloudTimes(uplink_mbps=0)
    link = settled(40.0, overhead_ms=15.0).link(10.0)
    assert link.transfer(SIZE).mean_ms == pytest.approx(25.0, rel=0.02), "the link's own part"


def test_a_queue_is_forgotten_and_work_is_not():
    times = settled(40.0, queue_ms=80.0, work_ms=(20.0, 20.0))
    later = times.expected(10.0 + QUEUE_HALF_LIFE_S, SIZE, 1, 4)
    assert later.mean_ms == pytest.approx(40 + 40 + 20, rel=0.02)
    assert later.age_s == QUEUE_HALF_LIFE_S
    assert times.expected(1e6, SIZE, 1, 4).mean_ms == pytest.approx(60, rel=0.02)


def test_work_is_known_for_the_cut_and_size_that_were_seen():
    times = settled(40.0, work_ms=(100.0, 100.0))
    assert times.expected(10.0, SIZE, 1, 7).mean_ms == pytest.approx(140, rel=0.02), (
        "4 and 7 are within a factor of two"
    )
    for cut, samples in ((1, 3), (1, 8), (2, 4)):
        assert times.expected(10.0, SIZE, cut, samples).mean_ms == pytest.approx(40, rel=0.02)


@pytest.mark.parametrize(
    ("seen", "believed"), [((9.0,), 9), ((9.0, 500.0), 9), ((500.0, 500.0, 9.0), 9), ((9.0, 500.0, 600.0), 500)]
)
def test_one_slow_answer_is_an_outlier_and_one_quick_answer_is_news(seen, believed):
    found = settled(40.0, work_ms=seen).expected(10.0, SIZE, 1, 4)
    assert found.mean_ms == pytest.approx(40 + believed, rel=0.02)


# --- asked or not -----------------------------------------------------------------------------------------


def asked(gate, now_s, expected, allowed_ms):
    try:
        gate.check(now_s, expected, allowed_ms)
    except DeadlineExceeded:
        return False
    return True


@pytest.mark.parametrize(
    ("expected", "wanted"),
    [
        (None, True),
        (Expected(99.0, 0.0, 0.0), True),
        (Expected(100.0, 0.0, 0.0), True),
        (Expected(100.1, 0.0, 0.0), False),
        (Expected(110.0, 9.0, 0.0), False),
        (Expected(110.0, 10.0, 0.0), True),
        (Expected(5_000.0, 9.0, OLD_S - 0.1), False),
        (Expected(5_000.0, 9.0, OLD_S), True),
    ],
)
def test_the_cloud_is_asked_if_it_may_be_in_time_or_if_nobody_knows(expected, wanted):
    assert asked(InTime(), 5.0, expected, 100.0) is wanted


def test_of_the_doubtful_one_a_second_goes_and_of_the_hopeful_all():
    gate, doubtful, hopeful = InTime(), Expected(110.0, 20.0, 0.0), Expected(90.0, 20.0, 0.0)
    assert asked(gate, 5.0, doubtful, 100.0)
    assert not asked(gate, 5.0 + 0.9 * TRY_S, doubtful, 100.0)
    assert asked(gate, 5.0 + 0.9 * TRY_S, hopeful, 100.0)
    assert asked(gate, 5.0 + TRY_S, doubtful, 100.0)


def test_a_refusal_says_what_is_left_and_what_it_takes():
    with pytest.raises(DeadlineExceeded, match=r"^12\.0 ms are left, an answer from the cloud takes about 55\.2 ms$"):
        InTime().check(0.0, Expected(55.2, 3.0, 0.0), 12.0)


class Camera:
    """Ten requests a second, each allowed *allowed_ms*, over a link that takes *took_ms*; every *generous*th, if given,
    is allowed two seconds."""

    def __init__(self, took_ms, allowed_ms, generous=None):
        self.took_ms, self.allowed_ms, self.generous = took_ms, allowed_ms, generous
        self.times, self.gate, self.count = CloudTimes(), InTime(), 0

    def run(self, seconds):
        """When, within these *seconds*, the cloud was asked by requests in a hurry."""
        begin, went = self.count, []
        for self.count in range(begin + 1, begin + 10 * seconds + 1):
            now_s = self.count / 10
            hurried = not self.generous or self.count % self.generous
            allowed_ms = self.allowed_ms if hurried else 2_000.0
            if not asked(self.gate, now_s, self.times.expected(now_s, SIZE, 1, 1), allowed_ms):
                continue
            if hurried:
                went.append((self.count - begin) / 10)
            if self.took_ms <= allowed_ms:
                self.times.answered(now_s + self.took_ms / 1e3, SIZE, self.took_ms, 0.0)
            else:
                self.times.unanswered(now_s + allowed_ms / 1e3, SIZE, allowed_ms)
        return went


@pytest.mark.parametrize("took_ms", [100.0, 1_000.0, math.inf])
def test_hurried_requests_try_a_slow_link_less_and_less(took_ms):
    went = Camera(took_ms, allowed_ms=80.0).run(120)
    assert 1 <= len(went) <= 16
    pauses = [after - before for before, after in itertools.pairwise(went)]
    assert pauses[-1] > 5 * pauses[0]
    assert max(pauses) <= OLD_S + 0.2


@pytest.mark.parametrize("generous", [None, 20])
def test_a_link_that_is_quick_enough_is_always_used(generous):
    camera = Camera(60.0, allowed_ms=80.0, generous=generous)
    assert len(camera.run(60)) == (600 if generous is None else 570)


@pytest.mark.parametrize("generous", [None, 20])
def test_a_link_that_mended_is_found_and_then_used_by_all(generous):
    camera = Camera(1_000.0, allowed_ms=80.0, generous=generous)
    camera.run(120)
    camera.took_ms = 20.0
    camera.run(int(OLD_S) + 2)
    assert len(camera.run(10)) == (100 if generous is None else 95)


def test_those_with_time_teach_those_in_a_hurry_without_a_try():
    camera = Camera(1_000.0, allowed_ms=80.0, generous=1)
    camera.run(5)
    camera.generous = None
    assert camera.run(3) == []
