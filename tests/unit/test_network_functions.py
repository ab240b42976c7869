"""Every exit's logits against the layer lists of the released code, written out as one function for each network."""

import numpy as np
import pytest
import torch
from network_examples import exit_logits, pictures, random_network
from torch import nn
from torch.nn import functional as F

from branchynet.models.architectures import Architecture
from branchynet.models.layers import ResidualBlock


def relu(x):
    return x.clamp(min=0)


def pool(x, kernel):
    return F.max_pool2d(x, kernel, 2, ceil_mode=True)


def norm(x):
    return nn.LocalResponseNorm(3, alpha=1.5e-4, beta=0.75, k=2)(x)


def shared(x):
    return norm(pool(relu(x), 3))


class Layers:
    """The weights of one path, taken one layer after the other."""

    def __init__(self, *modules):
        kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, ResidualBlock)
        found = [layer for module in modules for layer in module.modules() if isinstance(layer, kinds)]
        inner = {part for block in found if isinstance(block, ResidualBlock) for part in block.children()}
        self._left = iter([layer for layer in found if layer not in inner])

    def conv(self, x, padding):
        layer = next(self._left)
        return F.conv2d(x, layer.weight, layer.bias, 1, padding)

    def linear(self, x):
        layer = next(self._left)
        return F.linear(x.flatten(1), layer.weight, layer.bias)

    def as_built(self, x, count=1):
        """Batch normalisation and residual blocks, whose own tests write them out."""
        for _ in range(count):
            x = next(self._left)(x)
        return x

    def all_used(self):
        return next(self._left, None) is None


def lenet(trunk, heads, x, code):
    branch, final = heads
    h = relu(pool(trunk.conv(x, 3), 2))
    early = branch.linear(relu(pool(branch.conv(h, 1), 2)))
    h = relu(pool(trunk.conv(h, 3), 2))
    h = relu(pool(trunk.conv(h, 3), 2))
    return early, final.linear(trunk.linear(h))


def alexnet(trunk, heads, x, code):
    first, second, final = heads

    def first_branch(h):
        h = relu(first.conv(relu(first.conv(h, 1)), 1))
        return first.linear(pool(h, 3))

    def second_branch(h):
        return second.linear(pool(relu(second.conv(h, 1)), 3))

    exits = []
    h = shared(trunk.conv(x, 2))
    if not code:
        exits.append(first_branch(h))
    h = shared(trunk.conv(h, 2))
    exits.append(first_branch(h) if code else second_branch(h))
    h = trunk.conv(h, 1)
    if code:
        exits.append(second_branch(shared(h)))
    h = relu(h)
    h = relu(trunk.conv(h, 1))
    h = pool(relu(trunk.conv(h, 1)), 3)
    h = relu(trunk.linear(h))
    return *exits, final.linear(relu(trunk.linear(h)))


def resnet(trunk, heads, x, code):
    first, second, final = heads
    inside = 0 if code else 1
    h = relu(trunk.as_built(trunk.conv(x, 0 if code else 1)))
    h = trunk.as_built(h, inside)
    b = norm(relu(first.conv(h, 2)))
    b = relu(first.conv(relu(first.conv(b, 1)), 1))
    h = trunk.as_built(h, 18 - inside)
    early = first.linear(b), second.linear(second.as_built(h))
    h = trunk.as_built(h, 36)
    return *early, final.linear(F.avg_pool2d(h, 6 if code else 8, 1))


@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize(
    ("name", "written_out"), [("b-lenet", lenet), ("b-alexnet", alexnet), ("b-resnet-110", resnet)]
)
def test_every_exit_computes_what_the_layer_list_says(name, written_out, variant):
    architecture = Architecture(name, variant)
    network = random_network(architecture)
    images = pictures(architecture, 3, seed=6)
    stages = [network.stage(index) for index in range(network.total_stages)]
    trunk, heads = Layers(*(stage.trunk for stage in stages)), [Layers(stage.head) for stage in stages]
    with torch.inference_mode():
        expected = written_out(trunk, heads, network.normalisation(torch.from_numpy(images)), variant == "code")
    np.testing.assert_allclose(exit_logits(network, images), torch.stack(expected).numpy(), rtol=1e-4, atol=1e-4)
    assert trunk.all_used()
    assert all(head.all_used() for head in heads)
