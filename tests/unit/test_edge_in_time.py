"""An edge asks a cloud only if its answer can be in time, learns that from every offload, and goes on learning."""

import dataclasses

import numpy as np
import pytest
from network_examples import LENET
from node_examples import IMAGES, LIMITS, SENT_BYTES, Clock, WorkingUplink, check_answers, mixed, whole_answers

from branchynet.errors import ArtifactMismatch, DeadlineExceeded, InvalidInput, Unavailable
from branchynet.exits.rules import ExitRule
from branchynet.placement.offload_deadline import OLD_S, REFUSED_S
from branchynet.serving.prediction import Place, Policy
from edge_node.uplink import OffloadFailed

HURRIED, PATIENT = 100.0, 900.0  # 20 of them are kept for the way home


class Wire(WorkingUplink):
    """A cloud that takes *network_ms* on the way and *work_ms* there, and gives up when the edge does."""

    def __init__(self, cloud, clock):
        super().__init__(cloud)
        self.clock, self.network_ms, self.work_ms, self.error = clock, 30.0, 0.0, None

    async def resume(self, cut, tensor, rule, timeout_ms, history=None):
        answers = await super().resume(cut, tensor, rule, timeout_ms, history)
        took_ms = self.network_ms + self.work_ms
        self.clock.pass_ms(min(took_ms, timeout_ms))
        if self.error is not None:
            raise self.error
        if took_ms > timeout_ms:
            raise OffloadFailed(DeadlineExceeded("late"), SENT_BYTES)
        return dataclasses.replace(answers, cloud_ms=self.work_ms, round_trip_ms=took_ms)


@pytest.fixture
def camera(nodes):
    """Sends a batch a tenth of a second after the last one; the edge, its wire and its clock go with it."""
    clock = Clock()
    wire = Wire(nodes.cloud(), clock)
    edge = nodes(wire, limits=LIMITS, clock_s=clock)

    async def send(remaining_ms, images=IMAGES, **options):
        clock.pass_ms(100)
        asked = len(wire.calls)
        answers = await edge.classify(images, rule=mixed(), remaining_ms=remaining_ms, **options)
        assert len(answers) == len(images)
        return answers, len(wire.calls) > asked

    send.edge, send.wire, send.clock = edge, wire, clock
    return send


async def settle(camera, network_ms, count=6):
    camera.wire.network_ms = network_ms
    for _ in range(count):
        await camera(PATIENT)


async def test_a_cloud_that_was_never_asked_is_asked_by_whoever_has_a_moment(camera):
    camera.wire.network_ms = 500.0
    answers, asked = await camera(21.0)
    assert asked
    assert {answer.place for answer in answers} == {Place.EDGE, Place.FALLBACK}


@pytest.mark.parametrize("policy", [Policy.SPLIT, Policy.CLOUD_ONLY])
async def test_who_is_in_a_hurry_is_answered_here_at_once_and_who_is_not_goes_on(camera, policy):
    await settle(camera, 500.0)
    for _ in range(3):
        answers, asked = await camera(HURRIED, policy=policy)
        assert not asked
        check_answers(answers, *whole_answers(LENET, IMAGES, mixed(), stages=1))
        fallen = [answer for answer in answers if answer.place is Place.FALLBACK]
        assert len(fallen) == (6 if policy is Policy.SPLIT else len(IMAGES))
        for answer in fallen:
            assert answer.fallback_reason.startswith("DEADLINE_EXCEEDED: 80.0 ms are left, an answer from the cloud")
            assert (answer.uplink_bytes, answer.network_ms, answer.cloud_ms) == (0, 0, 0)
        answers, asked = await camera(PATIENT, policy=policy)
        assert asked
        assert Place.FALLBACK not in {answer.place for answer in answers}


async def test_a_clouds_slow_work_counts_like_a_slow_link(camera):
    camera.wire.work_ms = 500.0
    await settle(camera, 5.0)
    assert not (await camera(HURRIED))[1]
    one, asked = await camera(HURRIED, IMAGES[:2])
    assert asked, "nothing is known of so small a batch"
    assert len(one) == 2
    camera.wire.work_ms = 5.0
    await camera(PATIENT)
    assert (await camera(HURRIED))[1]


async def test_waits_in_vain_end_although_no_answer_ever_comes(camera):
    camera.wire.network_ms = 500.0
    went = [(await camera(HURRIED))[1] for _ in range(100)]
    assert went[0]
    assert sum(went) < 12
    assert not any(went[-20:])


async def test_a_link_that_mended_is_found_by_those_in_a_hurry_alone(camera):
    await settle(camera, 500.0)
    camera.wire.network_ms = 10.0
    camera.clock.pass_ms(1e3 * OLD_S)
    places = set()
    for _ in range(60):
        answers, _ = await camera(HURRIED)
        places = {answer.place for answer in answers}
    assert places == {Place.EDGE, Place.CLOUD}


async def test_an_edge_that_waits_no_longer_than_it_was_told_does_not_ask_for_what_takes_longer(nodes):
    clock = Clock()
    wire = Wire(nodes.cloud(), clock)
    edge = nodes(wire, limits=dataclasses.replace(LIMITS, timeout_ms=200), clock_s=clock)
    wire.network_ms = 700.0
    for _ in range(30):
        clock.pass_ms(100)
        answers = await edge.classify(IMAGES, rule=mixed())
    assert len(wire.calls) < 12
    assert "200.0 ms are left" in max(answer.fallback_reason for answer in answers)


@pytest.mark.parametrize(
    "error",
    [Unavailable("away"), OffloadFailed(Unavailable("torn off"), SENT_BYTES), OffloadFailed(InvalidInput("no"), 5)],
    ids=lambda error: error.grpc_status,
)
async def test_failures_that_are_not_late_say_nothing_of_the_time_it_takes(camera, error):
    await settle(camera, 10.0)
    camera.wire.error, camera.wire.network_ms = error, 900.0
    for _ in range(10):
        assert (await camera(PATIENT))[1]
    camera.wire.error, camera.wire.network_ms = None, 10.0
    assert (await camera(HURRIED))[1]


async def test_a_cloud_that_refuses_the_artifact_is_sent_nothing_more_for_a_while(camera):
    camera.wire.error = OffloadFailed(ArtifactMismatch("deploy the same artifact to both"), SENT_BYTES)
    went, answers = [], []
    for _ in range(5):
        answers, asked = await camera(PATIENT)
        went.append(asked)
    assert went == [True, False, False, False, False]
    fallen = [answer for answer in answers if answer.place is Place.FALLBACK]
    assert fallen
    assert {answer.fallback_reason for answer in fallen} == {"FAILED_PRECONDITION: deploy the same artifact to both"}
    assert {answer.uplink_bytes for answer in fallen} == {0}
    camera.wire.error = None
    camera.clock.pass_ms(1e3 * REFUSED_S)
    answers, asked = await camera(PATIENT)
    assert asked
    assert Place.FALLBACK not in {answer.place for answer in answers}


async def test_a_large_batch_has_the_time_that_it_takes_to_send_and_a_small_one_no_longer(camera):
    edge, nobody_leaves = camera.edge, ExitRule.never(2)
    timeouts_ms = []
    for images in (IMAGES[:1], np.concatenate([IMAGES] * 4)):
        await edge.classify(images, rule=nobody_leaves)
        timeouts_ms.append(camera.wire.calls[-1][3])
    assert timeouts_ms[0] == LIMITS.timeout_ms
    assert timeouts_ms[1] > LIMITS.timeout_ms + 50
    await edge.classify(images, rule=nobody_leaves, remaining_ms=500.0)
    assert camera.wire.calls[-1][3] == 500.0 - LIMITS.reserve_ms
