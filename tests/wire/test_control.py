"""A live node's profile over its control service: figures, refusals, and requests that are served meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running_nodes import Gate, computing, eventually, in_process, save_artifact, serving_cloud, serving_edge, streaming

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.errors import ArtifactMismatch, BranchyNetError, InvalidInput, TooLarge, Unavailable
from branchynet.rpc.control import ask_profile, profile_from_reply, profile_to_reply
from branchynet.serving.stage_timer import NodeProfile
from orchestrator.profiling.live_profile import Effort, Pair, probe
from protos import split_inference_pb2 as pb

CODECS = ("webp", "uint8+zstd", "uint4-calibrated+zstd")


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Any, Any]]:
    """An edge and a cloud that let themselves be profiled."""
    async with (
        serving_cloud(control=True) as cloud,
        serving_edge(cloud.target, control=True, max_batch=40) as edge,
    ):
        yield edge, cloud


def check(found: NodeProfile, stages: tuple[int, int], coded: set[tuple[int, str]]) -> None:
    assert (found.model, found.stages, found.batches) == ("lenet-fashion", stages, (1, 4))
    assert len(found.stage_ms) == stages[1] - stages[0]
    assert {(timed.cut, timed.codec) for timed in found.codecs} == coded
    times = [spread for row in found.stage_ms for spread in row]
    times += [spread for timed in found.codecs for spread in (timed.encode_ms, timed.decode_ms)]
    assert all(0 < spread.low <= spread.median <= spread.high for spread in times)
    assert (found.engine, found.threads) == ("eager", 1)
    assert found.cores >= 1
    assert found.peak_rss_bytes >= found.rss_bytes > 50 * 2**20


async def test_both_nodes_time_what_they_hold(pair: tuple[Any, Any], sample: Dataset) -> None:
    edge, cloud = pair
    coded = {(0, "webp"), (1, "uint8+zstd"), (1, "uint4-calibrated+zstd")}
    check(await ask_profile(edge.target, sample.images[:8], (1, 4), 3, CODECS), (0, 1), coded)
    found = await ask_profile(cloud.target, sample.images[:8], (1, 4), 3, CODECS)
    check(found, (0, 2), coded)
    assert found.content_hash == cloud.node.served.content_hash
    assert profile_from_reply(profile_to_reply(found)) == found


async def test_a_cloud_without_the_first_stage_times_the_rest_on_drawn_maps(sample: Dataset) -> None:
    async with serving_cloud(first_stage=1, control=True) as cloud:
        found = await ask_profile(cloud.target, sample.images[:4], (1, 4), 2, CODECS)
    check(found, (1, 2), {(1, "uint8+zstd"), (1, "uint4-calibrated+zstd")})


REFUSED: dict[str, tuple[dict[str, Any], type[BranchyNetError], str]] = {
    "too many rounds": ({"rounds": 101}, TooLarge, "rounds is 101, this node times at most 100"),
    "no rounds": ({"rounds": 0}, InvalidInput, "rounds is 0"),
    "a codec that is none": ({"codecs": ("mp3",)}, InvalidInput, "codec 'mp3' is unknown"),
    "too many codecs": ({"codecs": ("uint8",) * 33}, TooLarge, "33 codecs"),
    "a size above the images": ({"batches": (1, 9)}, InvalidInput, r"batches are \(1, 9\); .* at most 8"),
    "sizes that do not ascend": ({"batches": (1, 4, 2)}, InvalidInput, r"batches are \(1, 4, 2\)"),
    "too many sizes": ({"batches": tuple(range(1, 10)), "count": 40}, TooLarge, "9 batch sizes"),
    "more images than a request may have": ({"count": 41}, TooLarge, "41 samples, this node takes at most 40"),
    "other images": ({"images": np.zeros((1, 3, 28, 28), np.uint8)}, InvalidInput, r"shape is \(1, 3, 28, 28\)"),
}


@pytest.mark.parametrize("mistake", REFUSED)
async def test_what_is_too_much_or_wrong_is_refused_with_its_value(
    pair: tuple[Any, Any], sample: Dataset, mistake: str
) -> None:
    edge, _ = pair
    changed, error, words = REFUSED[mistake]
    asked = {"images": sample.images[:8], "batches": (1,), "rounds": 1, "codecs": (), **changed}
    if "count" in asked:
        asked["images"] = sample.images[: asked.pop("count")]
    with pytest.raises(error, match=words):
        await ask_profile(edge.target, **asked)


async def test_one_profile_at_a_time_and_one_given_up_makes_room(pair: tuple[Any, Any], sample: Dataset) -> None:
    edge, _ = pair
    gate = Gate(edge.network)
    first = asyncio.create_task(ask_profile(edge.target, sample.images[:4], (1,), 100))
    await eventually(computing(gate), "the first profile is made")
    with pytest.raises(Unavailable, match=rf"{edge.target}: .* for somebody else"):
        await ask_profile(edge.target, sample.images[:4], (1,), 1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gate.open()

    async def answered() -> bool:
        try:
            await ask_profile(edge.target, sample.images[:4], (1,), 1)
        except Unavailable:
            return False
        return True

    await eventually(answered, "a profile is made again")


async def test_requests_are_answered_as_ever_while_both_nodes_make_their_profiles(
    pair: tuple[Any, Any], sample: Dataset
) -> None:
    edge, cloud = pair
    images = sample.images[:16]
    expected = in_process(images)
    async with streaming(lambda: edge.client.classify(images), callers=3) as stream:
        await stream.goes_on()
        before = len(stream.answers)
        profiles = await asyncio.gather(
            *(ask_profile(node.target, sample.images[:32], (1, 32), 20, CODECS) for node in (edge, cloud))
        )
        during = len(stream.answers) - before
    assert len(profiles) == 2
    assert during > 10
    for answers in stream.answers:
        assert [answer.exit for answer in answers] == expected.exits.tolist()
        assert [answer.label for answer in answers] == expected.logits.argmax(axis=1).tolist()
        assert {answer.fallback_reason for answer in answers} == {""}


async def test_a_node_that_was_not_told_to_offers_no_profile(sample: Dataset) -> None:
    async with serving_cloud() as cloud:
        with pytest.raises(Unavailable, match=f"{cloud.target} takes no orders; start it with --control"):
            await ask_profile(cloud.target, sample.images[:4], (1,), 1)


async def test_nodes_of_another_artifact_or_without_all_stages_make_no_pair(
    pair: tuple[Any, Any], sample: Dataset, tmp_path: Path
) -> None:
    edge, cloud = pair
    effort, images = Effort((1,), 1, 1), sample.images[:4]
    other = Artifact.open(save_artifact(tmp_path / "other")).manifest
    with pytest.raises(ArtifactMismatch, match=f"{edge.target} serves lenet-fashion .* --artifact is fresh"):
        await probe(Pair(edge.target, cloud.target), other, images, effort)
    own = Artifact.open("lenet-fashion").manifest
    with pytest.raises(InvalidInput, match=r"the cloud at .* \(0, 1\) of 2"):
        await probe(Pair(edge.target, edge.target), own, images, effort)


def test_a_reply_that_does_not_add_up_is_refused() -> None:
    quartiles = pb.Quartiles(low=1, median=2, high=3)
    times = [pb.StageTime(stage=0, batch=1, ms=quartiles), pb.StageTime(stage=1, batch=1, ms=quartiles)]
    assert profile_from_reply(pb.ProfileReply(last_stage=2, stages=times)).batches == (1,)
    with pytest.raises(InvalidInput, match=r"2 times of stages \(0, 3\)"):
        profile_from_reply(pb.ProfileReply(last_stage=3, stages=times))
    times[1].ms.median = 4
    with pytest.raises(InvalidInput, match="median=4"):
        profile_from_reply(pb.ProfileReply(last_stage=2, stages=times))
