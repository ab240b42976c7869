"""An edge changes its plan between two requests: each is answered by the plan that it began under, none is lost."""

import asyncio
import dataclasses

import numpy as np
import pytest
from network_examples import LENET, mixing_rule, pictures, random_network
from node_examples import IMAGES, Clock, FailingUplink, WorkingUplink, check_answers, mixed, whole_answers

from branchynet.codecs import Payload
from branchynet.data.datasets import Dataset
from branchynet.errors import DeadlineExceeded, InvalidInput, Unavailable
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.drift import Reference
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.models.architectures import Architecture
from branchynet.placement.candidates import Candidates
from branchynet.placement.plan import Plan
from branchynet.placement.replanner import Adaptation, Replanner
from branchynet.placement.serving_profile import Link, ServingProfile, StageTimes
from branchynet.serving.prediction import Place, Policy
from edge_node.drift_watcher import Watcher
from edge_node.uplink import OffloadFailed

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
    edge.adopt(Plan(1, RULE, edge_only=True))
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
        Plan(2, RULE, edge_only=True),
    ]
    running = []
    for plan in plans * 3:
        edge.adopt(plan)
        running.append(asyncio.create_task(edge.classify(PICTURES)))
        await asyncio.sleep(0.001)  # lets the request begin
    for plan, answers in zip(plans * 3, await asyncio.gather(*running), strict=True):
        stages = 2 if plan.edge_only else None
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


# --- following a replanner ---------------------------------------------------------------------------------

LINK = Link(5.0, rtt_ms=20.0)
EDGE_TIMES = StageTimes((1,), ((1.0,), (200.0,), (400.0,)))
CLOUD_TIMES = StageTimes((1,), ((0.5,), (2.0,), (4.0,)))


class Wire(WorkingUplink):
    """A cloud behind a link that takes as long as it is told; the clock goes on by it."""

    def __init__(self, cloud, clock):
        super().__init__(cloud)
        self.clock, self.network_ms, self.queue_ms, self.error = clock, 20.0, 0.0, None

    async def resume(self, *args):
        self.clock.pass_ms(self.network_ms + self.queue_ms)
        if self.error is not None:
            raise self.error
        answers = await super().resume(*args)
        took = {"round_trip_ms": self.network_ms + self.queue_ms + 1, "cloud_ms": self.queue_ms + 1}
        return dataclasses.replace(answers, queue_ms=self.queue_ms, **took)


@pytest.fixture
def following(nodes, loaded):
    """An edge that follows a replanner, its wire and its clock."""
    artifact, network = loaded(ALEXNET)
    # What the second exit says is right: the edge has it, but takes long to get there.
    labels = whole_answers(ALEXNET, PICTURES, ExitRule.never(3), stages=2)[0].logits.argmax(1)
    dataset = Dataset("pictures", PICTURES, labels, tuple(map(str, range(10))), "test", "made here")
    table = measure_outcomes(network, artifact.manifest.cost, dataset)
    profile = ServingProfile(EDGE_TIMES, CLOUD_TIMES, (0, 1, 2), 2, 1.0, 1.0, (3_200, 32_900, 16_500), 60, 130)
    clock = Clock()
    wire = Wire(nodes.cloud(ALEXNET), clock)
    edge = nodes(wire, ALEXNET, cut=2, clock_s=clock)
    candidates = Candidates.of(table, RULE, profile)
    replanner = Replanner(candidates, profile, LINK, Adaptation(1.0, period_s=0.5, probe_after_s=5.0), clock())
    edge.follow(replanner)
    return edge, wire, clock


async def served(edge, clock, requests):
    """Answers to *requests* requests a second apart, and the plans they were served by."""
    plans = []
    for _ in range(requests):
        clock.pass_ms(1_000)
        answers = await edge.classify(PICTURES)
        assert len(answers) == len(PICTURES)
        plans.append(edge.plan)
    return plans


async def test_an_edge_leaves_a_link_that_becomes_slow_and_comes_back(following):
    edge, wire, clock = following
    before = await served(edge, clock, 5)
    assert not before[-1].edge_only
    wire.network_ms = 4_000.0
    assert (await served(edge, clock, 12))[-1].edge_only
    wire.network_ms = 20.0
    after = await served(edge, clock, 40)
    assert not after[-1].edge_only
    assert edge.served.rule == edge.plan.rule


async def test_offloads_that_fail_or_wait_in_the_cloud_lead_away_from_it_too(following):
    edge, wire, clock = following
    wire.queue_ms = 3_000.0
    assert (await served(edge, clock, 12))[-1].edge_only
    wire.queue_ms, wire.network_ms = 0.0, 2_000.0
    wire.error = OffloadFailed(DeadlineExceeded("late"), 3_200)
    plans = await served(edge, clock, 20)
    assert np.mean([plan.edge_only for plan in plans[5:]]) > 0.5


async def test_a_rule_of_the_request_goes_by_the_plans_cut(following):
    edge, wire, _ = following
    answers = await edge.classify(PICTURES, rule=ExitRule.never(3))
    check_answers(answers, *whole_answers(ALEXNET, PICTURES, ExitRule.never(3)))
    assert wire.calls[-1][0] == edge.plan.cut


def test_two_that_move_the_rule_are_one_too_many(loaded, nodes, following):
    artifact, network = loaded(ALEXNET)
    dataset = Dataset("pictures", PICTURES, np.zeros(12, np.int64), tuple(map(str, range(10))), "test", "made here")
    reference = Reference.of(measure_outcomes(network, artifact.manifest.cost, dataset), artifact.manifest.rule)
    edge = nodes(None, ALEXNET, cut=2)
    edge.watch(Watcher(reference, 2, 0.8))
    with pytest.raises(InvalidInput, match="a watcher keeps"):
        edge.follow(following[0].versions.current.replanner)
    with pytest.raises(InvalidInput, match="moves its thresholds by --keep-exit-share"):
        edge.set_plan(Plan(1, RULE))
    with pytest.raises(InvalidInput, match="chooses its plan by --adapt"):
        following[0].set_plan(Plan(1, RULE))


async def test_a_rule_by_another_criterion_is_not_held_against_calibration(loaded, nodes):
    artifact, network = loaded(ALEXNET)
    manifest = artifact.manifest
    dataset = Dataset("pictures", PICTURES, np.zeros(12, np.int64), tuple(map(str, range(10))), "test", "made here")
    watcher = Watcher(Reference.of(measure_outcomes(network, manifest.cost, dataset), manifest.rule), 2)
    edge = nodes(None, ALEXNET, cut=2)
    edge.watch(watcher)
    for rule, seen in ((ExitRule(Criterion.MARGIN, (0.5, 0.5)), 0), (manifest.rule.with_thresholds((0.5, 0.5)), 24)):
        edge.set_plan(Plan(2, rule))
        for _ in range(2):
            await edge.classify(PICTURES)
        assert watcher.gauges()["exit_0_samples"] == seen


async def test_images_go_as_the_plan_says_also_for_who_asks_the_cloud(nodes):
    uplink = WorkingUplink(nodes.cloud(ALEXNET))
    edge = nodes(uplink, ALEXNET, cut=2, image_codec="png")
    edge.set_plan(Plan(0, RULE, codec="raw+zstd"))
    for policy in (Policy.SPLIT, Policy.CLOUD_ONLY):
        await edge.classify(PICTURES, policy=policy)
    assert [sent.codec for _, sent, *_ in uplink.calls] == ["raw+zstd"] * 2
