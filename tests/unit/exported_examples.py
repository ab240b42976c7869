"""A network of layers that no architecture of ours has: stages with and without exits, maps of ranks 3 and 1."""

import functools

import torch
from network_examples import normalisation_for, pictures
from torch import nn

from branchynet.artifact.network_spec import NetworkSpec
from branchynet.models.layers import ResidualBlock
from branchynet.network.costs import NetworkCost, StageCost
from branchynet.network.stages import BranchyNet, Stage

_STAGES = (
    StageCost(8 * 27 * 64 + 2 * 8 * 72 * 64, 8 * 64 * 5, 224 + 1200, 2565, (8, 8, 8)),
    StageCost(16 * 72 * 16 + 16 * 144 * 16, 0, 1168 + 2320 + 64, 0, (16, 4, 4)),
    StageCost(256 * 12, 12 * 5, 3084, 65, (12,)),
    StageCost(12 * 7, 7 * 5, 91, 40, (7,)),
)
SMALL = NetworkSpec("small residual", 5, (3, 8, 8), NetworkCost(_STAGES, (0, None, 1, 2)))
IMAGES = pictures(SMALL, 9)


@functools.cache
def small_network(first_layer=None, seed=3):
    torch.manual_seed(seed)
    stages = [
        Stage(
            nn.Sequential(first_layer or nn.Conv2d(3, 8, 3, padding=1), ResidualBlock(8, 8)),
            nn.Sequential(nn.Flatten(), nn.Linear(512, 5)),
        ),
        Stage(ResidualBlock(8, 16, stride=2)),
        Stage(nn.Sequential(nn.Flatten(), nn.Linear(256, 12), nn.Tanh()), nn.Linear(12, 5)),
        Stage(nn.Sequential(nn.Linear(12, 7), nn.ReLU()), nn.Linear(7, 5)),
    ]
    return BranchyNet.whole(
        stages, input_shape=SMALL.input_shape, classes=5, normalisation=normalisation_for(SMALL)
    ).eval()
