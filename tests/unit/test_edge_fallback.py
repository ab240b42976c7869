"""Exactly one answer for each image however the cloud fails, and no more waiting than the deadline has room for."""

import math

import numpy as np
import pytest
from network_examples import LENET
from node_examples import (
    IMAGES,
    LIMITS,
    SENT_BYTES,
    Clock,
    FailingUplink,
    WorkingUplink,
    WrongUplink,
    check_answers,
    mixed,
    whole_answers,
)

from branchynet.errors import ArtifactMismatch, BranchyNetError, DeadlineExceeded, Unavailable
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.placement.offload_deadline import OffloadLimits
from branchynet.serving.prediction import Place, Policy
from edge_node.uplink import OffloadFailed

FAILURES = [
    Unavailable("the cloud is away"),
    ArtifactMismatch("other halves"),
    BranchyNetError("its own mistake"),
    OffloadFailed(Unavailable("torn off"), SENT_BYTES),
]


def thresholds(leaving):
    return {"all": Criterion.ENTROPY.always, "none": Criterion.ENTROPY.never, "some": mixed().thresholds[0]}[leaving]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: f"{type(error).__name__}-{error.grpc_status}")
@pytest.mark.parametrize("leaving", ["all", "some", "none"])
@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("cut", [1, 2])
async def test_nothing_is_lost_when_the_cloud_fails(error, leaving, policy, cut, nodes):
    rule = ExitRule(Criterion.ENTROPY, (thresholds(leaving),))
    uplink = FailingUplink(error)
    predictions = await nodes(uplink, cut=cut).classify(IMAGES, rule=rule, policy=policy)
    progress, probabilities = whole_answers(LENET, IMAGES, rule, stages=cut)
    check_answers(predictions, progress, probabilities)
    cloud_only = policy is Policy.CLOUD_ONLY
    unanswered = set(range(len(IMAGES)) if cloud_only else [] if policy is Policy.EDGE_ONLY else progress.remaining)
    assert bool(uplink.calls) == bool(unanswered)
    for number, prediction in enumerate(predictions):
        fallen = number in unanswered
        assert prediction.place is (Place.FALLBACK if fallen else Place.EDGE)
        assert prediction.fallback_reason == (f"{error.grpc_status}: {error}" if fallen else "")
        assert prediction.cloud_ms == 0
    sent = SENT_BYTES if isinstance(error, OffloadFailed) and unanswered else 0
    assert sum(p.uplink_bytes for p in predictions) == sent


@pytest.mark.parametrize("policy", [Policy.SPLIT, Policy.CLOUD_ONLY])
async def test_an_edge_without_a_cloud_answers_alone_and_says_so(policy, nodes):
    predictions = await nodes(None).classify(IMAGES, rule=ExitRule.never(2), policy=policy)
    check_answers(predictions, *whole_answers(LENET, IMAGES, ExitRule.never(2), stages=1))
    assert {p.fallback_reason for p in predictions} == {"UNAVAILABLE: this edge was given no cloud"}


def rows(answers, chosen):
    return {"exits": answers.exits[chosen], "logits": answers.logits[chosen]}


WRONG = {
    "too few": lambda answers: rows(answers, slice(1, None)),
    "none": lambda answers: rows(answers, slice(0)),
    "too many": lambda answers: rows(answers, [0, *range(len(answers.exits))]),
    "fewer logits than exits": lambda answers: {"logits": answers.logits[1:]},
    "fewer exits than logits": lambda answers: {"exits": answers.exits[1:]},
    "more classes": lambda answers: {"logits": np.zeros((len(answers.exits), 12), np.float32)},
    "no class dimension": lambda answers: {"logits": answers.logits[:, 0]},
    "one dimension more": lambda answers: {"logits": answers.logits[:, None]},
    "NaN": lambda answers: {"logits": answers.logits * np.float32("nan")},
    "infinity": lambda answers: {"logits": answers.logits + np.float32("inf")},
    "an exit that does not exist": lambda answers: {"exits": answers.exits + 7},
    "an exit before the cut": lambda answers: {"exits": answers.exits - 1},
    "times that are no number": lambda answers: {"cloud_ms": math.nan},
    "an endless queue": lambda answers: {"cloud_ms": math.inf, "queue_ms": math.inf},
    "a queue that gives time": lambda answers: {"queue_ms": -5.0},
    "a longer queue than all of it": lambda answers: {"queue_ms": 4.0},
    "no exit": lambda answers: {"exits": answers.exits * 0 - 1},
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_answer_is_not_believed(wrong, nodes):
    edge = nodes(WrongUplink(nodes.cloud(), WRONG[wrong]))
    predictions = await edge.classify(IMAGES, rule=mixed())
    progress, probabilities = whole_answers(LENET, IMAGES, mixed(), stages=1)
    check_answers(predictions, progress, probabilities)
    for number, prediction in enumerate(predictions):
        fallen = number in progress.remaining
        assert prediction.place is (Place.FALLBACK if fallen else Place.EDGE)
        assert ("invalid cloud response" in prediction.fallback_reason) is fallen
    assert sum(p.uplink_bytes for p in predictions) == SENT_BYTES, "it was sent, if in vain"


class ReturningUplink(WorkingUplink):
    """A cloud that is away when it is asked for the first time."""

    async def resume(self, cut, tensor, rule, timeout_ms, history=None):
        answers = await super().resume(cut, tensor, rule, timeout_ms, history)
        if len(self.calls) == 1:
            raise Unavailable("not yet")
        return answers


async def test_a_cloud_that_comes_back_is_used_again(nodes):
    edge = nodes(ReturningUplink(nodes.cloud()))
    first, second = [await edge.classify(IMAGES, rule=mixed()) for _ in range(2)]
    assert {p.place for p in first} == {Place.EDGE, Place.FALLBACK}
    assert {p.place for p in second} == {Place.EDGE, Place.CLOUD}


# --- deadlines --------------------------------------------------------------------------------------------


@pytest.fixture
def slow(nodes):
    """An edge whose first stage takes 30 ms on its clock, and its uplink."""
    handles = []

    def make(uplink_of, limits=LIMITS):
        clock = Clock()
        uplink = uplink_of(clock)
        edge = nodes(uplink, limits=limits, clock_s=clock)
        stage = edge.versions.current.network.stage(0)
        handles.append(stage.register_forward_hook(lambda *_: clock.pass_ms(30)))
        return edge, uplink

    yield make
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    ("remaining_ms", "timeout_ms", "reserve_ms", "allowed_ms"),
    [
        (100, 1_000, 20, 50),
        (100, 40, 20, 40),
        (math.inf, 1_000, 20, 1_000),
        (10_000, 1_000, 0, 1_000),
        (51, 1_000, 20, 1),
    ],
)
async def test_the_cloud_gets_what_is_left_less_the_reserve(
    remaining_ms, timeout_ms, reserve_ms, allowed_ms, nodes, slow
):
    edge, uplink = slow(lambda _: WorkingUplink(nodes.cloud()), OffloadLimits(timeout_ms, reserve_ms))
    predictions = await edge.classify(IMAGES, rule=mixed(), remaining_ms=remaining_ms)
    assert uplink.calls[0][3] == pytest.approx(allowed_ms)
    assert Place.CLOUD in {p.place for p in predictions}


@pytest.mark.parametrize("remaining_ms", [49.9, 31, 20, 0, -5])
async def test_a_cloud_that_could_only_be_late_is_not_asked(remaining_ms, slow):
    edge, uplink = slow(lambda clock: FailingUplink(Unavailable("must not be asked"), clock))
    predictions = await edge.classify(IMAGES, rule=mixed(), remaining_ms=remaining_ms)
    assert not uplink.calls
    check_answers(predictions, *whole_answers(LENET, IMAGES, mixed(), stages=1))
    fallen = [p for p in predictions if p.place is Place.FALLBACK]
    assert len(fallen) == 6
    for prediction in fallen:
        assert prediction.fallback_reason.startswith(f"DEADLINE_EXCEEDED: {remaining_ms - 30:.1f} ms are left, 20")
        assert (prediction.uplink_bytes, prediction.network_ms) == (0, 0)


async def test_a_wait_in_vain_is_counted_as_network_time(slow):
    edge, _ = slow(lambda clock: FailingUplink(DeadlineExceeded("late"), clock, takes_ms=70))
    predictions = await edge.classify(IMAGES, rule=mixed(), remaining_ms=200)
    for prediction in predictions:
        assert prediction.network_ms == pytest.approx(70 if prediction.place is Place.FALLBACK else 0)


async def test_cloud_only_has_the_whole_deadline_for_the_cloud(nodes, slow):
    edge, uplink = slow(lambda _: WorkingUplink(nodes.cloud()))
    await edge.classify(IMAGES, policy=Policy.CLOUD_ONLY, remaining_ms=100)
    assert uplink.calls[0][3] == pytest.approx(80)
