"""What is timed: who runs which layers on which image, in which turn, with how many threads."""

import numpy as np
import pytest
import torch
from network_examples import LENET, exit_logits, mixing_rule, pictures, random_network

from branchynet.artifact.artifact import Artifact
from branchynet.evaluation import timings
from branchynet.evaluation.timings import (
    Timings,
    early_exit_contenders,
    forced_exit_contenders,
    run_plain,
    time_in_turn,
)
from branchynet.exits.rules import ExitRule
from branchynet.network.onnx_export import on_engine
from branchynet.network.runner import Engine
from branchynet.network.stages import BranchyNet


def constant(ms, passes=3):
    return np.tile(np.array(ms, dtype=float), (passes, 1))


MS = Timings(
    {
        "eager": {"trunk": constant([3, 1]), "early": constant([4, 4]), "early/part": constant([1, 1])},
        "onnx": {"trunk": constant([3, 3]), "early": constant([0.5, 1.5]), "early/part": constant([2, 2])},
    }
)


class Calls:
    """Counts the forward passes of a module."""

    def __init__(self, module):
        self.count = 0
        module.register_forward_hook(self._add)

    def _add(self, *_):
        self.count += 1


def test_each_contender_is_taken_from_the_engine_that_is_quicker_on_it():
    assert (MS.engine_of("trunk"), MS.engine_of("early")) == ("eager", "onnx")
    assert (MS.median("trunk"), MS.median("early")) == (2.0, 1.0)
    assert MS.median("early/part") == 2.0, "a part stays with its whole, also where it alone would be slower"
    assert MS.spread("trunk") == [2.0, 2.0, 2.0]
    assert MS.gain_spread("early") == [2.0, 2.0, 2.0]
    assert MS.medians()["eager"] == {"trunk": 2.0, "early": 4.0, "early/part": 1.0}


def test_an_interruption_of_single_calls_does_not_count():
    generator = np.random.default_rng(0)
    quiet = generator.uniform(1, 3, 100) + generator.normal(0, 0.01, (9, 100))
    interrupted = quiet + 50 * (generator.random((9, 100)) < 0.1)
    measured = Timings({"eager": {"trunk": 2 * interrupted, "early": interrupted[::-1]}})
    assert measured.median("early") == pytest.approx(quiet.mean(), rel=0.02)
    low, gain, high = measured.gain_spread("early")
    assert gain == pytest.approx(2, rel=0.02)
    assert 1.7 < low < gain < high < 2.3


def test_a_spread_shows_how_passes_differ():
    passes = np.array([[1.0, 3.0], [1.1, 3.3], [0.8, 2.4]])
    measured = Timings({"eager": {"trunk": np.full((3, 2), 4.0), "early": passes}})
    assert measured.spread("early") == [1.6, 2.0, 2.2]
    assert measured.gain_spread("early") == pytest.approx([4 / 2.2, 2.0, 2.5], abs=1e-5)


def test_everyone_runs_once_on_every_image_and_the_first_turn_goes_round(monkeypatch):
    monkeypatch.setattr(timings, "TURN", 2)
    seen, done = [], []

    def contender(engine, name):
        return lambda image: seen.append((engine, image, name))

    contenders = {engine: {name: contender(engine, name) for name in "abc"} for engine in ("eager", "onnx")}
    measured = time_in_turn(contenders, 3, 2, done.append)
    timed = seen[6:]  # everyone runs once to warm up
    # Three images in turns of two; each turn begins with the image before, and the first with its own.
    turns = [timed[:9], timed[9:15], timed[15:24], timed[24:30], timed[30:39], timed[39:45], timed[45:54], timed[54:]]
    for number, turn in enumerate(turns):
        engine, images = ("eager", "eager", "onnx", "onnx")[number % 4], ([0, 0, 1], [1, 2])[number % 2]
        order = ("abc", "bca", "abc", "bca", "bca", "cab", "bca", "cab")[number]
        assert turn == [(engine, image, name) for name in order for image in images]
    assert done == [2, 3, 5, 6, 8, 9, 11, 12]
    for named in measured.ms.values():
        assert list(named) == ["a", "b", "c"]
        assert all(ms.shape == (2, 3) and (ms > 0).all() for ms in named.values())


def test_timing_uses_one_thread_and_gives_the_others_back(monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        time_in_turn({"eager": {"x": interrupt}}, 1, 1)
    assert set_to == [1, 5]


@pytest.mark.parametrize("engine", Engine)
def test_a_plain_network_answers_as_the_trunk(engine):
    network, images = random_network(), pictures(LENET, 3)
    logits = run_plain(on_engine(network.plain(), engine), images)
    np.testing.assert_allclose(logits, exit_logits(network, images)[-1], rtol=1e-4, atol=1e-4)


def test_only_the_layers_that_an_image_needs_are_run():
    network = Artifact.open("lenet-fashion").network()  # one of its own: it gets hooks
    images = pictures(LENET, 4)
    rule = mixing_rule(network, images)
    contenders = early_exit_contenders("early", network, rule, list(images[:, None]))
    first, branch, second, final = (
        Calls(module)
        for module in (network.stage(0).trunk, network.stage(0).head, network.stage(1).trunk, network.stage(1).head)
    )

    def counted(name):
        before = [calls.count for calls in (first, branch, second, final)]
        for index in range(4):
            contenders[name](index)
        return [calls.count - old for calls, old in zip((first, branch, second, final), before, strict=True)]

    # Two of the four images leave at the first exit.
    assert counted("early") == [4, 4, 2, 2]
    assert counted("early/without_heads") == [4, 0, 2, 2]


@pytest.mark.parametrize("criterion", ["entropy", "max-probability", "margin"])
def test_images_can_be_made_to_leave_at_each_exit(criterion):
    taken = []

    class Remembering(BranchyNet):
        def resume(self, *arguments):
            progress = super().resume(*arguments)
            taken.append(int(progress.exits[0]))
            return progress

    network = random_network().part(0, 2)
    network.__class__ = Remembering
    contenders = forced_exit_contenders(
        "early", network, ExitRule(criterion, (0.5,)), list(pictures(LENET, 3)[:, None])
    )
    assert list(contenders) == ["early/exit_0", "early/exit_1"]
    for call in contenders.values():
        for image in range(3):
            call(image)
    assert taken == [0, 0, 0, 1, 1, 1]
