"""Measured times between and beyond the sizes that were measured, and profiles that do not fit together."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchynet.errors import InvalidInput
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile, StageTimes

TIMES = StageTimes((1, 2, 4), ((1.0, 1.5, 2.0), (3.0, 4.0, 8.0)))
PROFILE = ServingProfile(TIMES, TIMES, (0, 1), 1, 0.5, 1.5, (784, 4_704), 100, 60)


@pytest.mark.parametrize(
    ("stage", "batch", "ms"),
    [(0, 1, 1.0), (0, 2, 1.5), (0, 3, 1.75), (0, 4, 2.0), (1, 3, 6.0), (0, 8, 3.0), (1, 5, 10.0), (1, 8, 16.0)],
)
def test_times_are_linear_between_and_beyond_measured_sizes(stage, batch, ms):
    assert TIMES.stage_ms(stage, batch) == ms


def test_one_size_promises_no_gain_from_batches():
    assert StageTimes((1,), ((2.0,),)).stage_ms(0, 7) == 14.0


def test_a_larger_batch_beyond_the_last_size_never_takes_less():
    assert StageTimes((1, 2), ((2.0, 1.0),)).stage_ms(0, 9) == 1.0


@given(st.integers(1, 40), st.floats(0.1, 10))
def test_a_slower_device_takes_that_much_longer(batch, factor):
    slower = TIMES.slower(factor)
    assert slower.batches == TIMES.batches
    for stage in range(2):
        assert slower.stage_ms(stage, batch) == pytest.approx(factor * TIMES.stage_ms(stage, batch))
    np.testing.assert_allclose(slower.until_ms, factor * TIMES.until_ms)


def test_time_until_a_stage_is_for_one_sample():
    np.testing.assert_array_equal(TIMES.until_ms, [0, 1, 4])
    assert TIMES.stages == 2


@pytest.mark.parametrize("batches", [(), (2, 4), (1, 1), (1, 4, 2)])
def test_sizes_that_do_not_ascend_from_1_are_refused(batches):
    with pytest.raises(InvalidInput, match="they must ascend from 1"):
        StageTimes(batches, ((1.0,) * len(batches),))


@pytest.mark.parametrize("ms", [(), ((1.0,),), ((1.0, 2.0), (1.0,)), ((1.0, -0.1),)])
def test_times_that_are_none_are_refused(ms):
    with pytest.raises(InvalidInput, match="a row of 2 times, 0 or more, for each stage"):
        StageTimes((1, 2), ms)


@pytest.mark.parametrize(
    "wrong",
    [{"cloud": StageTimes((1,), ((1.0,),))}, {"exit_stages": (0, 2)}, {"exit_stages": (0,)}, {"message_bytes": (784,)}],
)
def test_parts_of_a_profile_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InvalidInput, match="the edge has 2 stages; the cloud"):
        replace(PROFILE, **wrong)


@pytest.mark.parametrize("name", ["request_ms", "offload_ms", "framing_bytes", "reply_bytes"])
def test_less_than_nothing_is_refused(name):
    assert getattr(replace(PROFILE, **{name: 0}), name) == 0
    with pytest.raises(InvalidInput, match="0 or more"):
        replace(PROFILE, **{name: -1})


@pytest.mark.parametrize("size", [0, -1])
def test_a_message_of_no_size_is_refused(size):
    with pytest.raises(InvalidInput, match=rf"message_bytes are \(784, {size}\)"):
        replace(PROFILE, message_bytes=(784, size))


def test_the_time_of_each_exit_is_that_of_its_way():
    held = PROFILE.ms_by_exit(2, math.inf, 0)
    assert held.tolist() == [0.5 + 1.0, 0.5 + 4.0]
    # Behind the cut: what the edge ran, the offload, 4,804 bytes at 8 Mbit/s, the round trip, and the cloud's stage.
    assert PROFILE.ms_by_exit(1, 8.0, 40.0).tolist() == pytest.approx([1.5, 0.5 + 1.0 + 1.5 + 4.804 + 40 + 3.0])
    assert PROFILE.ms_by_exit(0, 8.0, 0.0).tolist() == pytest.approx([0.5 + 1.5 + 0.884 + 1, 0.5 + 1.5 + 0.884 + 4])


@pytest.mark.parametrize("cut", [-1, 3])
def test_a_cut_that_there_is_not_is_refused(cut):
    with pytest.raises(InvalidInput, match=f"cut is {cut}; the cut must be 0 to 2"):
        PROFILE.ms_by_exit(cut, 1, 0)


@pytest.mark.parametrize(("mbps", "rtt_ms"), [(0, 0), (math.nan, 0), (1, -1), (1, math.nan), (1, math.inf)])
def test_a_link_that_there_is_not_is_refused(mbps, rtt_ms):
    with pytest.raises(InvalidInput, match=f"uplink {mbps} Mbit/s, downlink inf Mbit/s, round trip {rtt_ms} ms"):
        PROFILE.ms_by_exit(1, mbps, rtt_ms)
    with pytest.raises(InvalidInput, match="downlink 0 Mbit/s"):
        Link(1.0, 0)


CODED = replace(PROFILE, held=2, codecs=(CodecCost(1, "uint8", 1_200, 0.25, 0.5), CodecCost(0, "jpeg", 300, 1.0, 2.0)))
SLOW = Link(uplink_mbps=8.0, downlink_mbps=0.48, rtt_ms=40.0)


def test_the_costs_of_a_coded_offload_are_told_apart():
    costs = CODED.costs_by_exit(1, "uint8", SLOW, cloud_queue_ms=7.0)
    assert costs.busy_ms.tolist() == pytest.approx([0.5 + 1.0, 0.5 + 1.0 + 1.5 + 0.25])
    # 1,300 bytes up, 60 down, the round trip, the queue, and the cloud's decoding and second stage.
    assert costs.waiting_ms.tolist() == pytest.approx([0, 1.3 + 1.0 + 40 + 7 + 0.5 + 3.0])
    assert costs.cloud_ms.tolist() == pytest.approx([0, 0.5 + 3.0])
    assert costs.uplink_bytes.tolist() == [0, 1_300]


def test_what_stays_at_the_edge_costs_nothing_but_its_stages():
    for costs in (CODED.costs_by_exit(2, "fp32", SLOW), CODED.costs_by_exit(0, "raw", SLOW, edge_only=True)):
        assert costs.busy_ms.tolist() == pytest.approx([1.5, 4.5])
        assert not any(values.any() for values in (costs.waiting_ms, costs.cloud_ms, costs.uplink_bytes))
    # An edge that holds one stage runs that one only, also for whom its exit would not keep.
    assert PROFILE.costs_by_exit(1, "fp32", SLOW, edge_only=True).busy_ms.tolist() == [1.5, 1.5]


@pytest.mark.parametrize("queue_ms", [-1.0, math.inf, math.nan])
def test_a_queue_that_is_no_time_is_refused(queue_ms):
    with pytest.raises(InvalidInput, match=f"cloud_queue_ms is {queue_ms}"):
        PROFILE.costs_by_exit(1, "fp32", SLOW, cloud_queue_ms=queue_ms)


@pytest.mark.parametrize(("cut", "codec", "known"), [(1, "jpeg", "'fp32', 'uint8'"), (0, "fp32", "'raw', 'jpeg'")])
def test_a_codec_that_was_not_measured_there_is_refused(cut, codec, known):
    with pytest.raises(InvalidInput, match=rf"no codec '{codec}' was measured at cut {cut}; \[{known}\] are known"):
        CODED.costs_by_exit(cut, codec, SLOW)


@pytest.mark.parametrize("named", [[(2, "uint8")], [(-1, "uint8")], [(1, "fp32")], [(0, "raw")], [(1, "a"), (1, "a")]])
def test_codecs_of_no_cut_or_given_twice_are_refused(named):
    with pytest.raises(InvalidInput, match=r"codecs are \[.*; each must be for a cut of 0 to 1, once, and not plain"):
        replace(PROFILE, codecs=tuple(CodecCost(cut, codec, 10, 0.0, 0.0) for cut, codec in named))


@pytest.mark.parametrize(
    "wrong", [{"message_bytes": 0}, {"message_bytes": math.inf}, {"encode_ms": -1.0}, {"decode_ms": math.nan}]
)
def test_a_codec_that_costs_less_than_nothing_is_refused(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        replace(CODED.codecs[0], **wrong)


def test_slower_devices_take_longer_for_stages_and_codecs_and_nothing_else():
    slow = CODED.slower(edge=4.0, cloud=3.0)
    assert slow.edge == CODED.edge.slower(4.0)
    assert slow.cloud == CODED.cloud.slower(3.0)
    for was, now in zip(CODED.codecs, slow.codecs, strict=True):
        assert now == replace(was, encode_ms=4 * was.encode_ms, decode_ms=3 * was.decode_ms)
    assert replace(slow, edge=CODED.edge, cloud=CODED.cloud, codecs=CODED.codecs) == CODED
    assert CODED.slower() == CODED


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_a_slowdown_that_is_none_is_refused(factor):
    with pytest.raises(InvalidInput, match=f"the edge is {factor}"):
        CODED.slower(edge=factor)
    with pytest.raises(InvalidInput, match=f"the cloud {factor}"):
        CODED.slower(cloud=factor)
