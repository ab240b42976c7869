"""A request survives the edge it was sent to."""

import asyncio

import numpy as np
import pytest
from running_nodes import CLEAR, closed_port

from branchynet.errors import InvalidInput
from branchynet.prediction import Place
from orchestrator.delivery import Courier
from simulations.link_proxy import LinkProxy


async def test_an_answer_comes_at_the_first_attempt_from_the_edge_asked(split, sample):
    async with Courier([split.edge.target]) as courier:
        done = await courier.deliver(sample.images[0])
    assert done.prediction is not None
    assert done.prediction.place in (Place.EDGE, Place.CLOUD)
    assert (done.edge, done.attempts, done.error) == (0, 1, "")
    assert done.latency_ms > 0


async def test_the_next_edge_answers_where_the_first_is_away(split, sample):
    with closed_port() as port:
        async with Courier([f"127.0.0.1:{port}", split.edge.target]) as courier:
            done = await courier.deliver(sample.images[0], first=0)
    assert done.prediction is not None
    assert (done.edge, done.attempts) == (1, 2)


async def test_a_request_waits_for_its_edge_to_come_back(split, sample):
    async with LinkProxy("127.0.0.1", split.edge.port, CLEAR) as way, Courier([f"127.0.0.1:{way.port}"]) as courier:
        assert (await courier.deliver(sample.images[0])).attempts == 1
        way.cut()
        waiting = asyncio.create_task(courier.deliver(sample.images[0], deadline_ms=20_000))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        way.restore()
        done = await waiting
    assert done.prediction is not None
    assert done.attempts > 1


async def test_a_silent_edge_is_given_up_after_the_attempt(split, sample):
    async with LinkProxy("127.0.0.1", split.edge.port, CLEAR) as way:
        targets = [f"127.0.0.1:{way.port}", split.edge.target]
        async with Courier(targets, attempt_ms=300) as courier:
            way.stall()
            done = await courier.deliver(sample.images[0], deadline_ms=20_000)
    assert done.prediction is not None
    assert (done.edge, done.attempts) == (1, 2)


async def test_a_request_without_an_answer_says_why_by_its_deadline(sample):
    with closed_port() as port:
        async with Courier([f"127.0.0.1:{port}"]) as courier:
            done = await courier.deliver(sample.images[0], deadline_ms=400)
    assert done.prediction is None
    assert done.error.startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED"))
    assert done.attempts > 1


async def test_a_refused_request_is_not_tried_again(split):
    async with Courier([split.edge.target]) as courier:
        with pytest.raises(InvalidInput, match="shape"):
            await courier.deliver(np.zeros((1, 5, 5), np.uint8))


def test_a_courier_needs_an_edge():
    with pytest.raises(InvalidInput, match="no edge"):
        Courier([])
