"""Clouds that work, fail and lie, a clock to go with them, and what the whole network would have answered."""

import asyncio
import dataclasses

import numpy as np
import torch
from network_examples import LENET, mixing_rule, pictures, random_network

from branchynet.placement.offload_deadline import OffloadLimits
from edge_node.uplink import CloudAnswers

IMAGES = pictures(LENET, 12)
LIMITS = OffloadLimits(timeout_ms=1_000, reserve_ms=20)
SENT_BYTES = 1_003


class Clock:
    """A clock that stands still until it is told how much time went by."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s

    def pass_ms(self, ms):
        self.now_s += ms / 1e3


class WorkingUplink:
    """A cloud node in this process; remembers how it was called."""

    def __init__(self, cloud):
        self.cloud, self.calls = cloud, []

    async def resume(self, cut, tensor, rule, timeout_ms, history=None):
        self.calls.append((cut, tensor, rule, timeout_ms))
        done = await self.cloud.resume(self.cloud.served.content_hash, cut, tensor, rule, history)
        return CloudAnswers(done.exits, done.logits, cloud_ms=3.0, round_trip_ms=10.0, sent_bytes=SENT_BYTES)


class WrongUplink(WorkingUplink):
    """A cloud whose answers are changed on their way."""

    def __init__(self, cloud, change):
        super().__init__(cloud)
        self.change = change

    async def resume(self, cut, tensor, rule, timeout_ms, history=None):
        answers = await super().resume(cut, tensor, rule, timeout_ms, history)
        return dataclasses.replace(answers, **self.change(answers))


class FailingUplink:
    """A cloud that answers with *error*, *takes_ms* after it was asked."""

    def __init__(self, error, clock=None, takes_ms=0.0):
        self.error, self.clock, self.takes_ms, self.calls = error, clock, takes_ms, []

    async def resume(self, cut, tensor, rule, timeout_ms, history=None):
        self.calls.append((cut, tensor, rule, timeout_ms))
        await asyncio.sleep(0)
        if self.clock is not None:
            self.clock.pass_ms(self.takes_ms)
        raise self.error


def whole_answers(architecture, images, rule, stages=None):
    """Exits and logits when one machine runs the first *stages* stages."""
    network = random_network(architecture)
    part = network if stages is None else network.part(0, stages)
    progress = part.resume(images, 0, part.last, rule)
    return progress, torch.softmax(torch.from_numpy(progress.logits).double(), 1).numpy()


def check_answers(predictions, progress, probabilities):
    assert len(predictions) == len(progress.exits)
    for prediction, exit_taken, p in zip(predictions, progress.exits, probabilities, strict=True):
        assert prediction.exit == exit_taken
        assert prediction.probabilities.dtype == np.float32
        np.testing.assert_allclose(prediction.probabilities, p, rtol=1e-5, atol=1e-7)
        assert prediction.label == prediction.probabilities.argmax()


def mixed(images=IMAGES, architecture=LENET):
    return mixing_rule(random_network(architecture), images)
