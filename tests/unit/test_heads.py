"""Heads learn while the trunk stays as it is, to the last bit; or everything learns."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from attached import attached
from network_examples import HELD_OUT, TRAINING
from torch import nn

from branchynet.errors import DamagedData, InvalidInput
from branchynet.models.heads import default_head
from branchynet.training import scratch_arrays
from branchynet.training.attaching.frozen_trunk import Heads
from branchynet.training.attaching.train_heads import HeadOptions, HeadProgress, train_heads
from branchynet.training.trainer import exit_accuracies

SHAPE = (1, 28, 28)
FAST = HeadOptions(batch_size=8, learning_rate=3e-3)


def make_network(classes=4, **options):
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.3)),
        nn.Flatten(),
        nn.Linear(288, 4),
    )
    return attached(model, ["0", "1"], SHAPE, classes, default_head, **options)


def trunk_outputs(network):
    x = network.normalisation(torch.from_numpy(HELD_OUT.images))
    outputs = []
    with torch.inference_mode():
        for index in range(network.total_stages):
            x = network.stage(index).trunk(x)
            outputs.append(x.clone())
        return [*outputs, network.stage(network.total_stages - 1).head(x)]


def test_a_frozen_trunk_answers_as_before_to_the_last_bit():
    network = make_network()
    before, heads = trunk_outputs(network), copy.deepcopy(network.stage(0).head.state_dict())
    accuracies = train_heads(network, TRAINING, HELD_OUT, epochs=6, options=FAST)
    for old, new in zip(before, trunk_outputs(network), strict=True):
        assert torch.equal(old, new)
    assert not torch.equal(heads["5.weight"], network.stage(0).head.state_dict()["5.weight"])
    assert len(accuracies) == 6
    assert min(accuracies[-1][:2]) > 0.9
    assert accuracies[0][2] == accuracies[-1][2] < 0.5
    assert not network.training


def test_a_fresh_classifier_learns_on_the_frozen_trunk_when_asked():
    network = make_network(classes=4, replace_classifier=True)
    before = trunk_outputs(network)
    accuracies = train_heads(network, TRAINING, HELD_OUT, epochs=6, final=True, options=FAST)
    for old, new in zip(before[:-1], trunk_outputs(network)[:-1], strict=True):
        assert torch.equal(old, new)
    assert min(accuracies[-1]) > 0.9


def test_jointly_everything_learns():
    network = make_network()
    before = trunk_outputs(network)
    accuracies = train_heads(network, TRAINING, HELD_OUT, epochs=6, joint=True, options=FAST)
    assert not torch.equal(before[0], trunk_outputs(network)[0])
    assert min(accuracies[-1]) > 0.9


def test_the_same_seed_gives_the_same_heads():
    networks = [make_network() for _ in range(2)]
    first, second = (train_heads(network, TRAINING, HELD_OUT, epochs=1, options=FAST) for network in networks)
    assert first == second
    for ours, theirs in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def without_exits():
    network = make_network()
    return network.plain()


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (make_network, {"epochs": 0}, "epochs is 0"),
        (make_network, {"epochs": 1, "options": HeadOptions(exit_weights=(1.0,))}, "1 exit weights for 3 exits"),
        (without_exits, {"epochs": 1}, "no head to train"),
    ],
)
def test_what_cannot_be_trained_is_refused(network, options, message):
    with pytest.raises(InvalidInput, match=message):
        train_heads(network(), TRAINING, HELD_OUT, **options)


def test_data_of_another_kind_is_refused():
    narrow = dataclasses.replace(TRAINING, images=np.ascontiguousarray(TRAINING.images[..., :20]))
    with pytest.raises(InvalidInput, match=r"images \(1, 28, 20\), the network takes \(1, 28, 28\)"):
        train_heads(make_network(), narrow, HELD_OUT, epochs=1)
    with pytest.raises(InvalidInput, match="labels reach 3, the classes are 3"):
        train_heads(make_network(classes=3, replace_classifier=True), TRAINING, HELD_OUT, epochs=1)


def test_a_loss_that_is_no_number_ends_the_training():
    network = make_network()
    with torch.no_grad():
        network.stage(0).head[5].weight.fill_(float("nan"))
    with pytest.raises(DamagedData, match="the loss is nan in epoch 0"):
        train_heads(network, TRAINING, HELD_OUT, epochs=1)


class Counted(HeadProgress):
    def __init__(self):
        self.images, self.epochs = [], []

    def on_image(self, done, total):
        self.images.append((done, total))

    def on_epoch(self, done, accuracies):
        self.epochs.append((done, accuracies))


def test_a_frozen_trunk_runs_once_on_each_image(monkeypatch):
    network, progress, seen = make_network(), Counted(), []
    network.stage(0).trunk.register_forward_hook(lambda _module, _inputs, output: seen.append(len(output)))
    accuracies = train_heads(network, TRAINING, HELD_OUT, epochs=3, options=FAST, progress=progress)
    total = len(TRAINING) + len(HELD_OUT)
    assert sum(seen) == total
    assert progress.images[-1] == (total, total)
    assert progress.epochs == list(enumerate(accuracies, 1))


@pytest.mark.parametrize("final", [False, True])
def test_what_heads_look_at_may_lie_in_a_file(monkeypatch, final):
    networks = [make_network() for _ in range(2)]
    train_heads(networks[0], TRAINING, HELD_OUT, epochs=2, final=final, options=FAST)
    monkeypatch.setattr(scratch_arrays, "IN_MEMORY_BYTES", 0)
    assert isinstance(Heads(networks[1], final=final).look_at(TRAINING).inputs[0], np.memmap)
    train_heads(networks[1], TRAINING, HELD_OUT, epochs=2, final=final, options=FAST)
    for ours, theirs in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_only_what_learns_nothing_and_draws_nothing_is_computed_once():
    network = make_network()
    kept = Heads(network, final=False).look_at(HELD_OUT)
    assert [part.shape[1:] for part in kept.inputs] == [(8, 4, 4), (8, 3, 3)], "what the pooling gives"
    for head in (nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(4)), nn.Conv2d(8, 4, 13)):
        network.stages["0"].head = head
        assert Heads(network, final=False).look_at(HELD_OUT).inputs[0].shape[1:] == (8, 13, 13)
    nested = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Identity(), nn.Linear(8 * 13 * 13, 4)))
    network.stages["0"].head = nested
    heads = Heads(network, final=False)
    kept = heads.look_at(HELD_OUT)
    logits = heads.logits(kept, slice(0, 5))
    images = torch.from_numpy(HELD_OUT.images[:5])
    for ours, theirs in zip(logits, network(network.normalisation(images)), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert heads.accuracies(kept) == pytest.approx(exit_accuracies(network, HELD_OUT))


class FailsInTraining(nn.Linear):
    def forward(self, x):
        if self.training:
            raise KeyError("lambda")
        return super().forward(x)


def test_what_a_layer_raises_in_training_is_told_with_its_name():
    network = make_network()
    network.stage(0).head[5] = FailsInTraining(128, 4)
    with pytest.raises(InvalidInput, match=r"does not learn \(in submodule 'stages.0.head.5'\): KeyError: 'lambda'"):
        train_heads(network, TRAINING, HELD_OUT, epochs=1)


def test_heads_without_parameters_are_refused():
    network = make_network()
    network.stage(1).head.requires_grad_(False)
    with pytest.raises(InvalidInput, match="head 1 has no parameters that learn"):
        train_heads(network, TRAINING, HELD_OUT, epochs=1)


def test_a_last_image_by_itself_is_learned_with_those_before():
    """Alone it has no statistics: a map of one pixel would be normalised to nothing."""
    model = nn.Sequential(nn.Conv2d(1, 4, 28), nn.Flatten(), nn.Linear(4, 4))
    network = attached(model, ["0"], SHAPE, 4, default_head)
    several = TRAINING.take(np.arange(9))
    assert len(train_heads(network, several, HELD_OUT, epochs=1, options=FAST)) == 1
    with pytest.raises(InvalidInput, match="more than 1 value per channel"):
        train_heads(network, TRAINING.take(np.arange(1)), HELD_OUT, epochs=1)
