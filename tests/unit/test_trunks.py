"""A trained trunk goes over to other branches, and a deeper trunk grows from it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from branchynet.errors import InvalidInput
from branchynet.models.architectures import Architecture, build, resnet
from branchynet.models.layers import initialise
from branchynet.network.normalisation import Normalisation
from branchynet.network.stages import BranchyNet
from branchynet.training.trunk_transfer import trunk_entries, with_trunk

GREY = Normalisation((0.5,) * 3, (0.25,) * 3)
FOLDER = Path("runs/other")


def residual(blocks, seed):
    """A plain residual network whose every block does something."""
    torch.manual_seed(seed)
    network = BranchyNet.whole(resnet.plain(blocks, 10), input_shape=resnet.INPUT_SHAPE, classes=10, normalisation=GREY)
    initialise(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@pytest.mark.parametrize(("blocks", "deeper"), [(1, 1), (2, 3), (2, 5), (3, 18)])
def test_a_grown_network_begins_by_answering_what_the_shallower_one_does(blocks, deeper):
    shallow, deep = residual(blocks, seed=1), residual(deeper, seed=2)
    deep.load_state_dict(with_trunk(deep.state_dict(), shallow.state_dict(), FOLDER))
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(deep.trunk(x), shallow.trunk(x))


def test_every_new_block_starts_with_weights_that_were_trained():
    shallow, deep = residual(2, seed=1), residual(5, seed=2)
    grown = with_trunk(deep.state_dict(), shallow.state_dict(), FOLDER)
    firsts = [grown[f"stages.0.trunk.{3 + block}.conv1.weight"] for block in range(5)]
    trained = [shallow.state_dict()[f"stages.0.trunk.{3 + block}.conv1.weight"] for block in range(2)]
    assert [next(n for n, t in enumerate(trained) if torch.equal(t, first)) for first in firsts] == [0, 0, 1, 1, 1]


def test_a_branched_network_grows_wherever_it_is_cut():
    torch.manual_seed(3)
    branched = build(Architecture("b-resnet-110", "modern"), GREY).eval()
    shallow = residual(3, seed=1)
    before = branched.state_dict()
    grown = with_trunk(before, shallow.state_dict(), FOLDER)
    assert grown.keys() == before.keys()
    for name in before.keys() - trunk_entries(before).keys():
        assert torch.equal(grown[name], before[name])
    branched.load_state_dict(grown)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(branched.trunk(x), shallow.trunk(x))


def test_a_trunk_does_not_shrink_and_only_residual_blocks_grow():
    shallow, deep = residual(2, seed=1).state_dict(), residual(3, seed=2).state_dict()
    with pytest.raises(InvalidInput, match=r"runs/other has 3 layers .* the recipe's network 2"):
        with_trunk(shallow, deep, FOLDER)

    def straight(layers):
        convolutions = [nn.Conv2d(3, 3, 3) for _ in range(layers)]
        return {f"stages.0.trunk.{n}.weight": layer.weight.detach() for n, layer in enumerate(convolutions)} | {
            "stages.0.head.weight": torch.zeros(2, 3)
        }

    with pytest.raises(InvalidInput, match="1 layers"):
        with_trunk(straight(2), straight(1), FOLDER)
