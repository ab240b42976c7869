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
from branchynet.training.heads import HeadOptions, train_heads

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
