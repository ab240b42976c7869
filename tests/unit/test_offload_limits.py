"""How long the cloud may take."""

import math

import numpy as np
import pytest

from branchynet.decisions.deadlines import OffloadLimits

CASES = [
    (math.inf, 2_000, 20, 2_000),
    (10_000, 2_000, 20, 2_000),
    (2_020, 2_000, 20, 2_000),
    (2_019, 2_000, 20, 1_999),
    (100, 2_000, 20, 80),
    (20, 2_000, 20, 0),
    (5, 2_000, 20, -15),
    (-5, 2_000, 0, -5),
]


@pytest.mark.parametrize(("remaining_ms", "timeout_ms", "reserve_ms", "allowed_ms"), CASES)
def test_the_shorter_of_timeout_and_what_the_caller_still_waits(remaining_ms, timeout_ms, reserve_ms, allowed_ms):
    allowed = OffloadLimits(timeout_ms, reserve_ms).allowance_ms(remaining_ms)
    assert allowed == allowed_ms
    assert type(allowed) is float


def test_an_array_is_its_numbers_one_by_one():
    remaining_ms = np.array([[math.inf, 100.0], [20.0, 5.0]])
    allowed = OffloadLimits(2_000, 20).allowance_ms(remaining_ms)
    np.testing.assert_array_equal(allowed, [[2_000, 80], [0, -15]])
