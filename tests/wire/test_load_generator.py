"""The requests of a scenario through real nodes become the records that the simulator would write."""

import asyncio

import numpy as np
import pytest
from running_nodes import CLEAR, closed_port, in_process

from branchynet.client.client import AsyncClient
from branchynet.errors import InvalidInput
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.placement.plan import Plan
from orchestrator.load.generator import LoadGenerator, LoadSettings, send, send_interleaved
from orchestrator.load.schedules import RequestClass, closed_loop, constant_rate, open_loop
from simulations.link.proxy import LinkProxy
from simulations.model.request_records import CLOUD, EDGE, LOST
from simulations.model.request_report import Report
from simulations.model.scenario import Scenario, Workload
from simulations.model.workload import requests_of

RULE = ExitRule(Criterion.ENTROPY, (0.3,))
SCENARIO = Scenario(workload=Workload(rate_per_s=100, requests=40))


async def run(target, sample, plan, **options):
    requests = requests_of(SCENARIO, 0, len(sample))
    on_end = options.pop("on_end", lambda _ended: None)
    data = (sample.images, sample.labels)
    return requests, await send([open_loop([requests], plan)], {0: target}, *data, LoadSettings(**options), on_end)


@pytest.mark.parametrize(
    ("plan", "places"),
    [
        (Plan(1, RULE), {EDGE, CLOUD}),
        (Plan(0, RULE), {CLOUD}),
        (Plan(1, RULE, edge_only=True), {EDGE}),
    ],
)
async def test_each_request_has_a_row_that_says_what_came_of_it(split, sample, plan, places):
    requests, records = await run(split.edge.target, sample, plan)
    assert len(records) == 40
    assert records.row.tolist() == requests.rows[0].tolist()
    assert records.sent_s.tolist() == requests.sent_s[0].tolist()
    assert set(records.place.tolist()) == places
    assert (records.latency_ms > 0).all()
    assert ((records.uplink_bytes > 0) == (records.place == CLOUD)).all()
    assert (records.attempts == 1).all()
    whole = in_process(sample.images[records.row], 1 if plan.edge_only else None, RULE)
    assert records.exit.tolist() == whole.exits.tolist()
    assert records.correct.tolist() == (whole.logits.argmax(1) == sample.labels[records.row]).tolist()


async def test_a_request_that_nobody_answers_is_a_row_too(sample):
    with closed_port() as port:
        _, records = await run(f"127.0.0.1:{port}", sample, Plan(1, RULE), deadline_ms=300)
    assert (records.place == LOST).all()
    assert not records.correct.any()
    assert (records.exit == -1).all()
    assert Report.of(records, 300).lost == 40
    assert all(reason.startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED")) for reason in records.reason)
    assert (records.latency_ms > 50).all()


async def test_every_answer_is_reported_as_it_comes(split, sample):
    seen = []
    await run(split.edge.target, sample, Plan(1, RULE), on_end=seen.append)
    assert sorted(ended.request.number for ended in seen) == list(range(40))
    assert all(len(ended.outcome.predictions) == 1 for ended in seen)


async def test_interleaved_classes_have_their_records_apart(split, sample):
    rows = np.arange(6)
    classes = [
        RequestClass(split.edge.target, Plan(1, RULE, edge_only=True), rows),
        RequestClass(split.edge.target, Plan(0, RULE), rows[:3] + 20),
    ]
    local, raw = await send_interleaved(classes, sample.images, sample.labels)
    assert (local.row.tolist(), set(local.place.tolist())) == ([0, 1, 2, 3, 4, 5], {EDGE})
    assert (raw.row.tolist(), set(raw.place.tolist())) == ([20, 21, 22], {CLOUD})


async def test_a_closed_loop_keeps_so_many_under_way(split, sample):
    under_way = most = 0

    class Counting(AsyncClient):
        async def classify(self, *arguments, **options):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                return await super().classify(*arguments, **options)
            finally:
                under_way -= 1

    lanes = closed_loop(len(sample), 1, 3, requests=30)
    targets, data = {0: split.edge.target}, (sample.images, sample.labels)
    records = await send(lanes, targets, *data, LoadSettings(connect=Counting))
    assert records.row.tolist() == list(range(30))
    assert most == 3


async def test_a_batch_has_a_row_for_each_image(split, sample):
    lanes = closed_loop(len(sample), 1, 2, requests=3)
    records = await send(lanes, {0: split.edge.target}, sample.images, sample.labels, LoadSettings(batch=4))
    assert records.row.tolist() == list(range(12))
    assert len(set(records.latency_ms.tolist())) == 3
    assert records.exit.tolist() == in_process(sample.images[records.row]).exits.tolist()


async def test_what_a_node_refuses_is_raised_or_kept_as_lost(split, sample):
    wrong, lanes = sample.images[:, :, :5], closed_loop(5, 1, 1, requests=4)
    targets = {0: split.edge.target}
    with pytest.raises(InvalidInput, match="shape"):
        await send(lanes, targets, wrong, sample.labels)
    lanes = closed_loop(5, 1, 1, requests=4)
    records = await send(lanes, targets, wrong, sample.labels, LoadSettings(keep_refusals=True))
    assert (records.place == LOST).all()
    assert all(reason.startswith("INVALID_ARGUMENT: ") for reason in records.reason)


async def test_a_stop_ends_it_and_what_is_under_way_is_waited_for(split, sample):
    stop = asyncio.Event()
    ended = []

    def end(one):
        ended.append(one)
        if len(ended) == 10:
            stop.set()

    generator = LoadGenerator({0: split.edge.target}, sample.images, sample.labels, on_end=end)
    await asyncio.wait_for(generator.run(*closed_loop(len(sample), 1, 4), stop=stop), 30)
    assert 10 <= len(generator.records()) == generator.sent.total() <= 13
    assert (generator.records().place != LOST).all()


async def test_a_queue_counts_from_when_requests_were_due(split, sample):
    """Coordinated omission: a stalled node must not look like few slow requests."""
    async with LinkProxy("127.0.0.1", split.edge.port, CLEAR) as way:
        targets, data = {0: f"127.0.0.1:{way.port}"}, (sample.images, sample.labels)
        await send(closed_loop(1, 1, 1, requests=1), targets, *data)
        way.stall()
        asyncio.get_running_loop().call_later(1.0, way.restore)
        records = await send([constant_rate(20, len(sample), 1, seconds=0.5)], targets, *data)
    assert records.sent_s.tolist() == [number / 20 for number in range(10)]
    # The ones that were due later waited less, by as much.
    assert (records.latency_ms > 900 - 1e3 * records.sent_s).all()
