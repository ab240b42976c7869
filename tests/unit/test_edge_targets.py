"""A request that names an accuracy is served by the cheapest thresholds that have it, wherever the exits lie."""

import pytest
from network_examples import LENET
from node_examples import IMAGES, LIMITS, WorkingUplink, check_answers, mixed, whole_answers

from branchynet.errors import InvalidInput
from branchynet.exits.operating_points import OperatingPoint
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.placement.plan import Plan
from branchynet.serving.prediction import Place, Policy
from edge_node.node import EdgeNode
from edge_node.version import EdgeVersion

ALWAYS, NEVER = Criterion.ENTROPY.always, Criterion.ENTROPY.never
POINTS = (
    OperatingPoint((ALWAYS,), 0.8, 10.0),
    OperatingPoint(mixed().thresholds, 0.85, 20.0),
    OperatingPoint((NEVER,), 0.9, 40.0),
)


@pytest.fixture
def pointed(nodes, loaded):
    """Makes an edge of an artifact with operating points, and its uplink."""
    made = []

    def of(stages=1):
        artifact, network = loaded(LENET, 0, stages)
        recorded = {"calibration": {"operating_points": [point.to_json() for point in POINTS]}}
        uplink = WorkingUplink(nodes.cloud())
        made.append(EdgeNode(EdgeVersion(artifact.with_results(recorded), network, uplink, LIMITS, 64)))
        return made[-1], uplink

    yield of
    for edge in made:
        edge.close()


@pytest.mark.parametrize(("target", "point"), [(0.5, 0), (0.8, 0), (0.81, 1), (0.85, 1), (0.9, 2)])
async def test_a_target_is_served_by_its_points_thresholds(target, point, pointed):
    edge, uplink = pointed()
    before = edge.plan
    rule = ExitRule(Criterion.ENTROPY, POINTS[point].thresholds)
    check_answers(await edge.classify(IMAGES, accuracy_target=target), *whole_answers(LENET, IMAGES, rule))
    assert len(uplink.calls) == (point > 0)
    assert edge.plan is before, "for this request only"


@pytest.mark.parametrize("policy", [Policy.SPLIT, Policy.CLOUD_ONLY])
async def test_it_holds_wherever_the_work_is_done(policy, pointed):
    edge, uplink = pointed()
    edge.adopt(Plan(1, ExitRule(Criterion.MARGIN, (0.5,)), edge_only=True))
    answers = await edge.classify(IMAGES, accuracy_target=0.9, policy=policy)
    check_answers(answers, *whole_answers(LENET, IMAGES, ExitRule.never(2)))
    assert {answer.place for answer in answers} == {Place.CLOUD}
    assert uplink.calls[0][0] == (0 if policy is Policy.CLOUD_ONLY else 1)


async def test_an_edge_that_holds_the_whole_network_needs_no_cloud_for_it(pointed):
    edge, uplink = pointed(stages=2)
    edge.adopt(Plan(1, mixed()))
    answers = await edge.classify(IMAGES, accuracy_target=0.9, policy=Policy.EDGE_ONLY)
    check_answers(answers, *whole_answers(LENET, IMAGES, ExitRule.never(2)))
    assert not uplink.calls


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"accuracy_target": 0.91}, r"accuracy_target is 0\.91; the best .* is 0\.9$"),
        ({"accuracy_target": 90.0}, "must be a share of right answers, 0 to 1"),
        ({"accuracy_target": float("nan")}, "must be a share"),
        ({"accuracy_target": 0.8, "rule": mixed()}, "brings one of them"),
        ({"accuracy_target": 0.8, "policy": Policy.EDGE_ONLY}, r"policy edge-only; .* \[0, 1\)"),
    ],
)
async def test_targets_that_cannot_be_met_are_refused(options, complaint, pointed):
    edge, uplink = pointed()
    with pytest.raises(InvalidInput, match=complaint):
        await edge.classify(IMAGES, **options)
    assert not uplink.calls


async def test_an_artifact_without_points_names_the_command_that_makes_them(nodes):
    with pytest.raises(InvalidInput, match="no operating points; `branchynet calibrate --keep-rule` records them"):
        await nodes(None).classify(IMAGES, accuracy_target=0.8)
