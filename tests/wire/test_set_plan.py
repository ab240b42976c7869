"""A plan that is set over the control service: later answers are by it, those under way by the plan they began with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from running_nodes import Gate, Split, computing, eventually, in_process, serving_cloud, serving_edge, serving_split
from triton_calls import aio_client

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.errors import ArtifactMismatch, BranchyNetError, InvalidInput, Unavailable
from branchynet.exits.rules import ExitRule
from branchynet.placement.plan import Plan
from branchynet.rpc.control import get_plan, set_plan
from branchynet.serving.prediction import Place, Prediction

PLAN_SETTINGS = ("criterion", "thresholds", "cut", "codec", "edge_only")
OWN = Artifact.open("lenet-fashion").manifest.rule


@pytest.fixture
async def split() -> AsyncIterator[Split]:
    async with serving_split(control=True, cut=2) as running:
        await set_plan(running.edge.target, Plan(1, OWN))
        yield running


def check(answers: list[Prediction], sample: Dataset, rule: ExitRule, stages: int | None = None) -> None:
    """Each answer has the exit and the label that the first *stages* stages (all) have under *rule*."""
    expected = in_process(sample.images[: len(answers)], stages, rule)
    assert [answer.exit for answer in answers] == expected.exits.tolist()
    assert [answer.label for answer in answers] == expected.logits.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("plan", "places"),
    [
        (Plan(1, OWN.with_thresholds((1e9,))), {Place.EDGE}),
        (Plan(1, OWN.with_thresholds((0.0,))), {Place.CLOUD}),
        (Plan(1, OWN.with_thresholds((0.3,)), codec="fp32+zstd"), {Place.EDGE, Place.CLOUD}),
        (Plan(0, OWN), {Place.CLOUD}),
        (Plan(2, ExitRule("margin", (0.5,)), edge_only=True), {Place.EDGE}),
    ],
    ids=["all at the edge", "all in the cloud", "some of each", "images", "edge only"],
)
async def test_answers_are_by_the_plan_that_was_set(
    split: Split, sample: Dataset, plan: Plan, places: set[Place]
) -> None:
    await set_plan(split.edge.target, plan, split.edge.node.served.content_hash)
    assert await get_plan(split.edge.target) == plan
    assert (await split.client.describe()).rule == plan.rule
    async with aio_client(split.edge.target) as stranger:
        told = (await stranger.get_model_config("lenet-fashion")).config.parameters
    assert {name: told[name].string_value for name in PLAN_SETTINGS} == {
        "criterion": plan.rule.criterion.value,
        "thresholds": ",".join(map(str, plan.rule.thresholds)),
        "cut": str(plan.cut),
        "codec": plan.codec,
        "edge_only": "true" if plan.edge_only else "false",
    }
    split.seen.clear()
    answers = await split.client.classify(sample.images[:60])
    check(answers, sample, plan.rule)
    assert {answer.place for answer in answers} == places
    assert [call.samples for call in split.seen] == [
        count for count in [sum(answer.place is Place.CLOUD for answer in answers)] if count
    ]


async def test_the_codec_of_a_plan_is_what_crosses_the_cut(split: Split, sample: Dataset) -> None:
    sizes = {}
    for plan in (Plan(1, OWN), Plan(1, OWN, codec="uint4"), Plan(0, OWN), Plan(0, OWN, codec="raw+zstd")):
        await set_plan(split.edge.target, plan)
        split.seen.clear()
        await split.client.classify(sample.images[:20], rule=ExitRule.never(2))
        [sizes[plan.codec]] = [call.size_bytes for call in split.seen]
    assert sizes["uint4"] < sizes["fp32"] / 6
    assert sizes["raw+zstd"] < sizes["raw"]


REFUSED: dict[str, tuple[Plan, str, type[BranchyNetError], str]] = {
    "a cut that is not held": (Plan(3, OWN), "", InvalidInput, r"the plan's cut is 3; this edge holds stages \[0, 2\)"),
    "a rule for another network": (Plan(1, ExitRule.never(4)), "", InvalidInput, "the rule has 3 thresholds"),
    "a codec that is none": (Plan(1, OWN, codec="mp3"), "", InvalidInput, "codec 'mp3' is unknown"),
    "a codec for images at a map": (Plan(1, OWN, codec="png"), "", InvalidInput, "png"),
    "another artifact's plan": (Plan(1, OWN), "ab" * 32, ArtifactMismatch, "abab"),
}


@pytest.mark.parametrize("mistake", REFUSED)
async def test_a_plan_that_cannot_be_carried_out_is_refused_and_nothing_changes(
    split: Split, sample: Dataset, mistake: str
) -> None:
    plan, content_hash, error, complaint = REFUSED[mistake]
    with pytest.raises(error, match=complaint):
        await set_plan(split.edge.target, plan, content_hash)
    assert await get_plan(split.edge.target) == Plan(1, OWN)
    check(await split.client.classify(sample.images[:20]), sample, OWN)


async def test_a_request_under_way_ends_by_the_plan_it_began_with(split: Split, sample: Dataset) -> None:
    gate = Gate(split.edge.network)
    under_way = asyncio.create_task(split.client.classify(sample.images[:20]))
    await eventually(computing(gate), "the edge computes")
    later = OWN.with_thresholds((1e9,))
    await set_plan(split.edge.target, Plan(2, later, edge_only=True))
    gate.open()
    answers = await under_way
    check(answers, sample, OWN)
    assert Place.CLOUD in {answer.place for answer in answers}
    check(await split.client.classify(sample.images[:20]), sample, later, stages=1)


async def test_who_has_no_plan_or_takes_no_orders_says_so() -> None:
    async with serving_cloud(control=True) as cloud, serving_edge(cloud.target) as edge:
        with pytest.raises(Unavailable, match=f"{cloud.target} has no plan: it is a cloud"):
            await set_plan(cloud.target, Plan(1, OWN))
        with pytest.raises(Unavailable, match=f"{cloud.target} has no plan: it is a cloud"):
            await get_plan(cloud.target)
        with pytest.raises(Unavailable, match=f"{edge.target} takes no orders; start it with --control"):
            await set_plan(edge.target, Plan(1, OWN))


async def test_a_slow_edge_takes_as_much_longer_and_answers_alike(sample: Dataset) -> None:
    slowdown = 20
    async with serving_edge(cut=2) as quick, serving_edge(cut=2, slowdown=slowdown) as slow:
        spent: dict[str, float] = {}
        for edge in (quick, slow, quick, slow):
            answers = await edge.client.classify(sample.images[:20])
            check(answers, sample, OWN)
            spent[edge.target] = answers[0].edge_ms  # the second call; the first pays for the choice of kernels
    assert spent[slow.target] > 4 * spent[quick.target]
