"""How long the cloud may take."""

import math

import numpy as np
import pytest

from branchynet.errors import ArtifactMismatch
from branchynet.placement.link_estimator import LinkEstimator
from branchynet.placement.offload_deadline import (
    LONGEST_SENDING_MS,
    REFUSED_S,
    SMALL_BYTES,
    OffloadLimits,
    Refused,
    sending_ms,
)

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


def known_link(uplink_mbps, rtt_ms=40.0):
    estimator = LinkEstimator(10.0, 50.0)
    for number, size in enumerate([2_000, 200_000] * 10):
        estimator.observe(0.1 * number, size, rtt_ms + 8e-3 * size / uplink_mbps)
    return estimator.estimate(2.0)


def test_a_large_message_may_take_what_the_link_takes_to_send_it():
    size = 4_000_000  # 32 feature maps of 125 kB
    link = known_link(10.0)
    needed_ms = link.transfer(size).mean_ms
    assert needed_ms == pytest.approx(3_240, rel=0.05)
    limits = OffloadLimits(2_000, 20)
    allowed_ms = limits.allowance_ms(math.inf, sending_ms(link, size))
    assert needed_ms < allowed_ms < 2_000 + 2 * needed_ms
    assert limits.allowance_ms(3_000, sending_ms(link, size)) == 2_980, "a deadline is kept all the same"


def test_nothing_known_of_the_link_is_as_good_as_a_thin_one():
    unknown = LinkEstimator(10.0, 50.0).estimate(0.0)
    assert 2 * 3_200 < sending_ms(unknown, 4_000_000) < 3 * 3_200


def test_small_messages_wait_no_longer_and_nobody_waits_for_ever():
    dead = LinkEstimator(1e-4, 50.0).estimate(0.0)
    assert sending_ms(dead, SMALL_BYTES) == 0
    assert sending_ms(dead, 10 * SMALL_BYTES) == LONGEST_SENDING_MS


def test_a_cloud_with_another_artifact_is_left_alone_for_a_while():
    refused = Refused()
    refused.check(0.0)
    refused.note(5.0, "deploy the same artifact to both")
    for now_s in (5.0, 5.0 + 0.99 * REFUSED_S):
        with pytest.raises(ArtifactMismatch, match="deploy the same artifact"):
            refused.check(now_s)
    refused.check(5.0 + REFUSED_S)
