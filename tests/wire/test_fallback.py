"""The cloud is away, slow or wrong: the edge answers everything itself, says why, and asks again later."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from running_nodes import (
    CLEAR,
    SHIPPED,
    Edge,
    Gate,
    closed_port,
    eventually,
    in_process,
    save_artifact,
    serving_cloud,
    serving_edge,
    serving_fake_cloud,
    serving_split,
    streaming,
)

from branchynet.data.datasets import Dataset
from branchynet.exits.rules import Criterion, ExitRule, softmax
from branchynet.rpc import messages
from branchynet.serving.prediction import Place, Policy, Prediction
from protos import split_inference_pb2 as pb
from simulations.link.proxy import LinkProxy, LinkSettings

OFFLOADING = (Policy.SPLIT, Policy.CLOUD_ONLY)
BATCH = 64


def assert_fell_back(predictions: list[Prediction], sample: Dataset, policy: Policy, *reasons: str) -> None:
    """Every image has its best local answer; those meant for the cloud are marked and say why."""
    images = sample.images[: len(predictions)]
    local = in_process(images, stages=1)
    np.testing.assert_array_equal(
        np.stack([answer.probabilities for answer in predictions]), softmax(local.logits).astype(np.float32)
    )
    assert [answer.exit for answer in predictions] == [0] * len(images)
    meant_for_cloud = set(local.remaining.tolist()) if policy is Policy.SPLIT else set(range(len(images)))
    assert meant_for_cloud
    for position, answer in enumerate(predictions):
        assert answer.label == answer.probabilities.argmax()
        if position in meant_for_cloud:
            assert answer.place is Place.FALLBACK
            assert all(reason in answer.fallback_reason for reason in reasons), answer.fallback_reason
        else:
            assert (answer.place, answer.fallback_reason) == (Place.EDGE, "")


async def reaches_the_cloud(edge: Edge, sample: Dataset) -> bool:
    predictions = await edge.client.classify(sample.images[:1], policy=Policy.CLOUD_ONLY)
    return predictions[0].place is Place.CLOUD


@pytest.mark.parametrize("policy", OFFLOADING)
async def test_a_cloud_that_was_never_started(sample: Dataset, policy: Policy) -> None:
    with closed_port() as port:
        async with serving_edge(f"127.0.0.1:{port}") as edge:
            for _ in range(3):
                predictions = await edge.client.classify(sample.images[:BATCH], policy=policy)
                assert_fell_back(predictions, sample, policy, "UNAVAILABLE")
                assert {answer.uplink_bytes for answer in predictions} == {0}, "there was nothing to write them to"


@pytest.mark.parametrize("policy", OFFLOADING)
async def test_an_edge_that_was_given_no_cloud(sample: Dataset, policy: Policy) -> None:
    async with serving_edge("") as edge:
        predictions = await edge.client.classify(sample.images[:BATCH], policy=policy)
    assert_fell_back(predictions, sample, policy, "UNAVAILABLE", "no cloud")


@pytest.mark.parametrize("policy", OFFLOADING)
async def test_a_cloud_behind_a_stalled_link(sample: Dataset, policy: Policy) -> None:
    async with serving_split(offload_timeout_ms=300) as split:
        await eventually(lambda: reaches_the_cloud(split.edge, sample), "the cloud answers before the stall")
        split.link.stall()
        predictions = await split.client.classify(sample.images[:BATCH], policy=policy)
        assert_fell_back(predictions, sample, policy, "DEADLINE_EXCEEDED")
        assert all(answer.network_ms > 250 for answer in predictions if answer.place is Place.FALLBACK)
        split.link.restore()
        await eventually(lambda: reaches_the_cloud(split.edge, sample), "the cloud answers after the stall")


@pytest.mark.parametrize("policy", OFFLOADING)
async def test_a_cloud_that_computes_for_too_long(sample: Dataset, policy: Policy) -> None:
    async with serving_split(offload_timeout_ms=300) as split:
        gate = Gate(split.cloud.network)
        for _ in range(3):
            predictions = await split.client.classify(sample.images[:BATCH], policy=policy)
            assert_fell_back(predictions, sample, policy, "DEADLINE_EXCEEDED")
        gate.open()
        await eventually(lambda: reaches_the_cloud(split.edge, sample), "the cloud answers again")


async def test_a_cloud_that_is_too_far_away(sample: Dataset) -> None:
    async with serving_split(LinkSettings.symmetric_delay(None, None, 60_000), offload_timeout_ms=200) as split:
        predictions = await split.client.classify(sample.images[:BATCH])
        assert_fell_back(predictions, sample, Policy.SPLIT, "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("policy", OFFLOADING)
async def test_a_link_that_is_cut(sample: Dataset, policy: Policy) -> None:
    async with serving_split() as split:
        await eventually(lambda: reaches_the_cloud(split.edge, sample), "the cloud answers before the cut")
        split.link.cut()
        for _ in range(3):
            predictions = await split.client.classify(sample.images[:BATCH], policy=policy)
            assert_fell_back(predictions, sample, policy, "UNAVAILABLE")
        split.link.restore()
        await eventually(lambda: reaches_the_cloud(split.edge, sample), "the cloud answers after the cut", 10)


@pytest.mark.parametrize("policy", OFFLOADING)
async def test_a_link_that_is_cut_while_a_request_waits(sample: Dataset, policy: Policy) -> None:
    async with serving_split(LinkSettings.symmetric_delay(None, None, 1_000)) as split:
        waiting = asyncio.create_task(split.client.classify(sample.images[:BATCH], policy=policy))

        async def arrived() -> bool:
            return bool(split.seen)

        await eventually(arrived, "the request reaches the cloud")
        split.link.cut()
        assert_fell_back(await waiting, sample, policy, "UNAVAILABLE")


@pytest.mark.parametrize("policy", OFFLOADING)
async def test_a_cloud_that_serves_other_weights(sample: Dataset, tmp_path: Path, policy: Policy) -> None:
    other = save_artifact(tmp_path / "other", name=SHIPPED)
    async with serving_cloud(other) as cloud, serving_edge(cloud.target) as edge:
        predictions = await edge.client.classify(sample.images[:BATCH], policy=policy)
        ours, theirs = edge.node.served.content_hash, cloud.node.served.content_hash
    assert ours != theirs
    assert_fell_back(predictions, sample, policy, "FAILED_PRECONDITION", ours[:16], theirs)


async def test_a_cloud_that_takes_smaller_batches(sample: Dataset) -> None:
    async with serving_cloud(max_batch=2) as cloud, serving_edge(cloud.target) as edge:
        predictions = await edge.client.classify(sample.images[:BATCH])
        assert_fell_back(predictions, sample, Policy.SPLIT, "RESOURCE_EXHAUSTED")
        assert await reaches_the_cloud(edge, sample)


async def test_a_cloud_without_the_stages_that_raw_images_need(sample: Dataset) -> None:
    async with serving_cloud(first_stage=1) as cloud, serving_edge(cloud.target) as edge:
        predictions = await edge.client.classify(sample.images[:BATCH], policy=Policy.CLOUD_ONLY)
        assert_fell_back(predictions, sample, Policy.CLOUD_ONLY, "INVALID_ARGUMENT", "cut is 0")


def reply(samples: int, classes: int = 10, exits: list[int] | None = None, value: float = 0.0) -> pb.ResumeReply:
    logits = np.full((samples, classes), value, dtype=np.float32)
    return pb.ResumeReply(
        exits=exits if exits is not None else [1] * samples, logits=messages.tensor_from_array(logits)
    )


def flat(samples: int) -> pb.ResumeReply:
    spoilt = reply(samples)
    spoilt.logits.shape[:] = [samples * 10]
    return spoilt


def one_number_each(samples: int) -> pb.ResumeReply:
    logits = messages.tensor_from_array(np.zeros(samples, dtype=np.float32))
    return pb.ResumeReply(exits=[1] * samples, logits=logits)


def as_bytes(samples: int) -> pb.ResumeReply:
    logits = messages.tensor_from_array(np.zeros((samples, 10), dtype=np.uint8))
    return pb.ResumeReply(exits=[1] * samples, logits=logits)


WRONG_REPLIES: dict[str, Callable[[int], pb.ResumeReply]] = {
    "nothing": lambda samples: pb.ResumeReply(),
    "one answer too few": lambda samples: reply(samples - 1),
    "one answer too many": lambda samples: reply(samples + 1),
    "more exits than logits": lambda samples: reply(samples, exits=[1] * (samples + 1)),
    "an exit that does not exist": lambda samples: reply(samples, exits=[7] * samples),
    "a negative exit": lambda samples: reply(samples, exits=[-1] * samples),
    "too few classes": lambda samples: reply(samples, classes=9),
    "too many classes": lambda samples: reply(samples, classes=11),
    "NaN": lambda samples: reply(samples, value=float("nan")),
    "infinity": lambda samples: reply(samples, value=float("inf")),
    "flat logits": flat,
    "one number for each sample": one_number_each,
    "logits of uint8": as_bytes,
}


@pytest.mark.parametrize("case", WRONG_REPLIES)
@pytest.mark.parametrize("policy", OFFLOADING)
async def test_a_cloud_whose_reply_does_not_add_up(sample: Dataset, case: str, policy: Policy) -> None:
    async def behave(request: Any, _: Any) -> pb.ResumeReply:
        return WRONG_REPLIES[case](request.tensor.shape[0])

    async with serving_fake_cloud(behave) as target, serving_edge(target) as edge:
        predictions = await edge.client.classify(sample.images[:BATCH], policy=policy)
    assert_fell_back(predictions, sample, policy)
    assert all(answer.fallback_reason for answer in predictions if answer.place is Place.FALLBACK)


@pytest.mark.parametrize("status", ["INTERNAL", "UNIMPLEMENTED", "UNKNOWN", "CANCELLED", "RESOURCE_EXHAUSTED"])
async def test_a_cloud_that_answers_with_an_error(sample: Dataset, status: str) -> None:
    async def behave(_: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode[status], "the cloud's own words")

    async with serving_fake_cloud(behave) as target, serving_edge(target) as edge:
        predictions = await edge.client.classify(sample.images[:BATCH])
    assert_fell_back(predictions, sample, Policy.SPLIT, "the cloud's own words")


async def test_a_cloud_that_crashes_on_a_request_is_asked_again(sample: Dataset) -> None:
    calls = 0

    async def behave(request: Any, _: Any) -> pb.ResumeReply:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a mistake of ours")
        return reply(request.tensor.shape[0])

    async with serving_fake_cloud(behave) as target, serving_edge(target) as edge:
        predictions = await edge.client.classify(sample.images[:BATCH])
        assert_fell_back(predictions, sample, Policy.SPLIT, "INTERNAL", "a mistake of ours")
        assert await reaches_the_cloud(edge, sample)


async def test_a_request_without_hard_samples_never_needs_the_cloud(sample: Dataset) -> None:
    leave_at_once = ExitRule(Criterion.ENTROPY, (Criterion.ENTROPY.always,))
    async with serving_edge("") as edge:
        predictions = await edge.client.classify(sample.images[:BATCH], rule=leave_at_once)
    assert {answer.place for answer in predictions} == {Place.EDGE}


async def test_a_cloud_that_goes_and_comes_back_on_its_port_answers_again(sample: Dataset) -> None:
    with closed_port() as port:
        pass
    async with LinkProxy("127.0.0.1", port, CLEAR) as link, serving_edge(f"127.0.0.1:{link.port}") as edge:
        for _ in range(2):
            predictions = await edge.client.classify(sample.images[:BATCH])
            assert_fell_back(predictions, sample, Policy.SPLIT, "UNAVAILABLE")
            async with serving_cloud(port=port):
                await eventually(lambda: reaches_the_cloud(edge, sample), "the cloud answers again", 10)


async def test_a_link_that_comes_and_goes_loses_no_request(sample: Dataset) -> None:
    """Every answer is the cloud's or the edge's own for that very image, whatever the link did meanwhile."""
    images = sample.images[:8]
    whole, local = in_process(images), in_process(images, stages=1)
    async with serving_split(LinkSettings.symmetric_delay(None, None, 4), offload_timeout_ms=400) as split:

        async def call() -> list[Prediction]:
            return await split.client.classify(images, policy=Policy.CLOUD_ONLY)

        async with streaming(call, callers=4) as stream:
            for trouble in (split.link.cut, split.link.stall) * 3:
                await stream.goes_on(8)
                trouble()
                await stream.goes_on(8)
                split.link.restore()
        await eventually(lambda: reaches_the_cloud(split.edge, sample), "the cloud answers in the end")
    places = set()
    for predictions in stream.answers:
        (place,) = {answer.place for answer in predictions}
        places.add(place)
        expected = whole if place is Place.CLOUD else local
        assert [answer.label for answer in predictions] == expected.logits.argmax(axis=1).tolist()
    assert places == {Place.CLOUD, Place.FALLBACK}


async def test_a_cloud_that_drains_loses_no_request(sample: Dataset) -> None:
    async with contextlib.AsyncExitStack() as cloud_life:
        cloud = await cloud_life.enter_async_context(serving_cloud())
        async with serving_edge(cloud.target) as edge:

            async def call() -> list[Prediction]:
                return await edge.client.classify(sample.images[:8], policy=Policy.CLOUD_ONLY)

            async with streaming(call, callers=4) as stream:
                await stream.goes_on(8)
                await cloud_life.aclose()
                await stream.goes_on(8)
    assert all(len(predictions) == 8 for predictions in stream.answers)
    assert {answer.place for answer in stream.answers[0]} == {Place.CLOUD}
    assert {answer.place for answer in stream.answers[-1]} == {Place.FALLBACK}


async def test_bytes_sent_in_vain_are_told(sample: Dataset) -> None:
    async def behave(_: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "no")

    async with serving_fake_cloud(behave) as target, serving_edge(target) as edge:
        predictions = await edge.client.classify(sample.images[:BATCH])
    in_vain = [answer for answer in predictions if answer.place is Place.FALLBACK]
    local = in_process(sample.images[:BATCH], stages=1)
    assert len(in_vain) == len(local.remaining)
    assert sum(answer.uplink_bytes for answer in in_vain) >= local.features.nbytes
