"""A deadline goes from the client through the edge to the cloud, and answers come before it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from running_nodes import Gate, computing, eventually, serving_cloud, serving_edge, serving_fake_cloud, serving_split

from branchynet.data.datasets import Dataset
from branchynet.errors import DeadlineExceeded
from branchynet.rpc.channel import open_channel
from branchynet.serving.prediction import Place, Policy
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

OFFLOADING = (Policy.SPLIT, Policy.CLOUD_ONLY)


@pytest.mark.parametrize("policy", OFFLOADING)
async def test_a_stalled_link_does_not_make_answers_late(sample: Dataset, policy: Policy) -> None:
    """The client would raise `DeadlineExceeded`; the edge's reserve is wide for the sake of a busy machine."""
    async with serving_split(reserve_ms=1_000) as split:
        split.link.stall()
        predictions = await split.client.classify(sample.images[:64], policy=policy, deadline_ms=1_400)
    fallen_back = [answer for answer in predictions if answer.place is Place.FALLBACK]
    assert fallen_back
    assert all("DEADLINE_EXCEEDED" in answer.fallback_reason for answer in fallen_back)
    assert {answer.place for answer in predictions} <= {Place.EDGE, Place.FALLBACK}


async def test_the_cloud_gets_what_is_left_of_the_deadline(sample: Dataset) -> None:
    remaining_s: list[float | None] = []

    async def behave(request: pb.ResumeRequest, context: Any) -> None:
        remaining_s.append(context.time_remaining())
        await context.abort(13, "this cloud only looks at its watch")

    async with serving_fake_cloud(behave) as target, serving_edge(target, reserve_ms=500) as edge:
        for deadline_ms in (2_000, 60_000):
            started_s = time.monotonic()
            await edge.client.classify(sample.images[:8], policy=Policy.CLOUD_ONLY, deadline_ms=deadline_ms)
            elapsed_s = time.monotonic() - started_s
            seen_s = remaining_s.pop()
            assert seen_s is not None
            # No more than the deadline less the reserve, or the edge's longest wait; no less than what the call
            # took. gRPC writes a timeout with a few digits and rounds it up.
            allowed_s = min(deadline_ms - 500, 20_000) / 1e3
            assert allowed_s - elapsed_s - 0.05 < seen_s <= 1.02 * allowed_s


async def test_a_client_without_a_deadline_waits_for_the_cloud_no_longer_than_the_edge_does(sample: Dataset) -> None:
    async with serving_split(offload_timeout_ms=300) as split, open_channel(split.edge.target, 2**28) as channel:
        split.link.stall()
        images = pb.Tensor(dtype=pb.DTYPE_UINT8, shape=[64, 1, 28, 28], data=sample.images[:64].tobytes())
        reply = await pb_grpc.EdgeStub(channel).Classify(pb.ClassifyRequest(images=images))
    places = {answer.place for answer in reply.answers}
    assert places == {pb.PLACE_EDGE, pb.PLACE_FALLBACK}


@pytest.mark.parametrize("policy", OFFLOADING)
async def test_a_deadline_too_short_for_the_cloud_is_met_without_asking_it(sample: Dataset, policy: Policy) -> None:
    async with serving_split(reserve_ms=30_000) as split:
        predictions = await split.client.classify(sample.images[:64], policy=policy, deadline_ms=20_000)
        assert split.seen == [], "the cloud was asked for what could not be on time"
    fallen_back = [answer for answer in predictions if answer.place is Place.FALLBACK]
    assert fallen_back
    for answer in fallen_back:
        assert "DEADLINE_EXCEEDED" in answer.fallback_reason
        assert "30000" in answer.fallback_reason
        assert answer.uplink_bytes == 0


async def test_time_spent_on_the_edge_is_taken_from_the_cloud(sample: Dataset) -> None:
    async with serving_split(reserve_ms=2_000) as split:
        gate = Gate(split.edge.network)
        request = asyncio.create_task(split.client.classify(sample.images[:64], deadline_ms=15_000))
        await eventually(computing(gate), "the edge computes")
        await asyncio.sleep(1)  # the time that the cloud must not be given again
        gate.open()
        await request
        (call,) = split.seen
    assert call.time_remaining_s is not None
    # gRPC writes timeouts of this size in tenths of a second, rounded up, on each of the two ways.
    assert call.time_remaining_s <= 15 - 2 - 1 + 0.2


async def test_work_whose_deadline_passed_in_the_queue_is_not_done(sample: Dataset) -> None:
    async with serving_edge() as edge:
        gate = Gate(edge.network)
        first = asyncio.create_task(edge.client.classify(sample.images[:1], policy=Policy.EDGE_ONLY))
        await eventually(computing(gate), "the edge computes")
        late = [edge.client.classify(sample.images[:1], policy=Policy.EDGE_ONLY, deadline_ms=300) for _ in range(5)]
        for outcome in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(outcome, DeadlineExceeded)
        await edge.client.describe()  # a later call on the same connection: the edge has heard of the ends
        gate.open()
        assert len(await first) == 1
        assert len(await edge.client.classify(sample.images[:1], policy=Policy.EDGE_ONLY)) == 1
        assert gate.calls == 2, "an answer was computed that nobody waited for"


async def test_a_client_that_hangs_up_frees_the_queue(sample: Dataset) -> None:
    async with serving_cloud() as cloud, open_channel(cloud.target, 2**28) as channel:
        gate = Gate(cloud.network)
        images = pb.Tensor(dtype=pb.DTYPE_UINT8, shape=[1, 1, 28, 28], data=sample.images[:1].tobytes())
        request = pb.ResumeRequest(content_hash=cloud.node.served.content_hash, cut=0, tensor=images)
        stub = pb_grpc.CloudStub(channel)
        first = asyncio.create_task(wait_for(stub.Resume(request)))
        await eventually(computing(gate), "the cloud computes")
        for _ in range(5):
            given_up = asyncio.create_task(wait_for(stub.Resume(request, timeout=0.3)))
            outcome = (await asyncio.gather(given_up, return_exceptions=True))[0]
            assert "DEADLINE_EXCEEDED" in str(outcome)
        await stub.Describe(pb.DescribeRequest())  # a later call on the same connection: the cloud has heard of it
        gate.open()
        assert len((await first).exits) == 1
        assert len((await stub.Resume(request)).exits) == 1
        assert gate.calls == 2


async def test_a_client_that_hangs_up_frees_the_cloud_behind_the_edge(sample: Dataset) -> None:
    asked, freed = asyncio.Event(), asyncio.Event()

    async def behave(_: Any, __: Any) -> None:
        asked.set()
        try:
            await asyncio.sleep(60)
        finally:
            freed.set()

    async with serving_fake_cloud(behave) as target, serving_edge(target) as edge:
        request = asyncio.create_task(edge.client.classify(sample.images[:8], policy=Policy.CLOUD_ONLY))
        await asyncio.wait_for(asked.wait(), 20)
        request.cancel()
        await asyncio.wait_for(freed.wait(), 20)
        assert len(await edge.client.classify(sample.images[:8], policy=Policy.EDGE_ONLY)) == 8


async def wait_for(call: Any) -> Any:
    return await call
