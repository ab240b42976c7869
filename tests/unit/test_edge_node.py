"""The edge with a cloud that works: the answers of the whole network, in order, each with what it cost."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import (
    LENET,
    LIGHT,
    batches,
    many,
    mixing_rule,
    pictures,
    random_network,
    rules,
    some,
    title,
)
from node_examples import IMAGES, LIMITS, SENT_BYTES, FailingUplink, WorkingUplink, check_answers, mixed, whole_answers

from branchynet.errors import InvalidInput, TooLarge, Unavailable
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.models.architectures import Architecture
from branchynet.serving.prediction import Place, Policy
from edge_node.answers import shares
from edge_node.node import EdgeNode
from edge_node.version import EdgeVersion


@pytest.mark.parametrize("architecture", [*LIGHT, Architecture("b-resnet-110")], ids=title)
@pytest.mark.parametrize("policy", [Policy.SPLIT, Policy.CLOUD_ONLY])
async def test_edge_and_cloud_answer_like_the_whole_network_at_every_cut(architecture, policy, nodes):
    images = pictures(architecture, random_network(architecture).exits, seed=4)
    rule = mixing_rule(random_network(architecture), images)
    expected = whole_answers(architecture, images, rule)
    assert len(set(expected[0].exits)) == random_network(architecture).exits
    uplink = WorkingUplink(nodes.cloud(architecture))
    for cut in range(1, random_network(architecture).total_stages + 1):
        predictions = await nodes(uplink, architecture, cut).classify(images, rule=rule, policy=policy)
        check_answers(predictions, *expected)
        for prediction in predictions:
            local = policy is Policy.SPLIT and prediction.exit < cut
            assert prediction.place is (Place.EDGE if local else Place.CLOUD)


def test_any_batch_under_any_rule_is_answered_like_the_whole_network(nodes):
    uplink = WorkingUplink(nodes.cloud())
    edge = nodes(uplink)

    @some
    @given(st.data())
    def check(data):
        images = data.draw(batches(LENET, 10))
        rule = data.draw(rules(random_network(), images))
        check_answers(asyncio.run(edge.classify(images, rule=rule)), *whole_answers(LENET, images, rule))

    check()


async def test_only_the_doubtful_are_sent(nodes):
    rule, uplink = mixed(), WorkingUplink(nodes.cloud())
    predictions = await nodes(uplink).classify(IMAGES, rule=rule)
    (call,) = uplink.calls
    cut, tensor, sent_rule, timeout_ms = call
    assert (cut, sent_rule, timeout_ms) == (1, None, LIMITS.timeout_ms)
    assert tensor.dtype == np.float32
    edge_alone = random_network().part(0, 1).resume(IMAGES, 0, 1, rule)
    np.testing.assert_array_equal(tensor, edge_alone.features)
    cloud = [number for number, prediction in enumerate(predictions) if prediction.place is Place.CLOUD]
    assert cloud == edge_alone.remaining.tolist()
    assert len(cloud) == 6


@pytest.mark.parametrize(("cut", "goes_along"), [(1, True), (2, False)])
async def test_the_requests_rule_goes_along_where_it_still_decides(cut, goes_along, nodes):
    architecture = Architecture("b-alexnet")
    images = pictures(architecture, 4)
    rule, uplink = ExitRule.never(3), WorkingUplink(nodes.cloud(architecture))
    answers = await nodes(uplink, architecture, cut).classify(images, rule=rule)
    assert uplink.calls[0][2] == (rule if goes_along else None)
    check_answers(answers, *whole_answers(architecture, images, rule))


async def test_cloud_only_sends_the_raw_images(nodes):
    uplink = WorkingUplink(nodes.cloud())
    predictions = await nodes(uplink).classify(IMAGES, rule=mixed(), policy=Policy.CLOUD_ONLY)
    (call,) = uplink.calls
    assert call[0] == 0
    assert call[1].dtype == np.uint8
    np.testing.assert_array_equal(call[1], IMAGES)
    assert all((p.place, p.edge_ms) == (Place.CLOUD, 0) for p in predictions)


async def test_the_artifacts_rule_counts_when_the_request_has_none(nodes):
    edge = nodes(WorkingUplink(nodes.cloud()))
    check_answers(await edge.classify(IMAGES), *whole_answers(LENET, IMAGES, edge.served.rule))


@pytest.mark.parametrize("threshold", [Criterion.ENTROPY.always, Criterion.ENTROPY.never])
async def test_the_cloud_is_asked_only_if_somebody_stays(threshold, nodes):
    uplink = WorkingUplink(nodes.cloud())
    await nodes(uplink).classify(IMAGES, rule=ExitRule(Criterion.ENTROPY, (threshold,)))
    assert [len(tensor) for _, tensor, _, _ in uplink.calls] == ([] if threshold else [len(IMAGES)])


async def test_edge_only_never_asks_and_the_last_exit_here_answers_the_rest(nodes):
    uplink = FailingUplink(Unavailable("must not be asked"))
    predictions = await nodes(uplink).classify(IMAGES, rule=mixed(), policy=Policy.EDGE_ONLY)
    assert not uplink.calls
    check_answers(predictions, *whole_answers(LENET, IMAGES, mixed(), stages=1))
    assert all((p.place, p.uplink_bytes, p.fallback_reason) == (Place.EDGE, 0, "") for p in predictions)


async def test_an_edge_that_holds_every_stage_never_asks(nodes):
    uplink = FailingUplink(Unavailable("must not be asked"))
    predictions = await nodes(uplink, cut=2).classify(IMAGES, rule=mixed())
    assert not uplink.calls
    check_answers(predictions, *whole_answers(LENET, IMAGES, mixed()))


async def test_times_and_bytes_say_what_each_answer_cost(nodes):
    predictions = await nodes(WorkingUplink(nodes.cloud())).classify(IMAGES, rule=mixed())
    cloud = [p for p in predictions if p.place is Place.CLOUD]
    edge = [p for p in predictions if p.place is Place.EDGE]
    assert sum(p.uplink_bytes for p in cloud) == SENT_BYTES
    assert {p.uplink_bytes for p in cloud} == {167, 168}, "1,003 bytes over six samples"
    assert {(p.cloud_ms, p.network_ms) for p in cloud} == {(3.0, 7.0)}
    assert {(p.cloud_ms, p.network_ms, p.uplink_bytes) for p in edge} == {(0, 0, 0)}
    assert len({p.edge_ms for p in predictions}) == 1
    assert predictions[0].edge_ms > 0


@given(total=st.integers(0, 10**9), waiting=st.integers(1, 12))
@many
def test_uplink_shares_always_add_up(total, waiting):
    parts = shares(total, waiting)
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


async def test_requests_in_flight_together_keep_their_own_answers(nodes):
    edge = nodes(WorkingUplink(nodes.cloud()))
    requests = [(pictures(LENET, 3 + number, seed=number), Policy(policy)) for number, policy in enumerate(Policy)] * 4
    answered = await asyncio.gather(*(edge.classify(images, policy=policy) for images, policy in requests))
    for (images, policy), predictions in zip(requests, answered, strict=True):
        stages = 1 if policy is Policy.EDGE_ONLY else None
        check_answers(predictions, *whole_answers(LENET, images, edge.served.rule, stages))


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "error", "complaint"),
    [
        (IMAGES.astype(np.float32), InvalidInput, "images: dtype is float32"),
        (IMAGES[:, 0], InvalidInput, r"images: shape is \(12, 28, 28\)"),
        (pictures(Architecture("b-alexnet"), 2), InvalidInput, r"must be \(batch, 1, 28, 28\)"),
        (IMAGES[:0], InvalidInput, "images: the batch is empty"),
        (pictures(LENET, 65), TooLarge, "images: the batch holds 65 samples, this node takes at most 64"),
    ],
)
@pytest.mark.parametrize("policy", Policy)
async def test_a_batch_that_does_not_fit_is_refused_before_anything_runs(images, error, complaint, policy, nodes):
    uplink = FailingUplink(Unavailable("must not be asked"))
    edge = nodes(uplink)
    with pytest.raises(error, match=complaint):
        await edge.classify(images, policy=policy)
    assert not uplink.calls
    assert len(await edge.classify(IMAGES)) == len(IMAGES), "the node goes on"


@pytest.mark.parametrize("count", [0, 2])
async def test_a_rule_that_does_not_fit_is_refused(count, nodes):
    with pytest.raises(InvalidInput, match=f"{count} thresholds, a network with 2 exits needs 1"):
        await nodes(None).classify(IMAGES, rule=ExitRule(Criterion.ENTROPY, (0.5,) * count))


async def test_a_read_only_batch_is_fine_and_stays_as_it_is(nodes):
    buffer = IMAGES.tobytes()
    images = np.frombuffer(buffer, np.uint8).reshape(IMAGES.shape)
    check_answers(await nodes(None, cut=2).classify(images, rule=mixed()), *whole_answers(LENET, IMAGES, mixed()))
    assert images.tobytes() == IMAGES.tobytes()


@pytest.mark.parametrize(("first", "last", "complaint"), [(1, 2, "must start at stage 0"), (0, 0, "needs an exit")])
def test_a_half_that_cannot_be_an_edge_is_refused(first, last, complaint, loaded):
    with pytest.raises(InvalidInput, match=complaint):
        EdgeNode(EdgeVersion(*loaded(LENET, first, last), None, LIMITS, 64))


def test_an_edge_describes_itself(nodes):
    served = nodes(None).served
    assert (served.model, served.stages, served.total_stages, served.max_batch) == ("example", (0, 1), 2, 64)
    assert served.input_shape == (1, 28, 28)
    assert len(served.labels) == 10
