"""A stream of requests: one response each, in their order, whatever becomes of one among them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from running_nodes import SHIPPED, Split
from triton_calls import TIMEOUT_S, aio_client, assert_same, infer, sync_client, tensor_input, where
from tritonclient.grpc import service_pb2, service_pb2_grpc

from branchynet.data.datasets import Dataset
from branchynet.rpc.channel import open_channel

BAD = {
    2: {"parameters": {"luck": 1}},
    5: {"model_name": "other"},
    9: {"parameters": {"threshold": "high"}},
}
REASONS = {
    2: "INVALID_ARGUMENT: parameter 'luck' is unknown",
    5: "NOT_FOUND: model 'other'",
    9: "INVALID_ARGUMENT: threshold is 'high'",
}
REQUESTS = 12


def frame(sample: Dataset, number: int) -> np.ndarray[Any, Any]:
    return sample.images[4 * number : 4 * number + 1 + number % 4]


def options(sample: Dataset, number: int) -> dict[str, Any]:
    return {
        "model_name": SHIPPED,
        "inputs": [tensor_input(frame(sample, number))],
        "request_id": str(number),
        **BAD.get(number, {}),
    }


async def check(split: Split, sample: Dataset, got: list[tuple[Any, Any]]) -> None:
    """All answers are there in their order, the bad ones as errors."""
    assert len(got) == REQUESTS
    for number, (result, error) in enumerate(got):
        if number in BAD:
            assert result is None
            assert error.message().startswith(REASONS[number])
        else:
            assert error is None
            assert result.get_response().id == str(number)
            assert_same(result, await split.client.classify(frame(sample, number)))


async def test_the_aio_client_loses_nothing_to_bad_requests(split: Split, sample: Dataset) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(REQUESTS):
            yield options(sample, number)

    async with aio_client(split.edge.target) as client:
        got = [response async for response in client.stream_infer(requests())]
        statistics = (await client.get_inference_statistics()).model_stats[0]
    await check(split, sample, got)
    assert statistics.execution_count == REQUESTS - len(BAD)
    assert statistics.inference_stats.fail.count == len(BAD) - 1  # one was meant for another model


async def test_the_blocking_client_loses_nothing_to_bad_requests(split: Split, sample: Dataset) -> None:
    def ask() -> list[tuple[Any, Any]]:
        got: list[tuple[Any, Any]] = []
        with sync_client(split.edge.target) as client:
            client.start_stream(lambda result, error: got.append((result, error)))
            for number in range(REQUESTS):
                client.async_stream_infer(**options(sample, number))
            client.stop_stream()
        return got

    await check(split, sample, await asyncio.to_thread(ask))


async def test_a_refused_request_is_known_by_its_id(split: Split, sample: Dataset) -> None:
    """tritonclient hides it; the message has it."""
    async with open_channel(split.cloud.target, 2**24) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(timeout=TIMEOUT_S)
        for number, name in enumerate(("image", "picture", "image")):
            request = service_pb2.ModelInferRequest(id=f"frame {number}", raw_input_contents=[bytes(28 * 28)])
            request.inputs.add(name=name, datatype="UINT8", shape=[1, 1, 28, 28])
            await call.write(request)
        await call.done_writing()
        replies = [reply async for reply in call]
    assert [reply.infer_response.id for reply in replies] == ["frame 0", "frame 1", "frame 2"]
    assert [bool(reply.error_message) for reply in replies] == [False, True, False]
    assert replies[1].infer_response == service_pb2.ModelInferResponse(id="frame 1")
    assert replies[0].infer_response.raw_output_contents == replies[2].infer_response.raw_output_contents


async def test_each_answer_comes_before_the_next_request_is_made(split: Split, sample: Dataset) -> None:
    """A camera waits for the answer to one picture before it takes the next."""
    answered = asyncio.Event()

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            yield options(sample, number + 6)
            await asyncio.wait_for(answered.wait(), 20)
            answered.clear()

    places = []
    async with aio_client(split.edge.target) as client:
        async for result, error in client.stream_infer(requests()):
            assert error is None
            places += where(result)
            answered.set()
    assert len(places) == sum(len(frame(sample, number)) for number in (6, 7, 8))


async def test_a_failure_of_our_own_ends_its_request_and_not_the_stream(split: Split, sample: Dataset) -> None:
    node, broken = split.edge.node, iter([False, True, False])
    classify = node.classify

    async def sometimes(*args: Any, **kwargs: Any) -> Any:
        if next(broken):
            raise RuntimeError("a mistake of ours")
        return await classify(*args, **kwargs)

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            yield {**options(sample, number), "parameters": None}

    node.classify = sometimes  # type: ignore[method-assign]
    async with aio_client(split.edge.target) as client:
        got = [response async for response in client.stream_infer(requests())]
    assert [error and error.message() for _, error in got] == [None, "INTERNAL: RuntimeError: a mistake of ours", None]


async def test_a_stream_that_is_cancelled_leaves_the_node_well(split: Split, sample: Dataset) -> None:
    split.link.stall()
    endless = asyncio.Event()

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {**options(sample, 0), "parameters": {"policy": "cloud-only"}}
        await endless.wait()

    async with aio_client(split.edge.target) as client:
        stream = client.stream_infer(requests())
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.2)
        stream.cancel()
        with pytest.raises((asyncio.CancelledError, grpc.RpcError)):
            await waiting
        endless.set()
        split.link.restore()
        result = await infer(client, sample.images[:8])
        statistics = (await client.get_inference_statistics()).model_stats[0]
    assert_same(result, await split.client.classify(sample.images[:8]))
    assert (statistics.execution_count, statistics.inference_stats.fail.count) == (1, 0)
