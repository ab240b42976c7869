"""Train the exits of a network that came with a trained trunk, for instance one made by `branchynet.attach`.

The trunk stays frozen, batch statistics and dropout included, so the plain network answers as before, bit for bit; or
everything is trained together, as in `branchynet.training.trainer`, with the same loss in both cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from branchynet.data.datasets import Dataset
from branchynet.errors import DamagedData, InvalidInput
from branchynet.network.foreign_code import foreign_code
from branchynet.network.stages import BranchyNet
from branchynet.training.attaching.frozen_trunk import Heads
from branchynet.training.losses import joint_loss
from branchynet.training.trainer import exit_accuracies

__all__ = ["HeadOptions", "HeadProgress", "train_heads"]


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


class HeadProgress:
    """How far a training is, for whoever overrides what it wants to hear."""

    def on_image(self, done: int, total: int) -> None:
        """The frozen trunk has run on *done* of *total* images, training and held-out ones."""

    def on_epoch(self, done: int, accuracies: tuple[float, ...]) -> None:
        """*done* epochs are over, and every exit has such an accuracy (0..1) on the held-out images."""


def train_heads(
    network: BranchyNet,
    training: Dataset,
    held_out: Dataset,
    *,
    epochs: int,
    joint: bool = False,
    final: bool = False,
    options: HeadOptions | None = None,
    progress: HeadProgress | None = None,
) -> list[tuple[float, ...]]:
    """Train the heads of the whole *network* for *epochs*; every exit's accuracy on *held_out* after each of them.

    *joint*: the trunk learns as well; otherwise it runs once, and what the heads look at is kept. *final*: so does the
    final exit's head, which otherwise is left as frozen as the trunk; needed after `attach(…,
    replace_classifier=True)`. *progress* is told how far it is. The network is left in evaluation mode. Raises
    `InvalidInput` for data of another shape or with other classes, for heads without parameters, and for whatever a
    layer raises in training; `DamagedData` if the loss is not finite.
    """
    progress = progress or HeadProgress()
    options = _checked(options or HeadOptions(), network, epochs)
    for dataset in (training, held_out):
        _check_data(dataset, network)
    _check_heads(network, final=final)
    torch.manual_seed(options.seed)  # dropout draws from the global generator
    learner = _Whole(network, training, held_out) if joint else _Frozen(network, final, training, held_out, progress)
    optimiser = torch.optim.AdamW(learner.parameters(), options.learning_rate)
    generator = Generator().manual_seed(options.seed)
    labels = torch.from_numpy(training.labels)
    accuracies = []
    for epoch in range(epochs):
        learner.begin_epoch()
        for chosen in _batches(torch.randperm(len(training), generator=generator), options.batch_size):
            with foreign_code("the network does not learn", network):
                loss = joint_loss(learner.logits(chosen), labels[chosen], options)
                if not math.isfinite(value := float(loss.detach())):
                    raise DamagedData(
                        f"the loss is {value} in epoch {epoch}; lower learning_rate ({options.learning_rate})"
                    )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], max_norm=5.0)
                optimiser.step()
        accuracies.append(learner.accuracies())
        progress.on_epoch(epoch + 1, accuracies[-1])
    return accuracies


class _Whole:
    """Trunk and heads learn."""

    def __init__(self, network: BranchyNet, training: Dataset, held_out: Dataset) -> None:
        self._network, self._held_out = network, held_out
        self._images = torch.from_numpy(training.images)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._network.parameters()

    def begin_epoch(self) -> None:
        self._network.train()

    def logits(self, chosen: Tensor) -> list[Tensor]:
        return self._network(self._network.normalisation(self._images[chosen]))  # type: ignore[no-any-return]

    def accuracies(self) -> tuple[float, ...]:
        return exit_accuracies(self._network, self._held_out)


class _Frozen:
    """The heads learn, from what the trunk showed them once."""

    def __init__(
        self,
        network: BranchyNet,
        final: bool,
        training: Dataset,
        held_out: Dataset,
        progress: HeadProgress,
    ) -> None:
        self._heads, total = Heads(network, final=final), len(training) + len(held_out)
        self._training = self._heads.look_at(training, lambda done: progress.on_image(done, total))
        self._held_out = self._heads.look_at(held_out, lambda done: progress.on_image(len(training) + done, total))

    def parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for head in self._heads.learning for parameter in head.parameters())

    def begin_epoch(self) -> None:
        for head in self._heads.learning:
            head.train()

    def logits(self, chosen: Tensor) -> list[Tensor]:
        return self._heads.logits(self._training, chosen.numpy())

    def accuracies(self) -> tuple[float, ...]:
        return self._heads.accuracies(self._held_out)


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


def _check_heads(network: BranchyNet, *, final: bool) -> None:
    """Raise `InvalidInput` if one of the heads that are to learn has nothing that does."""
    heads = [network.stage(index).head for index in range(network.total_stages - (not final))]
    for number, head in enumerate(head for head in heads if head is not None):
        if not any(parameter.requires_grad for parameter in head.parameters()):
            raise InvalidInput(f"head {number} has no parameters that learn: nothing in it can be trained")


def _batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """*order* in parts of *batch_size*; a last image by itself has no batch statistics and goes with those before."""
    batches: list[Tensor] = list(order.split(batch_size))  # type: ignore[no-untyped-call]
    if len(batches) > 1 and len(batches[-1]) == 1 < batch_size:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
