"""A request survives the edge it was sent to."""

import asyncio

import numpy as np
import pytest
from running_nodes import CLEAR, closed_port
from structlog.testing import capture_logs

from branchynet.client.retrying import RetryingClient
from branchynet.errors import InvalidInput
from branchynet.serving.logging import Event
from branchynet.serving.prediction import Place
from simulations.link.proxy import LinkProxy


async def test_an_answer_comes_at_the_first_attempt_from_the_edge_asked(split, sample):
    async with RetryingClient([split.edge.target]) as client:
        done = await client.classify(sample.images[:1])
    assert len(done.predictions) == 1
    assert done.predictions[0].place in (Place.EDGE, Place.CLOUD)
    assert (done.node, done.attempts, done.error) == (0, 1, "")
    assert done.latency_ms > 0


async def test_the_next_edge_answers_where_the_first_is_away(split, sample):
    with closed_port() as port:
        async with RetryingClient([f"127.0.0.1:{port}", split.edge.target]) as client:
            done = await client.classify(sample.images[:1], first=0)
    assert done.predictions
    assert (done.node, done.attempts) == (1, 2)


async def test_a_request_waits_for_its_edge_to_come_back(split, sample):
    async with (
        LinkProxy("127.0.0.1", split.edge.port, CLEAR) as way,
        RetryingClient([f"127.0.0.1:{way.port}"]) as client,
    ):
        assert (await client.classify(sample.images[:1])).attempts == 1
        way.cut()
        waiting = asyncio.create_task(client.classify(sample.images[:1], deadline_ms=20_000))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        way.restore()
        done = await waiting
    assert done.predictions
    assert done.attempts > 1


async def test_a_silent_edge_is_given_up_after_the_attempt(split, sample):
    async with LinkProxy("127.0.0.1", split.edge.port, CLEAR) as way:
        targets = [f"127.0.0.1:{way.port}", split.edge.target]
        async with RetryingClient(targets, attempt_ms=300) as client:
            way.stall()
            done = await client.classify(sample.images[:1], deadline_ms=20_000)
    assert done.predictions
    assert (done.node, done.attempts) == (1, 2)


async def test_a_request_without_an_answer_says_why_by_its_deadline(sample):
    with closed_port() as port:
        async with RetryingClient([f"127.0.0.1:{port}"]) as client:
            done = await client.classify(sample.images[:1], deadline_ms=400)
    assert done.predictions == ()
    assert done.error.startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED"))
    assert done.attempts > 1


async def test_attempts_can_be_limited(split, sample):
    with closed_port() as port:
        async with RetryingClient([f"127.0.0.1:{port}", split.edge.target], max_attempts=1) as client:
            done = await client.classify(sample.images[:1])
    assert (done.predictions, done.node, done.attempts) == ((), 0, 1)
    assert done.error.startswith("UNAVAILABLE")


async def test_a_batch_has_an_answer_for_each_image(split, sample):
    async with RetryingClient([split.edge.target]) as client:
        done = await client.classify(sample.images[:5])
    assert [one.label for one in done.predictions] == [
        one.label for one in await split.client.classify(sample.images[:5])
    ]


async def test_a_refused_request_is_not_retried(split):
    async with RetryingClient([split.edge.target]) as client:
        with capture_logs() as events, pytest.raises(InvalidInput, match="shape"):
            await client.classify(np.zeros((1, 1, 5, 5), np.uint8))
    assert [event["event"] for event in events] == [Event.REFUSED]


def test_it_needs_a_node():
    with pytest.raises(InvalidInput, match="no node"):
        RetryingClient([])
