"""Over an emulated link: who has no time for it is answered at once, the others go on, and a mended link is found.

The edge's clock jumps over the half minute after which it takes what it knows for old.
"""

from __future__ import annotations

import time

import pytest
from running_nodes import CLEAR, Split, eventually, serving_split

from branchynet.data.datasets import Dataset
from branchynet.placement.offload_deadline import OLD_S
from branchynet.serving.prediction import Place, Policy, Prediction
from simulations.link.proxy import LinkSettings

FAR = LinkSettings.symmetric_delay(None, None, 1_500)
THIN = LinkSettings.symmetric_delay(0.06, None, 20)  # the maps of three images take 1.8 s
TIGHT_MS, GENEROUS_MS = 1_100, 20_000
RESERVE_MS = 100


class Clock:
    """The real time, and what was skipped."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def __call__(self) -> float:
        return time.perf_counter() + self.skipped_s


async def ask(split: Split, sample: Dataset, deadline_ms: float, policy: Policy = Policy.SPLIT) -> list[Prediction]:
    return await split.client.classify(sample.images[:16], policy=policy, deadline_ms=deadline_ms)


def places(predictions: list[Prediction]) -> set[Place]:
    return {answer.place for answer in predictions}


@pytest.mark.parametrize(
    ("link", "policy"),
    [(FAR, Policy.SPLIT), (FAR, Policy.CLOUD_ONLY), (THIN, Policy.SPLIT)],
    ids=["far", "raw", "thin"],
)
async def test_a_tight_deadline_is_answered_here_and_a_generous_one_in_the_cloud(
    sample: Dataset, link: LinkSettings, policy: Policy
) -> None:
    async with serving_split(link, reserve_ms=RESERVE_MS) as split:
        for _ in range(2):  # one may be an outlier
            assert Place.FALLBACK not in places(await ask(split, sample, GENEROUS_MS, policy))
        seen = len(split.seen)
        tight = await ask(split, sample, TIGHT_MS, policy)
        assert len(split.seen) == seen, "the cloud was asked for what could not be in time"
        assert places(tight) == ({Place.EDGE, Place.FALLBACK} if policy is Policy.SPLIT else {Place.FALLBACK})
        for answer in tight:
            assert answer.uplink_bytes == 0
            if answer.place is Place.FALLBACK:
                assert answer.fallback_reason.startswith("DEADLINE_EXCEEDED: ")
                assert "an answer from the cloud takes about" in answer.fallback_reason
        assert Place.CLOUD in places(await ask(split, sample, GENEROUS_MS, policy))


async def test_a_link_that_is_quick_again_is_used_again_by_tight_deadlines(sample: Dataset) -> None:
    clock = Clock()
    async with serving_split(FAR, reserve_ms=RESERVE_MS, clock_s=clock) as split:
        for _ in range(2):
            await ask(split, sample, GENEROUS_MS)
        assert Place.CLOUD not in places(await ask(split, sample, TIGHT_MS))
        split.link.reshape(CLEAR)

        async def all_go() -> bool:
            clock.skipped_s += OLD_S
            return [places(await ask(split, sample, TIGHT_MS)) for _ in range(3)] == [{Place.EDGE, Place.CLOUD}] * 3

        await eventually(all_go, "tight deadlines go to the cloud")


async def test_on_a_clear_link_tight_deadlines_go_to_the_cloud(sample: Dataset) -> None:
    async with serving_split(reserve_ms=RESERVE_MS) as split:
        for _ in range(5):
            assert places(await ask(split, sample, TIGHT_MS)) == {Place.EDGE, Place.CLOUD}
