"""How much a link carries by when, and when so much is carried."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from simulations.link.capacity import Capacity, ConstantRate, DeliveryLog, PiecewiseRate, markov_rate
from simulations.model.queues import drain

pieces = st.lists(st.tuples(st.floats(0.01, 5), st.sampled_from([0.0, 0.25, 3.0, 40.0])), min_size=1, max_size=8)
log_times = st.lists(st.integers(0, 3_000), min_size=1, max_size=30)


def rate_of(pieces: list[tuple[float, float]]) -> PiecewiseRate:
    lasts_s, mbps = np.array(pieces).T
    assume(mbps.any())
    return PiecewiseRate(np.cumsum(lasts_s), mbps)


def log_of(times_ms: list[int], extra_s: float = 0.0) -> DeliveryLog:
    assume(max(times_ms) > 0)
    return DeliveryLog(np.sort(times_ms) / 1e3, max(times_ms) / 1e3 + extra_s)


def by(capacity: Capacity, *times_s: float) -> list[float]:
    return capacity.bits_by(np.array(times_s)).tolist()


def at(capacity: Capacity, *bits: float) -> list[float]:
    return capacity.time_of_s(np.array(bits)).tolist()


@given(pieces, st.lists(st.floats(1, 1e9), min_size=1, max_size=20))
def test_a_rate_has_carried_the_bits_when_it_says_so(pieces: list[tuple[float, float]], bits: list[float]) -> None:
    rate = rate_of(pieces)
    there = np.array(bits)
    time_s = rate.time_of_s(there)
    assert (time_s > 0).all()
    # At most 40 Mbit/s: a microsecond is worth 40 bits, rounding far less.
    np.testing.assert_allclose(rate.bits_by(time_s), there, rtol=1e-12, atol=1e-3)
    before = rate.bits_by(np.maximum(time_s - 1e-6, 0.0))
    assert (before < there).all(), "the first time, not some time in the silence after it"


@given(pieces, st.lists(st.floats(0, 1_000), min_size=1, max_size=20))
def test_the_time_of_what_is_carried_is_no_later(pieces: list[tuple[float, float]], times: list[float]) -> None:
    rate = rate_of(pieces)
    time_s = np.sort(times)
    carried = rate.bits_by(time_s)
    assert (np.diff(carried) >= -1e-3).all()
    sent = carried > 2
    # One bit less: what is carried in a silence is what was carried at its start, and rounding must not decide.
    assert (rate.time_of_s(carried[sent] - 1) <= time_s[sent] + 1e-9).all()


@given(st.floats(0.1, 100), st.lists(st.floats(0.01, 5), min_size=1, max_size=6), st.floats(1, 1e9), st.floats(0, 900))
def test_a_rate_that_never_changes_is_the_constant_one(
    mbps: float, lasts_s: list[float], bits: float, time_s: float
) -> None:
    varying = rate_of([(last_s, mbps) for last_s in lasts_s])
    constant = ConstantRate(mbps)
    assert by(varying, time_s) == pytest.approx(by(constant, time_s), rel=1e-9, abs=1e-3)
    assert at(varying, bits) == pytest.approx(at(constant, bits), rel=1e-9, abs=1e-9)
    assert varying.mean_mbps == pytest.approx(constant.mean_mbps)
    assert (constant.period_s, varying.period_s) == (0, pytest.approx(sum(lasts_s)))


@example(pieces=[(1.0, 0.0), (1.7596926457840603, 0.25)], turn=245, share=1.0)  # ends a turn but for rounding
@given(pieces, st.integers(0, 1_000), st.floats(0, 1, exclude_min=True))
def test_a_turn_is_like_the_one_before_it(pieces: list[tuple[float, float]], turn: int, share: float) -> None:
    rate = rate_of(pieces)
    total = rate.bits_by(np.array(rate.period_s))
    bits = max(share * float(total), 1.0)
    assert at(rate, turn * float(total) + bits) == pytest.approx([turn * rate.period_s + at(rate, bits)[0]], abs=1e-6)


def test_silence_in_the_middle_carries_nothing() -> None:
    rate = PiecewiseRate(np.array([1.0, 3.0, 4.0]), np.array([2.0, 0.0, 1.0]))
    assert by(rate, 0, 0.5, 1, 2, 3, 3.5, 4, 5) == [0, 1e6, 2e6, 2e6, 2e6, 2.5e6, 3e6, 5e6]
    assert at(rate, 1e6, 2e6, 2.5e6, 3e6, 4e6) == [0.5, 1, 3.5, 4, 4.5]
    assert rate.mean_mbps == 0.75
    # Who comes in the silence waits for its end; who comes before it may be cut in two by it.
    np.testing.assert_allclose(drain(rate, np.array([0.75, 2.0]), np.array([1e6, 0.25e6])), [3.5, 3.75])


def test_silence_at_the_start_and_at_the_end_of_a_turn() -> None:
    rate = PiecewiseRate(np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 0.0]))
    assert by(rate, 0.5, 1, 1.5, 2, 4, 5, 5.5) == [0, 0, 0.5e6, 1e6, 1e6, 1e6, 1.5e6]
    assert at(rate, 0.5e6, 1e6, 1.5e6, 2e6, 2.5e6) == [1.5, 2, 5.5, 6, 9.5], (
        "the last bit of a turn leaves in that turn"
    )
    np.testing.assert_allclose(drain(rate, np.array([0.0, 2.5]), np.array([1e6, 1e6])), [2, 6])


def test_a_log_by_hand() -> None:
    # Turns of 5 s: 1,500 bytes at 1, twice 1,500 at 3, 1,500 at 5.
    log = DeliveryLog(np.array([1.0, 3.0, 3.0, 5.0]))
    part = 12_000
    assert log.period_s == 5
    assert log.mean_mbps == 4 * part / 5 / 1e6
    assert by(log, 0, 1, 1.001, 3, 3.001, 5, 5.001, 6.001) == [0, 0, part, part, 3 * part, 3 * part, 4 * part, 5 * part]
    assert at(log, 1, part, part + 1, 3 * part, 3 * part + 1, 4 * part, 4 * part + 1) == [1, 1, 3, 3, 5, 5, 6]


def test_messages_share_a_delivery_and_an_unused_one_is_lost() -> None:
    log = DeliveryLog(np.array([1.0, 3.0, 3.0, 5.0]))
    kilobyte = 8_000.0

    def sent_s(*ready_s: float, bits: float = kilobyte) -> list[float]:
        return drain(log, np.array(ready_s), np.full(len(ready_s), bits)).tolist()

    assert sent_s(0, 0) == [1, 3], "half of the second one leaves at 1, the rest at 3"
    assert sent_s(0, 0, 0, 0, 0, 0) == [1, 3, 3, 3, 5, 5]
    assert sent_s(1.5) == [3], "the delivery at 1 passed unused"
    assert sent_s(0, 1.5, 1.5) == [1, 3, 3], "so did the rest of it"
    assert sent_s(1.0) == [1], "who is ready at the very moment goes along"
    assert sent_s(5.5) == [6]
    assert sent_s(0, 0, bits=6_000) == [1, 1]
    assert sent_s(0, bits=12_000 * 9) == [11], "four a turn: the ninth is the first of the third turn"


def test_a_log_may_go_on_after_its_last_delivery_and_may_start_with_one() -> None:
    log = DeliveryLog(np.array([0.0, 1.0]), length_s=4.0)
    assert log.period_s == 4
    assert by(log, 0, 0.5, 4, 4.5) == [0, 12_000, 24_000, 36_000]
    assert at(log, 12_000, 24_000, 36_000, 48_000) == [0, 1, 4, 5]
    wrapped = DeliveryLog(np.array([0.0, 2.0]))
    assert by(wrapped, 2, 2.5) == [12_000, 36_000], "the end of a turn is the start of the next: two deliveries at 2"
    assert at(wrapped, 24_000, 36_000) == [2, 2]


@given(log_times, st.floats(0, 2), st.lists(st.integers(1, 10**7), min_size=1, max_size=20))
def test_a_log_has_carried_the_bits_when_it_says_so(times_ms: list[int], extra_s: float, bits: list[int]) -> None:
    log = log_of(times_ms, extra_s)
    there = np.array(bits, dtype=np.float64)
    time_s = log.time_of_s(there)
    assert (log.bits_by(np.maximum(time_s - 1e-6, 0.0)) < there).all()
    assert (log.bits_by(time_s + 1e-6) >= there).all()


def walked_s(log: DeliveryLog, ready_s: NDArray[np.float64], bits: NDArray[np.float64], offset_s: float) -> list[float]:
    """The same by going through the deliveries one by one."""
    left, gone_s, turn = bits.tolist(), [math.nan] * len(bits), 0
    while any(left):
        for time_s in log.times_s:
            at_s, room = turn * log.period_s + time_s - offset_s, 12_000.0
            for index, ready in enumerate(ready_s):
                if left[index] and at_s >= max(0.0, ready):
                    taken = min(room, left[index])
                    left[index] -= taken
                    room -= taken
                    if not left[index]:
                        gone_s[index] = at_s
        turn += 1
    return gone_s


@given(
    log_times,
    st.floats(0, 1),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 60_000)), min_size=1, max_size=8),
    st.integers(0, 2**32),
)
def test_a_log_equals_going_through_its_deliveries(
    times_ms: list[int], extra_s: float, share: float, messages: list[tuple[float, int]], seed: int
) -> None:
    log = log_of(times_ms, extra_s)
    # No float that hypothesis likes may lie on a delivery by chance.
    noise_s = np.random.default_rng(seed).uniform(1e-5, 9e-5)
    ready_s = np.cumsum([gap_s for gap_s, _ in messages]).round(3) + noise_s
    bits = np.array([float(bits) for _, bits in messages])
    offset_s = min(round(share * log.period_s, 3), log.period_s)
    np.testing.assert_allclose(drain(log, ready_s, bits, offset_s), walked_s(log, ready_s, bits, offset_s), atol=1e-9)


def test_a_link_of_states_is_in_each_as_long_as_its_stay_says() -> None:
    stays_s = (1.0, 2.0, 5.0)
    course = markov_rate((0.0, 3.0, 8.0), stays_s, 60_000.0, np.random.default_rng(4))
    lasts_s = np.diff(course.ends_s, prepend=0.0)
    for mbps, stay_s in zip((0.0, 3.0, 8.0), stays_s, strict=True):
        # Each state is left for any other with equal chance, so it is entered every third time.
        assert lasts_s[course.mbps == mbps].sum() / 60_000 == pytest.approx(stay_s / 8, rel=0.03)
        assert lasts_s[course.mbps == mbps].mean() == pytest.approx(stay_s, rel=0.03)
    assert (np.diff(course.mbps) != 0).all(), "every jump goes somewhere else"
    assert course.period_s == 60_000
    assert course.mean_mbps == pytest.approx((2 * 3 + 5 * 8) / 8, rel=0.03)


def test_a_link_of_states_is_settled_by_its_seed() -> None:
    one, same, other = (markov_rate((1.0, 2.0), (1.0, 1.0), 50.0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.ends_s, same.ends_s)
    np.testing.assert_array_equal(one.mbps, same.mbps)
    assert one.ends_s.shape != other.ends_s.shape or (one.ends_s != other.ends_s).any()


@pytest.mark.parametrize("mbps", [0.0, -1.0, math.nan, math.inf])
def test_a_constant_rate_that_is_none_is_refused(mbps: float) -> None:
    with pytest.raises(InvalidInput, match=f"rate is {mbps} Mbit/s"):
        ConstantRate(mbps)


@pytest.mark.parametrize(
    ("ends_s", "mbps", "message"),
    [
        ([], [], "0 times with 0 rates"),
        ([1, 2], [1], "2 times with 1 rates"),
        ([1, 1], [1, 1], "ascend from above 0"),
        ([0, 1], [1, 1], "ascend from above 0"),
        ([2, 1], [1, 1], "ascend from above 0"),
        ([1, math.inf], [1, 1], "ascend from above 0"),
        ([1, math.nan], [1, 1], "ascend from above 0"),
        ([1, 2], [0, 0], "not all 0"),
        ([1, 2], [1, -1], "0 or more"),
        ([1, 2], [1, math.nan], "0 or more"),
    ],
)
def test_a_varying_rate_that_is_none_is_refused(ends_s: list[float], mbps: list[float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        PiecewiseRate(np.array(ends_s, dtype=np.float64), np.array(mbps, dtype=np.float64))


@pytest.mark.parametrize(
    ("times_s", "message"),
    [
        ([], "at least one time"),
        ([1, math.nan], "at least one time"),
        ([0, 0], "end above 0"),
        ([2, 1], "not descend"),
        ([-1, 1], "not descend"),
    ],
)
def test_a_log_that_is_none_is_refused(times_s: list[float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        DeliveryLog(np.array(times_s, dtype=np.float64))


@pytest.mark.parametrize(
    ("mbps", "stays_s"), [((), ()), ((1.0,), (1.0,)), ((1.0, 2.0), (1.0,)), ((1.0, 2.0), (1.0, 0.0))]
)
def test_states_that_make_no_link_are_refused(mbps: tuple[float, ...], stays_s: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput, match="two or more of both are needed"):
        markov_rate(mbps, stays_s, 10.0, np.random.default_rng(0))
