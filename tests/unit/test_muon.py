"""Muon: orthogonal steps for convolutions, momentum for the rest, and the same steps after a break."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from branchynet.training.muon import Muon, orthogonal


def made() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 4))


def step(network: nn.Sequential, optimiser: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    loss = nn.functional.cross_entropy(network(torch.randn(16, 3, 4, 4)), torch.randint(0, 4, (16,)))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


@pytest.mark.parametrize("rows, columns", [(8, 27), (64, 32), (16, 16)])
def test_a_step_turns_all_directions_about_as_far(rows, columns):
    torch.manual_seed(1)
    least = min(rows, columns)
    left, right = (torch.linalg.qr(torch.randn(size, least)).Q for size in (rows, columns))
    uneven = left @ torch.diag(torch.linspace(0.2, 1.0, least)) @ right.T
    step = orthogonal(uneven)
    values = torch.linalg.svdvals(step)
    assert values.min() > 0.6 and values.max() < 1.3
    # The directions are the gradient's own, and their signs.
    turned = torch.diagonal(left.T @ step @ right)
    assert turned.min() > 0.6


def test_a_step_does_not_depend_on_the_size_of_the_gradient():
    torch.manual_seed(1)
    gradient = torch.randn(8, 27)
    torch.testing.assert_close(orthogonal(gradient), orthogonal(1000 * gradient), rtol=1e-4, atol=1e-5)


def test_filters_keep_a_mean_norm_of_one_and_turn_by_the_learning_rate():
    network = made()
    optimiser = Muon(network.parameters(), learning_rate=0.0, weight_decay=0.0)
    step(network, optimiser, 0)
    before = network[0].weight.detach().clone()
    assert before.norm().item() == pytest.approx(8**0.5, rel=1e-5)
    optimiser.param_groups[0]["lr"] = 0.01
    step(network, optimiser, 1)
    turned = (network[0].weight - before).norm() / before.norm()
    assert 0.005 < turned.item() < 0.013


def test_filters_without_a_normalisation_keep_their_length():
    network = made()
    before = network[0].weight.detach().clone()
    step(network, Muon(network.parameters(), learning_rate=0.0, normalised=False), 0)
    torch.testing.assert_close(network[0].weight.detach(), before, rtol=0, atol=0)


def test_all_but_convolutions_are_trained_as_by_nesterov_momentum():
    ours, theirs = made(), made()
    muon = Muon(ours.parameters(), learning_rate=0.05, weight_decay=0.01)
    rest = [p for p in theirs.parameters() if p.ndim != 4]
    sgd = torch.optim.SGD(rest, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
    muon.param_groups[0]["lr"] = 0.0
    with torch.no_grad():  # so that both begin with filters of the norm that Muon keeps
        for network in (ours, theirs):
            network[0].weight.mul_(8**0.5 / network[0].weight.norm())
    for seed in range(3):
        step(ours, muon, seed)
        step(theirs, sgd, seed)
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


def test_it_goes_on_after_a_break_as_if_there_had_been_none():
    whole, broken = made(), made()
    optimiser = Muon(whole.parameters(), 0.05, 1e-3)
    for seed in range(4):
        step(whole, optimiser, seed)
    first = Muon(broken.parameters(), 0.05, 1e-3)
    for seed in range(2):
        step(broken, first, seed)
    second = Muon(broken.parameters(), 0.05, 1e-3)
    second.load_state_dict(first.state_dict())
    for seed in range(2, 4):
        step(broken, second, seed)
    for mine, reference in zip(broken.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, reference)


def test_a_parameter_without_a_gradient_stays():
    network = made()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Muon(network.parameters(), 0.05, 0.1).step()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
