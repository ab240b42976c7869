"""A worker, a link and a server of batches by hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from simulations.link.capacity import ConstantRate, DeliveryLog, PiecewiseRate
from simulations.model.queues import drain, serve, serve_in_batches

jobs = st.lists(st.tuples(st.floats(0, 3), st.floats(0, 2), st.booleans()), min_size=1, max_size=30)


def equal(got: NDArray[np.float64], wanted: list[float]) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


def test_a_worker_takes_jobs_one_after_the_other() -> None:
    equal(serve(np.array([0.0, 1.0, 1.0, 9.0]), np.array([2.0, 3.0, 0.0, 1.0])), [2, 5, 5, 10])


def test_rows_are_workers_of_their_own() -> None:
    ready_s = np.array([[0.0, 1.0], [5.0, 5.5]])
    equal(serve(ready_s, np.full((2, 2), 2.0)), [[2, 4], [7, 9]])  # type: ignore[list-item]


@given(jobs)
def test_a_worker_equals_its_recursion_also_around_jobs_that_are_not_there(
    jobs: list[tuple[float, float, bool]],
) -> None:
    gaps_s, work_s, there = (np.array(column) for column in zip(*jobs, strict=True))
    ready_s = np.where(there, np.cumsum(gaps_s), -np.inf)
    finish_s = serve(ready_s, np.where(there, work_s, 0.0))
    free_s = -np.inf
    for index in np.flatnonzero(there):
        free_s = max(free_s, ready_s[index]) + work_s[index]
        assert finish_s[index] == pytest.approx(free_s)


def test_a_link_sends_in_order_from_its_own_point_of_the_course() -> None:
    rate = PiecewiseRate(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    bits = np.full((2, 2), 1e6)
    ready_s = np.array([[0.5, 0.6], [0.5, 0.6]])
    sent_s = drain(rate, ready_s, bits, np.array([[0.0], [1.0]]))
    # Row 0: half of it until 1, then at 3 Mbit/s. Row 1 is a second further on: 3 Mbit/s until 1, 1 Mbit/s until 2.
    equal(sent_s, [[1 + 0.5 / 3, 1.5], [0.5 + 1 / 3, 0.5 + 1 / 3 + 1 / 6 + 0.5]])  # type: ignore[list-item]


def test_messages_that_are_not_there_hold_nobody_up() -> None:
    ready_s, bits = np.array([-np.inf, 1.0, -np.inf, 1.5, -np.inf]), np.array([0.0, 1e6, 0.0, 1e6, 0.0])
    for capacity in (ConstantRate(1.0), PiecewiseRate(np.array([7.0]), np.array([1.0]))):
        sent_s = drain(capacity, ready_s, bits)
        equal(sent_s[[1, 3]], [2, 3])
        assert np.isneginf(sent_s[[0, 2, 4]]).all()
    log = DeliveryLog(np.arange(1, 10_001) / 1e3)
    equal(drain(log, ready_s, bits)[[1, 3]], [1 + 0.083, 1.5 + 0.083])


def batches(ready_s: list[float], need: list[int], workers: int, max_batch: int) -> tuple[list[float], list[float]]:
    """A batch takes a second and a tenth for each thing that is needed."""
    start_s, finish_s = serve_in_batches(
        np.array(ready_s), np.array(need), lambda taken: 1 + float(taken.sum()) / 10, workers, max_batch
    )
    return start_s.tolist(), finish_s.tolist()


def test_a_free_worker_takes_the_first_alone_and_then_all_that_came_meanwhile() -> None:
    start_s, finish_s = batches([0, 0.5, 0.6, 0.7, 9], [0, 1, 2, 3, 5], workers=1, max_batch=8)
    equal(np.array(start_s), [0, 1, 1, 1, 9])
    equal(np.array(finish_s), [1, 2.6, 2.6, 2.6, 10.5])


def test_a_batch_is_no_larger_than_allowed_and_the_oldest_go_first() -> None:
    start_s, _ = batches([0, 0.1, 0.2, 0.3, 0.4], [0] * 5, workers=1, max_batch=2)
    equal(np.array(start_s), [0, 1, 1, 2, 2])


def test_what_comes_at_the_very_moment_is_taken_along() -> None:
    assert batches([0, 0, 0, 1, 1], [0] * 5, workers=1, max_batch=4)[0] == [0, 0, 0, 1, 1]
    assert batches([0, 0, 0], [0] * 3, workers=2, max_batch=2)[0] == [0, 0, 0]


def test_workers_take_turns_as_they_get_free() -> None:
    start_s, finish_s = batches([0, 0.1, 0.2, 0.3], [20, 0, 5, 0], workers=2, max_batch=1)
    equal(np.array(start_s), [0, 0.1, 1.1, 2.6])
    equal(np.array(finish_s), [3, 1.1, 2.6, 3.6])


def test_a_batch_waits_for_nobody_who_is_not_there() -> None:
    assert batches([0, 1e-9], [0, 0], workers=1, max_batch=2)[0] == [0, 1]
