"""MACs, parameters and bytes against arithmetic written down from the layer lists of the released code."""

import numpy as np
import pytest
import torch
from network_examples import LENET, random_network
from torch import nn

from branchynet.models.architectures import Architecture, cost
from branchynet.network.counting import count_macs, measure_cost
from branchynet.network.normalisation import Normalisation
from branchynet.network.stages import BranchyNet, Stage


def conv(side, outputs, inputs, kernel):
    """MACs of a convolution that makes a map of *side* × *side*."""
    return side * side * outputs * inputs * kernel * kernel


def block(side, outputs, inputs):
    return conv(side, outputs, inputs, 3) + conv(side, outputs, outputs, 3)


# For each stage: MACs of the trunk layers and of the exit after it.
LENET_CODE = [
    (conv(30, 5, 1, 5), conv(15, 10, 5, 3) + 640 * 10),
    (conv(17, 10, 5, 5) + conv(11, 20, 10, 5) + 720 * 84, 84 * 10),
]
ALEXNET_CODE = [
    (conv(32, 32, 3, 5) + conv(16, 64, 32, 5), conv(8, 32, 64, 3) + conv(8, 32, 32, 3) + 512 * 10),
    (conv(8, 96, 64, 3), conv(4, 32, 96, 3) + 128 * 10),
    (conv(8, 96, 96, 3) + conv(8, 64, 96, 3) + 1024 * 256 + 256 * 128, 128 * 10),
]
ALEXNET_PAPER = [
    (conv(32, 32, 3, 5), 2 * conv(16, 32, 32, 3) + 2048 * 10),
    (conv(16, 64, 32, 5), conv(8, 32, 64, 3) + 512 * 10),
    (conv(8, 96, 64, 3) + ALEXNET_CODE[2][0], 128 * 10),
]
RESNET_CODE = [
    (conv(30, 16, 3, 3), conv(30, 64, 16, 5) + conv(30, 32, 64, 3) + conv(30, 32, 32, 3) + 28_800 * 10),
    (18 * block(30, 16, 16), block(30, 16, 16) + 14_400 * 10),
    (block(15, 32, 16) + 17 * block(15, 32, 32) + block(8, 64, 32) + 17 * block(8, 64, 64), 576 * 10),
]
RESNET_PAPER = [
    (
        conv(32, 16, 3, 3) + block(32, 16, 16),
        conv(32, 64, 16, 5) + conv(32, 32, 64, 3) + conv(32, 32, 32, 3) + 32_768 * 10,
    ),
    (17 * block(32, 16, 16), block(32, 16, 16) + 16_384 * 10),
    (block(16, 32, 16) + 17 * block(16, 32, 32) + block(8, 64, 32) + 17 * block(8, 64, 64), 64 * 10),
]
LENET_MODERN = [(LENET_CODE[0][0], conv(8, 10, 5, 3) + conv(4, 16, 10, 3) + 256 * 10), LENET_CODE[1]]
ALEXNET_MODERN = [
    (ALEXNET_PAPER[0][0], conv(8, 40, 32, 3) + block(8, 40, 40) + conv(4, 80, 40, 3) + block(4, 80, 80) + 80 * 10),
    (ALEXNET_PAPER[1][0], conv(4, 80, 64, 3) + block(4, 80, 80) + 80 * 10),
    ALEXNET_PAPER[2],
]
RESNET_MODERN = [
    (RESNET_PAPER[0][0], conv(16, 40, 16, 3) + block(16, 40, 40) + conv(8, 80, 40, 3) + block(8, 80, 80) + 80 * 10),
    (
        17 * block(32, 16, 16) + block(16, 32, 16),
        conv(8, 64, 32, 3) + block(8, 64, 64) + conv(4, 128, 64, 3) + block(4, 128, 128) + 128 * 10,
    ),
    (17 * block(16, 32, 32) + block(8, 64, 32) + 17 * block(8, 64, 64), 64 * 10),
]
SLIM = [
    (
        conv(32, 24, 3, 3) + conv(16, 48, 24, 3),
        conv(8, 40, 48, 3) + block(8, 40, 40) + conv(4, 80, 40, 3) + block(4, 80, 80) + 80 * 10,
    ),
    (
        block(16, 48, 48) + conv(8, 96, 48, 3) + block(8, 96, 96),
        conv(4, 128, 96, 3) + block(4, 128, 128) + 128 * 10,
    ),
    (conv(8, 256, 96, 3) + block(4, 256, 256), 256 * 10),
]
RESNET_20 = [
    (
        conv(32, 16, 3, 3)
        + 3 * block(32, 16, 16)
        + block(16, 32, 16)
        + 2 * block(16, 32, 32)
        + block(8, 64, 32)
        + 2 * block(8, 64, 64),
        64 * 10,
    )
]
BY_HAND = {
    ("b-lenet", "code"): LENET_CODE,
    ("b-lenet", "paper"): LENET_CODE,
    ("b-alexnet", "code"): ALEXNET_CODE,
    ("b-alexnet", "paper"): ALEXNET_PAPER,
    ("b-resnet-110", "code"): RESNET_CODE,
    ("b-resnet-110", "paper"): RESNET_PAPER,
    ("b-lenet", "modern"): LENET_MODERN,
    ("b-alexnet", "modern"): ALEXNET_MODERN,
    ("b-resnet-110", "modern"): RESNET_MODERN,
    ("b-slim", "modern"): SLIM,
    ("resnet-20", "plain"): RESNET_20,
}


@pytest.mark.parametrize(("name", "variant"), BY_HAND)
def test_macs_equal_the_arithmetic_of_the_layer_list(name, variant):
    measured = cost(Architecture(name, variant))
    by_hand = BY_HAND[name, variant]
    assert [(stage.trunk_macs, stage.head_macs) for stage in measured.stages] == by_hand
    trunks, heads = np.cumsum(by_hand, axis=0).T
    np.testing.assert_array_equal(measured.macs_by_exit(heads=True), trunks + heads)
    without = trunks.copy()
    without[-1] += by_hand[-1][1]
    np.testing.assert_array_equal(measured.macs_by_exit(heads=False), without)
    assert measured.trunk_macs == without[-1]


@pytest.mark.parametrize(
    ("name", "trunk_millions", "with_heads_millions"),
    [
        ("b-lenet", 1.14007, [0.22015, 1.24772]),
        ("b-alexnet", 28.247, [17.34, 21.32, 30.47]),
        ("b-resnet-110", 232.41, [48.6, 127.5, 284.9]),
    ],
)
def test_macs_of_the_released_networks_are_those_of_the_table(name, trunk_millions, with_heads_millions):
    measured = cost(Architecture(name, "code"))
    assert measured.trunk_macs / 1e6 == pytest.approx(trunk_millions, rel=2e-4)
    np.testing.assert_allclose(measured.macs_by_exit(heads=True) / 1e6, with_heads_millions, rtol=1e-3)


def test_the_papers_resnet_trunk_is_that_of_he_et_al():
    measured = cost(Architecture("b-resnet-110"))
    assert measured.trunk_macs / 1e6 == pytest.approx(252.9, rel=1e-3)
    trunk = sum(stage.trunk_params for stage in measured.stages) + measured.stages[-1].head_params
    assert trunk / 1e6 == pytest.approx(1.73, abs=0.005)


def conv_params(outputs, inputs, kernel):
    return outputs * (inputs * kernel * kernel + 1)


def linear_params(inputs, outputs):
    return outputs * (inputs + 1)


def block_params(outputs, inputs):
    """Two convolutions with biases, each with a scale and a shift for every channel."""
    return conv_params(outputs, inputs, 3) + conv_params(outputs, outputs, 3) + 4 * outputs


def test_lenet_parameters():
    first, second = cost(Architecture("b-lenet", "code")).stages
    assert first.trunk_params == conv_params(5, 1, 5)
    assert first.head_params == conv_params(10, 5, 3) + linear_params(640, 10)
    assert second.trunk_params == conv_params(10, 5, 5) + conv_params(20, 10, 5) + linear_params(720, 84)
    assert second.head_params == linear_params(84, 10)


def test_alexnet_parameters():
    first, second, third = cost(Architecture("b-alexnet", "code")).stages
    assert first.trunk_params == conv_params(32, 3, 5) + conv_params(64, 32, 5)
    assert first.head_params == conv_params(32, 64, 3) + conv_params(32, 32, 3) + linear_params(512, 10)
    assert second.trunk_params == conv_params(96, 64, 3)
    assert second.head_params == conv_params(32, 96, 3) + linear_params(128, 10)
    assert third.trunk_params == (
        conv_params(96, 96, 3) + conv_params(64, 96, 3) + linear_params(1024, 256) + linear_params(256, 128)
    )
    assert third.head_params == linear_params(128, 10)


def test_resnet_parameters():
    first, second, third = cost(Architecture("b-resnet-110", "code")).stages
    assert first.trunk_params == conv_params(16, 3, 3) + 2 * 16
    assert first.head_params == pytest.approx(341_000, abs=1_000)
    assert second.trunk_params == 18 * block_params(16, 16)
    assert second.head_params == block_params(16, 16) + linear_params(14_400, 10) == pytest.approx(149_000, abs=1_000)
    deep = block_params(32, 16) + 17 * block_params(32, 32) + block_params(64, 32) + 17 * block_params(64, 64)
    assert (third.trunk_params, third.head_params) == (deep, linear_params(576, 10))


@pytest.mark.parametrize(
    ("name", "variant", "bytes_at_cuts"),
    [
        ("b-lenet", "code", [18_000]),
        ("b-lenet", "paper", [4_500]),
        ("b-alexnet", "code", [65_536, 24_576]),
        ("b-alexnet", "paper", [32_768, 16_384]),
        ("b-resnet-110", "code", [57_600, 57_600]),
    ],
)
def test_bytes_at_the_cuts_are_those_of_the_table(name, variant, bytes_at_cuts):
    assert [stage.output_bytes for stage in cost(Architecture(name, variant)).stages[:-1]] == bytes_at_cuts


def test_counted_parameters_are_those_of_the_network():
    total = sum(stage.trunk_params + stage.head_params for stage in cost(LENET).stages)
    assert total == sum(parameter.numel() for parameter in random_network().parameters())


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, (3, 5), stride=2, padding=1), (4, 9, 9), 6 * 5 * 4 * 4 * 3 * 5),
        (nn.Conv2d(4, 8, 3, groups=4, padding=1), (4, 5, 5), 8 * 25 * 9),
        (nn.Conv2d(4, 8, 3, dilation=2), (4, 9, 9), 8 * 25 * 4 * 9),
        (nn.Linear(7, 3), (7,), 21),
        (nn.Linear(7, 3, bias=False), (5, 7), 5 * 21),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout()), (4, 6, 6), 0),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_macs_of_single_layers_for_one_sample(layer, shape, macs, batch):
    assert count_macs(layer.eval(), torch.zeros(batch, *shape)) == macs


def test_counting_leaves_no_hook_behind_even_when_the_layer_fails():
    layer = nn.Linear(3, 2)
    with pytest.raises(RuntimeError):
        count_macs(layer, torch.zeros(1, 4))
    assert not layer._forward_hooks


def test_measuring_leaves_the_training_mode_as_it_was():
    network = random_network()
    network.train()
    try:
        assert measure_cost(network) == cost(LENET)
        assert network.training
    finally:
        network.eval()
    measure_cost(network)
    assert not network.training


def test_a_stage_without_exit_costs_all_who_pass_it():
    stages = [Stage(nn.Linear(4, 4)), Stage(nn.Linear(4, 3), nn.Linear(3, 2)), Stage(nn.Linear(3, 3), nn.Linear(3, 2))]
    network = BranchyNet.whole(
        [Stage(nn.Flatten()), *stages], input_shape=(1, 2, 2), classes=2, normalisation=Normalisation((0.0,), (1.0,))
    )
    measured = measure_cost(network)
    np.testing.assert_array_equal(measured.macs_by_exit(heads=True), [16 + 12 + 6, 16 + 12 + 6 + 9 + 6])
    np.testing.assert_array_equal(measured.macs_by_exit(heads=False), [16 + 12, 16 + 12 + 9 + 6])
