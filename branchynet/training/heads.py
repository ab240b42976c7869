"""Train the exits of a network that came with a trained trunk, for instance one made by `branchynet.attach`.

The trunk stays frozen, batch statistics and dropout included, so the plain network answers as before, bit for bit; or
everything is trained together, as in `branchynet.training.joint`, with the same loss in both cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Generator, nn

from branchynet.errors import DamagedData, InvalidInput
from branchynet.network import BranchyNet
from branchynet.training.datasets import Dataset
from branchynet.training.joint import exit_accuracies
from branchynet.training.losses import frozen_logits, joint_loss

__all__ = ["HeadOptions", "train_heads"]


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """How heads are trained; *exit_weights*, *label_smoothing*, *distillation* mean what they mean in a `Recipe`.

    No *exit_weights* are equal weights. The optimiser is AdamW with a constant *learning_rate*.
    """

    batch_size: int = 64
    learning_rate: float = 1e-3
    exit_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    distillation: float = 0.0
    seed: int = 0


def train_heads(
    network: BranchyNet,
    training: Dataset,
    held_out: Dataset,
    *,
    epochs: int,
    joint: bool = False,
    final: bool = False,
    options: HeadOptions | None = None,
) -> list[tuple[float, ...]]:
    """Train the heads of the whole *network* for *epochs*; every exit's accuracy on *held_out* after each of them.

    *joint*: the trunk learns as well. *final*: so does the final exit's head, which otherwise is left as frozen as the
    trunk; needed after `attach(…, replace_classifier=True)`. The network is left in evaluation mode. Raises
    `InvalidInput` for data of another shape or with other classes, `DamagedData` if the loss is not finite.
    """
    options = _checked(options or HeadOptions(), network, epochs)
    for dataset in (training, held_out):
        _check_data(dataset, network)
    optimiser = torch.optim.AdamW(_trained(network, joint=joint, final=final), options.learning_rate)
    generator = Generator().manual_seed(options.seed)
    torch.manual_seed(options.seed)  # dropout draws from the global generator
    images, labels = torch.from_numpy(training.images), torch.from_numpy(training.labels)
    accuracies = []
    for epoch in range(epochs):
        _set_modes(network, joint=joint, final=final)
        for chosen in torch.randperm(len(training), generator=generator).split(options.batch_size):  # type: ignore[no-untyped-call]
            x = network.normalisation(images[chosen])
            logits = network(x) if joint else frozen_logits(network, x, final=final)
            loss = joint_loss(logits, labels[chosen], options)
            if not math.isfinite(value := float(loss.detach())):
                raise DamagedData(
                    f"the loss is {value} in epoch {epoch}; lower learning_rate ({options.learning_rate})"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], max_norm=5.0)
            optimiser.step()
        accuracies.append(exit_accuracies(network, held_out))
    return accuracies


def _checked(options: HeadOptions, network: BranchyNet, epochs: int) -> HeadOptions:
    if network.exits < 2:
        raise InvalidInput("the network has no exit but the final one: there is no head to train")
    if epochs < 1:
        raise InvalidInput(f"epochs is {epochs}; it must be at least 1")
    weights = options.exit_weights or (1.0,) * network.exits
    if len(weights) != network.exits:
        raise InvalidInput(f"{len(weights)} exit weights for {network.exits} exits")
    return replace(options, exit_weights=weights)


def _check_data(dataset: Dataset, network: BranchyNet) -> None:
    if dataset.images.shape[1:] != network.input_shape:
        raise InvalidInput(
            f"{dataset.name} has images {dataset.images.shape[1:]}, the network takes {network.input_shape}"
        )
    if not 0 <= dataset.labels.min() <= dataset.labels.max() < network.classes:
        raise InvalidInput(f"{dataset.name}: labels reach {dataset.labels.max()}, the classes are {network.classes}")


def _heads(network: BranchyNet, *, final: bool) -> list[nn.Module]:
    heads = [network.stage(index).head for index in range(network.total_stages - (not final))]
    return [head for head in heads if head is not None]


def _trained(network: BranchyNet, *, joint: bool, final: bool) -> list[nn.Parameter]:
    parts: Iterable[nn.Module] = [network] if joint else _heads(network, final=final)
    return [parameter for part in parts for parameter in part.parameters()]


def _set_modes(network: BranchyNet, *, joint: bool, final: bool) -> None:
    network.train(joint)
    for head in _heads(network, final=final):
        head.train()
