"""The arithmetic of an emulated link, without a clock or a socket."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchynet.errors import InvalidInput
from simulations.link.capacity import Capacity, ConstantRate, DeliveryLog, PiecewiseRate
from simulations.link.shaping import Course, CourseSerialiser, Direction, LinkSettings, Propagation, Serialiser
from simulations.model.queues import drain

rates_mbps = st.floats(0.25, 200)
sizes_bytes = st.lists(st.integers(0, 100_000), min_size=1, max_size=50)
chunks = st.lists(st.tuples(st.integers(0, 100_000), st.floats(0, 0.1)), min_size=1, max_size=50)


@given(rates_mbps, sizes_bytes)
def test_back_to_back_chunks_take_exactly_bytes_over_rate(rate_mbps: float, sizes: list[int]) -> None:
    serialiser = Serialiser(rate_mbps)
    departures_s = [serialiser.departure_s(size, now_s=5.0) for size in sizes]
    assert departures_s[-1] - 5.0 == pytest.approx(sum(sizes) * 8 / (rate_mbps * 1e6), abs=1e-9)


@given(rates_mbps, chunks)
def test_departures_keep_order_and_never_exceed_the_rate(rate_mbps: float, chunks: list[tuple[int, float]]) -> None:
    serialiser = Serialiser(rate_mbps)
    now_s = free_s = 0.0
    for size, gap_s in chunks:
        now_s += gap_s
        departure_s = serialiser.departure_s(size, now_s)
        assert departure_s >= max(now_s, free_s)
        # Nothing of a chunk shares the wire with the chunk before.
        assert departure_s - max(now_s, free_s) == pytest.approx(size * 8 / (rate_mbps * 1e6), abs=1e-9)
        free_s = departure_s
    assert serialiser.free_at_s == free_s


@given(chunks)
def test_asking_late_costs_no_throughput(chunks: list[tuple[int, float]]) -> None:
    # A chunk that was ready while the wire was busy leaves at the same time, whenever it is booked.
    early, late = Serialiser(1.0), Serialiser(1.0)
    for size, gap_s in chunks:
        free_s = max(early.free_at_s, 0.0)
        assert early.departure_s(size, 0.0) == late.departure_s(size, free_s * min(gap_s * 10, 1.0))


def test_an_unlimited_serialiser_takes_no_time() -> None:
    serialiser = Serialiser(None)
    assert serialiser.departure_s(10**9, now_s=2.0) == 2.0
    assert serialiser.departure_s(1, now_s=1.0) == 2.0, "still first come, first served"


def test_a_new_serialiser_goes_on_where_the_old_one_is_busy() -> None:
    assert Serialiser(8.0, free_at_s=3.0).departure_s(1_000_000, now_s=2.0) == 4.0


@given(st.integers(0, 2**32), st.floats(0, 500), st.floats(0, 1), chunks)
def test_arrivals_stay_in_range_and_in_order(
    seed: int, delay_ms: float, share: float, chunks: list[tuple[int, float]]
) -> None:
    direction = Direction(None, delay_ms, delay_ms * share)
    propagation = Propagation(direction, np.random.default_rng(seed))
    departure_s, arrival_s, latest_s = 0.0, -math.inf, -math.inf
    for _, gap_s in chunks:
        departure_s += gap_s
        previous_s, arrival_s = arrival_s, propagation.arrival_s(departure_s, arrival_s)
        latest_s = max(latest_s, departure_s + (delay_ms + direction.jitter_ms) / 1e3)
        assert arrival_s >= previous_s
        assert departure_s + (delay_ms - direction.jitter_ms) / 1e3 - 1e-9 <= arrival_s <= latest_s + 1e-9


def test_delay_without_jitter_is_exact() -> None:
    assert Propagation(Direction(None, 25.0), np.random.default_rng(0)).arrival_s(1.0) == 1.025


def test_jitter_is_centred_on_the_delay() -> None:
    propagation = Propagation(Direction(None, 40.0, 20.0), np.random.default_rng(1))
    delays_s = [propagation.arrival_s(0.0) for _ in range(4000)]
    assert np.mean(delays_s) == pytest.approx(0.040, rel=0.02)
    assert min(delays_s) < 0.021
    assert max(delays_s) > 0.059


@given(st.integers(0, 2**63))
def test_the_seed_settles_the_jitter(seed: int) -> None:
    def delays(way: int) -> list[float]:
        settings = LinkSettings.symmetric_delay(10, 10, rtt_ms=80, jitter_ms=40, seed=seed)
        propagation = Propagation((settings.up, settings.down)[way], settings.generators()[way])
        return [propagation.arrival_s(0.0) for _ in range(5)]

    assert delays(0) == delays(0)
    assert delays(0) != delays(1), "up and down are independent"


def test_symmetric_delay_halves_the_round_trip() -> None:
    settings = LinkSettings.symmetric_delay(10, None, rtt_ms=40, jitter_ms=6, seed=3)
    assert settings == LinkSettings(Direction(10, 20, 3), Direction(None, 20, 3), seed=3)


@pytest.mark.parametrize(
    ("rate_mbps", "chunk_bytes"),
    [(0.25, 512), (1, 625), (10, 6_250), (200, 16_384), (None, 65_536)],
)
def test_a_chunk_holds_the_link_for_5_ms_within_limits(rate_mbps: float | None, chunk_bytes: int) -> None:
    assert Direction(rate_mbps).chunk_bytes == chunk_bytes


def test_what_fits_on_the_wire() -> None:
    assert Direction(8, delay_ms=100, jitter_ms=50).wire_bytes == 150_000
    assert Direction(None, delay_ms=0).wire_bytes == 0
    assert Direction(None, delay_ms=100).wire_bytes == 6 * 1024 * 1024


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0,), "rate_mbps is 0.0"),
        ((-1.0,), "rate_mbps is -1.0"),
        ((math.nan,), "rate_mbps is nan"),
        ((math.inf,), "rate_mbps is inf"),
        ((1.0, -1.0), "delay_ms is -1.0"),
        ((1.0, math.nan), "delay_ms is nan"),
        ((1.0, 5.0, -0.5), "jitter_ms is -0.5"),
        ((1.0, 5.0, 6.0), "jitter_ms is 6.0; it must be between 0 and delay_ms, which is 5.0"),
        ((1.0, 5.0, math.nan), "jitter_ms is nan"),
    ],
)
def test_an_impossible_direction_is_refused(values: tuple[float, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Direction(*values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-2.0, 0.0, 0), "rtt_ms is -2.0"),
        ((math.nan, 0.0, 0), "rtt_ms is nan"),
        ((40.0, 41.0, 0), "jitter_ms is 41.0; it must be between 0 and rtt_ms, which is 40.0"),
        ((40.0, 0.0, -1), "seed is -1"),
    ],
)
def test_an_impossible_round_trip_is_refused(values: tuple[float, float, int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        LinkSettings.symmetric_delay(1, 1, *values)


def test_the_arithmetic_and_the_proxy_load_nothing_heavy() -> None:
    program = (
        "import sys, simulations.link.shaping; assert 'asyncio' not in sys.modules; import simulations.link.proxy;"
        "print(sorted({'torch', 'grpc', 'google.protobuf', 'edge_node', 'cloud_node'} & sys.modules.keys()))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


VARYING = PiecewiseRate(np.array([0.5, 0.75, 2.0]), np.array([4.0, 0.0, 0.5]))
DELIVERIES = DeliveryLog(np.array([0.0, 0.1, 0.1, 0.9]), 1.0)


@pytest.mark.parametrize("capacity", [VARYING, DELIVERIES, ConstantRate(2.0)])
@given(chunks, st.floats(0, 3))
def test_a_varying_rate_books_what_the_simulator_reckons(
    capacity: Capacity, chunks: list[tuple[int, float]], offset_s: float
) -> None:
    serialiser = CourseSerialiser(Course(capacity, zero_s=-offset_s))
    ready_s = np.cumsum([gap_s for _, gap_s in chunks])
    sizes = [size + 1 for size, _ in chunks]
    booked_s = [serialiser.departure_s(size, float(now_s)) for size, now_s in zip(sizes, ready_s, strict=True)]
    expected_s = drain(capacity, ready_s, np.array(sizes) * 8.0, offset_s)
    assert booked_s == pytest.approx(expected_s.tolist(), abs=1e-6)
    assert serialiser.free_at_s == booked_s[-1]


def test_nothing_leaves_in_a_silence_and_an_empty_chunk_waits_for_its_turn() -> None:
    serialiser = CourseSerialiser(Course(VARYING, zero_s=10.0))
    assert serialiser.departure_s(0, 10.1) == 10.1
    assert serialiser.departure_s(62_500, 10.5) == pytest.approx(11.75)
    assert serialiser.departure_s(0, 10.6) == pytest.approx(11.75)


def test_a_varying_rate_goes_on_where_the_wire_is_busy() -> None:
    assert CourseSerialiser(Course(ConstantRate(8.0), 1.0), free_at_s=3.0).departure_s(1_000_000, 2.0) == 4.0


def test_a_direction_with_a_course_has_no_rate_of_its_own() -> None:
    varying = Direction(None, 20.0, course=Course(VARYING, 0.0))
    assert varying.mean_mbps == VARYING.mean_mbps
    assert varying.wire_bytes == Direction(VARYING.mean_mbps, 20.0).wire_bytes
    assert varying.chunk_bytes == Direction(VARYING.mean_mbps, 20.0).chunk_bytes
    with pytest.raises(InvalidInput, match=r"rate_mbps is 3\.0"):
        Direction(3.0, course=Course(VARYING, 0.0))
