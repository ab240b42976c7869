"""An edge changes its plan between two requests: each is answered by the plan that it began under, none is lost."""

import asyncio

import numpy as np
import pytest
from network_examples import LENET, mixing_rule, pictures, random_network
from node_examples import IMAGES, FailingUplink, WorkingUplink, check_answers, mixed, whole_answers

from branchynet.codecs import Payload
from branchynet.decisions.exits import ExitRule
from branchynet.decisions.plans import Plan
from branchynet.errors import InvalidInput, Unavailable
from branchynet.models import Architecture
from branchynet.prediction import Place, Policy

ALEXNET = Architecture("b-alexnet")
PICTURES = pictures(ALEXNET, 12)
RULE = mixing_rule(random_network(ALEXNET), PICTURES)


@pytest.mark.parametrize("cut", [0, 1, 2])
@pytest.mark.parametrize("codec", ["", "+zstd"])
async def test_whatever_the_plan_the_answers_are_those_of_the_whole_network(cut, codec, nodes):
    uplink = WorkingUplink(nodes.cloud(ALEXNET))
    edge = nodes(uplink, ALEXNET, cut=2)
    edge.adopt(Plan(cut, RULE, codec=("fp32" if cut else "raw") + codec))
    check_answers(await edge.classify(PICTURES), *whole_answers(ALEXNET, PICTURES, RULE))
    assert uplink.calls[0][0] == cut
    assert isinstance(uplink.calls[0][1], Payload) == bool(codec)
    assert edge.served.rule == edge.plan.rule == RULE


async def test_a_local_plan_runs_all_that_is_held_and_asks_nobody(nodes):
    edge = nodes(FailingUplink(Unavailable("must not be asked")), ALEXNET, cut=2)
    edge.adopt(Plan(1, RULE, local_only=True))
    answers = await edge.classify(PICTURES)
    check_answers(answers, *whole_answers(ALEXNET, PICTURES, RULE, stages=2))
    assert {answer.place for answer in answers} == {Place.EDGE}


@pytest.mark.parametrize("cut", [0, 1])
async def test_policies_of_a_request_are_above_the_plan(cut, nodes):
    uplink = WorkingUplink(nodes.cloud(ALEXNET))
    edge = nodes(uplink, ALEXNET, cut=2, image_codec="png")
    edge.adopt(Plan(cut, RULE))
    local = await edge.classify(PICTURES, policy=Policy.EDGE_ONLY)
    check_answers(local, *whole_answers(ALEXNET, PICTURES, RULE, stages=2))
    assert not uplink.calls
    await edge.classify(PICTURES, policy=Policy.CLOUD_ONLY)
    assert (uplink.calls[0][0], uplink.calls[0][1].codec) == (0, "png")


async def test_a_request_ends_by_the_plan_it_began_under(nodes):
    class Slow(WorkingUplink):
        async def resume(self, *args):
            await asyncio.sleep(0.05)
            return await super().resume(*args)

    uplink = Slow(nodes.cloud(ALEXNET))
    edge = nodes(uplink, ALEXNET, cut=2)
    plans = [
        Plan(2, RULE),
        Plan(1, ExitRule.never(3), codec="fp32+zstd"),
        Plan(0, RULE),
        Plan(2, RULE, local_only=True),
    ]
    running = []
    for plan in plans * 3:
        edge.adopt(plan)
        running.append(asyncio.create_task(edge.classify(PICTURES)))
        await asyncio.sleep(0.001)  # lets the request begin
    for plan, answers in zip(plans * 3, await asyncio.gather(*running), strict=True):
        stages = 2 if plan.local_only else None
        check_answers(answers, *whole_answers(ALEXNET, PICTURES, plan.rule, stages))
    assert sorted(call[0] for call in uplink.calls) == [0] * 3 + [1] * 3 + [2] * 3


@pytest.mark.parametrize("cut", [0, 1])
async def test_without_the_cloud_the_edge_answers_with_what_the_plan_ran(cut, nodes):
    edge = nodes(FailingUplink(Unavailable("away")), ALEXNET, cut=2)
    edge.adopt(Plan(cut, ExitRule.never(3)))
    answers = await edge.classify(PICTURES)
    assert {answer.place for answer in answers} == {Place.FALLBACK}
    assert {answer.exit for answer in answers} == {0 if cut else 1}


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        (Plan(2, mixed()), r"cut is 2; this edge holds stages \[0, 1\)"),
        (Plan(-1, mixed()), "cut is -1"),
        (Plan(1, ExitRule.never(3)), "thresholds"),
        (Plan(1, mixed(), codec="gzip"), "'gzip' is unknown"),
        (Plan(1, mixed(), codec="png"), "at cut 1 there are"),
        (Plan(0, mixed(), codec="uint8"), "at cut 0 there are"),
    ],
)
async def test_a_plan_that_does_not_fit_is_refused_and_the_old_one_stays(plan, complaint, nodes):
    edge = nodes(WorkingUplink(nodes.cloud()), LENET)
    before = edge.plan
    with pytest.raises(InvalidInput, match=complaint):
        edge.adopt(plan)
    assert edge.plan is before
    assert len(await edge.classify(IMAGES)) == len(IMAGES)


def test_an_edge_starts_with_all_its_stages_and_the_artifacts_rule(nodes):
    edge = nodes(None, ALEXNET, cut=2)
    assert edge.plan == Plan(2, edge.served.rule)
    np.testing.assert_array_equal(edge.served.stages, (0, 2))
