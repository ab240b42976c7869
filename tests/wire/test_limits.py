"""How much a node takes at once, and that what is too much harms nobody else."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from running_nodes import CLEAR, serving_cloud, serving_edge, serving_split, streaming

from branchynet.client.client import AsyncClient
from branchynet.data.datasets import Dataset
from branchynet.errors import TooLarge
from branchynet.rpc import messages
from branchynet.rpc.channel import error_from_rpc, open_channel
from branchynet.serving.prediction import Place, Policy, Prediction
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc
from simulations.link.proxy import LinkProxy


async def in_one_request(channel: grpc.aio.Channel, images: NDArray[np.uint8], policy: Policy = Policy.SPLIT) -> int:
    """How many answers came; raises our errors. Our clients would send several requests."""
    request = pb.ClassifyRequest(images=messages.tensor_from_array(images), policy=messages.policy_to_message(policy))
    try:
        return len((await pb_grpc.EdgeStub(channel).Classify(request, timeout=20)).answers)
    except grpc.aio.AioRpcError as refusal:
        raise error_from_rpc(refusal) from None


@pytest.mark.parametrize("policy", list(Policy))
async def test_the_largest_batch_is_taken_and_one_more_is_not(sample: Dataset, policy: Policy) -> None:
    async with serving_split(max_batch=16) as split, open_channel(split.edge.target, 2**28) as channel:
        assert await in_one_request(channel, sample.images[:16], policy) == 16
        with pytest.raises(TooLarge, match=r"17 samples.*at most 16"):
            await in_one_request(channel, sample.images[:17], policy)


@pytest.mark.parametrize("policy", list(Policy))
async def test_the_largest_batch_fits_into_a_message_however_large(sample: Dataset, policy: Policy) -> None:
    """gRPC's own limit is 4 MiB; ours follows from max_batch, for the images as for the maps and the answers."""
    images = np.tile(sample.images, (6, 1, 1, 1))
    assert images.nbytes > 4 * 2**20
    async with serving_split(max_batch=6_000) as split:
        predictions = await split.client.classify(images, policy=policy, deadline_ms=60_000)
    assert len(predictions) == 6_000
    assert Place.FALLBACK not in {answer.place for answer in predictions}
    sent = sum(answer.uplink_bytes for answer in predictions)
    assert (sent > 4 * 2**20) == (policy is not Policy.EDGE_ONLY)


async def test_a_message_over_the_limit_is_refused_with_both_sizes_and_the_rest_goes_on(sample: Dataset) -> None:
    flood = np.zeros((4_000, 1, 28, 28), dtype=np.uint8)
    async with (
        serving_edge(max_batch=16) as edge,
        LinkProxy("127.0.0.1", edge.port, CLEAR) as link,
        AsyncClient(f"127.0.0.1:{link.port}") as client,
        open_channel(f"127.0.0.1:{link.port}", 2**28) as channel,
    ):

        async def good_call() -> list[Prediction]:
            return await client.classify(sample.images[:16], policy=Policy.EDGE_ONLY)

        await good_call()
        async with streaming(good_call) as stream:
            for _ in range(3):
                with pytest.raises(TooLarge, match=str(flood.nbytes // 1000)):
                    await in_one_request(channel, flood)
                await stream.goes_on()
        assert link.stats().connections == 2


async def test_a_cloud_refuses_a_message_over_its_limit() -> None:
    async with serving_cloud(max_batch=4) as cloud, open_channel(cloud.target, 2**28) as channel:
        maps = np.zeros((400, 5, 15, 15), dtype=np.float32)
        tensor = pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=maps.shape, data=maps.tobytes())
        stub = pb_grpc.CloudStub(channel)
        with pytest.raises(Exception, match="larger than max") as refusal:
            await stub.Resume(pb.ResumeRequest(cut=1, tensor=tensor), timeout=20)
        assert isinstance(error_from_rpc(refusal.value), TooLarge)
        assert (await stub.Describe(pb.DescribeRequest(), timeout=20)).max_batch == 4


async def test_a_hundred_requests_at_once_are_all_answered(sample: Dataset) -> None:
    async with serving_split() as split:
        answers = await asyncio.gather(
            *(split.client.classify(sample.images[index : index + 1], deadline_ms=60_000) for index in range(100))
        )
        together = await split.client.classify(sample.images[:100])
    assert [answer[0].label for answer in answers] == [answer.label for answer in together]
    assert {answer[0].place for answer in answers} == {Place.EDGE, Place.CLOUD}


async def test_a_small_batch_is_not_held_up_by_the_link_of_a_large_one(sample: Dataset) -> None:
    """Requests that the edge answers itself do not queue behind one that waits for the cloud."""
    async with serving_split() as split:
        split.link.stall()
        waiting = asyncio.create_task(split.client.classify(sample.images[:256], policy=Policy.CLOUD_ONLY))
        for _ in range(5):
            answers = await split.client.classify(sample.images[:4], policy=Policy.EDGE_ONLY)
            assert {answer.place for answer in answers} == {Place.EDGE}
        assert not waiting.done()
        split.link.restore()
        assert {answer.place for answer in await waiting} == {Place.CLOUD}
