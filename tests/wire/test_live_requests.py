"""The requests of a scenario through real nodes become the records that the simulator would write."""

import pytest
from running_nodes import closed_port, in_process

from branchynet.decisions.exits import Criterion, ExitRule
from branchynet.decisions.plans import Plan
from branchynet.errors import InvalidInput
from orchestrator.live import policy_of, send_requests
from simulations.records import CLOUD, EDGE, LOST
from simulations.scenarios import Scenario, Workload
from simulations.workload import requests_of

RULE = ExitRule(Criterion.ENTROPY, (0.3,))
SCENARIO = Scenario(workload=Workload(rate_per_s=100, requests=40))


async def run(target, sample, plan, **options):
    requests = requests_of(SCENARIO, 0, len(sample))
    records = await send_requests(
        requests, {0: target}, sample.images, sample.labels, plan, cloud=0, **{"deadline_ms": 10_000, **options}
    )
    return requests, records


@pytest.mark.parametrize(
    ("plan", "places"),
    [
        (Plan(1, RULE), {EDGE, CLOUD}),
        (Plan(0, RULE), {CLOUD}),
        (Plan(1, RULE, local_only=True), {EDGE}),
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
    whole = in_process(sample.images[records.row], 1 if plan.local_only else None, RULE)
    assert records.exit.tolist() == whole.exits.tolist()
    assert records.correct.tolist() == (whole.logits.argmax(1) == sample.labels[records.row]).tolist()


async def test_a_request_that_nobody_answers_is_a_row_too(sample):
    with closed_port() as port:
        _, records = await run(f"127.0.0.1:{port}", sample, Plan(1, RULE), deadline_ms=300)
    assert (records.place == LOST).all()
    assert not records.correct.any()
    assert (records.exit == -1).all()
    assert records.summary(300)["lost"] == 40
    assert (records.latency_ms > 50).all()


async def test_every_answer_is_reported_as_it_comes(split, sample):
    seen = []
    await run(split.edge.target, sample, Plan(1, RULE), on_answer=lambda delivery, edge: seen.append((delivery, edge)))
    assert len(seen) == 40
    assert {edge for _, edge in seen} == {0}


def test_a_plan_becomes_the_policy_that_carries_it_out():
    assert policy_of(Plan(1, RULE)).value == "split"
    assert policy_of(Plan(0, RULE)).value == "cloud-only"
    assert policy_of(Plan(0, RULE, local_only=True)).value == "edge-only"
    with pytest.raises(InvalidInput, match="codec is 'uint8' at cut 1; here it can only be 'fp32'"):
        policy_of(Plan(1, RULE, codec="uint8"))
