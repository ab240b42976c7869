"""Trunk first, then all exits together: BranchyNet's procedure (section III-A), for any `BranchyNet`.

Three phases of one recipe. *trunk* trains the plain network. *joint* goes on from its weights with the weighted sum of
all exits' losses. *baseline* goes on from the same weights with the final exit alone, for as many epochs on the same
schedule: the plain network that the early-exit one is compared with has then had the same training. Where the trunk
phase keeps its learning rate and the other two let it decay, they share most of the training, which is done once. A
recipe may instead put the branches on the finished baseline and train them alone (`frozen`), the trunk being then bit
for bit the plain network; or have no baseline but its own final exit.

Every epoch draws its order, augmentation and dropout from a seed made of the recipe's seed, the phase and the epoch,
and ends with a checkpoint; a run that was stopped goes on to the same weights as one that was not. Each phase has its
own file, so joint and baseline may run beside each other, or the joint phase again with other branches.

A team of processes (`data_parallel.py`) takes the same steps as one process would, but for rounding and for batch
normalisation, which sees each member's share of a batch alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from branchynet.data.datasets import Dataset
from branchynet.errors import DamagedData, InvalidInput
from branchynet.models.architectures import build
from branchynet.network.normalisation import Normalisation
from branchynet.network.runner import batch_slices
from branchynet.network.stages import BranchyNet
from branchynet.training import checkpoints
from branchynet.training.augmentation import augmented, shrink
from branchynet.training.checkpoints import Checkpoint, State
from branchynet.training.data_parallel import ALONE, Team
from branchynet.training.losses import branch_loss, frozen_logits, joint_loss
from branchynet.training.muon import Muon
from branchynet.training.recipes import Recipe
from branchynet.training.trunk_transfer import finished_trunk, trunk_entries, with_trunk

__all__ = ["PHASES", "Phase", "Step", "Trained", "check_data", "exit_accuracies", "train"]

Phase = Literal["trunk", "joint", "baseline"]
PHASES: tuple[Phase, ...] = ("trunk", "joint", "baseline")
# Fresh weights know nothing, so the first loss is near ln(classes); far above it, inputs or weights are off.
MAX_FIRST_LOSS_RATIO = 4.0


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step, or, with *accuracies* of every exit on held-out images, the end of an epoch."""

    phase: Phase
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracies: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Trained:
    """What training made: the early-exit *network* and the weights of the *plain_trunk* with the same training."""

    network: BranchyNet
    plain_trunk: State


def check_data(training: Dataset, recipe: Recipe) -> None:
    """Raise `InvalidInput` unless *training* can train the recipe's network.

    Looks for what silently ruins a run: wrong shape, labels out of range, a class without images, blank images.
    """
    architecture = recipe.architecture
    if training.images.shape[1:] != architecture.input_shape:
        raise InvalidInput(
            f"{training.name} has images {training.images.shape[1:]}, "
            f"{architecture.name} takes {architecture.input_shape}"
        )
    present = set(map(int, set(training.labels.tolist())))
    if missing := set(range(architecture.classes)) - present:
        raise InvalidInput(f"{training.name}: no training image is of class {sorted(missing)}")
    if extra := present - set(range(architecture.classes)):
        raise InvalidInput(f"{training.name}: labels {sorted(extra)} exceed the {architecture.classes} classes")
    if training.images.std() < 1:
        raise InvalidInput(f"{training.name}: the images are (nearly) constant; were they read correctly?")


def measure_normalisation(dataset: Dataset) -> Normalisation:
    """Mean and standard deviation of each channel over *dataset*, for pixels scaled to 0..1."""
    # How often each value stands there says it all, exactly, and takes no copy of a set that may be gigabytes.
    counts = np.zeros((dataset.images.shape[1], 256))
    for batch in batch_slices(dataset.images):
        for channel, count in enumerate(counts):
            count += np.bincount(dataset.images[batch, channel].ravel(), minlength=256)  # noqa: PLW2901 (in place)
    shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return Normalisation(tuple(round(float(m), 4) for m in mean), tuple(round(float(s), 4) for s in std))


@torch.inference_mode()
def exit_accuracies(network: BranchyNet, dataset: Dataset, *, team: Team = ALONE) -> tuple[float, ...]:
    """Accuracy 0..1 of every exit on *dataset*, each exit answering everything.

    Each member of a *team* works through its share of them, and all get the same result.
    """
    network.eval()
    right = [0] * network.exits
    share = team.share(len(dataset))
    images, labels = torch.from_numpy(dataset.images[share]), torch.from_numpy(dataset.labels[share])
    for batch in batch_slices(dataset.images[share]):
        for index, scored in enumerate(network(network.normalisation(images[batch]))):
            right[index] += int((scored.argmax(1) == labels[batch]).sum())
    return tuple(count / len(dataset) for count in team.total(right))


def train(
    recipe: Recipe,
    training: Dataset,
    held_out: Dataset,
    folder: Path,
    on_step: Callable[[Step], None] = lambda _: None,
    *,
    phases: Sequence[Phase] = PHASES,
    trunk_from: Path | None = None,
    team: Team = ALONE,
) -> Trained | None:
    """Train the recipe's network on *training*, going on from the checkpoints in *folder* if there are any.

    *held_out* is only scored at the end of each epoch, for the log `log.jsonl`. Only *phases* are run; the result is
    None while others are unfinished. *trunk_from*: take the trunk that another run made in that folder, of the same
    layers but perhaps with other branches, and have no trunk phase. *team*: the processes that do the same beside this
    one; its leader alone writes files and calls *on_step*. Raises `InvalidInput` for data that cannot train
    the network, a checkpoint of another recipe or a trunk that does not fit or is not there, `DamagedData` if the
    loss is not finite.
    """
    check_data(training, recipe)
    if recipe.batch_size < team.size:
        raise InvalidInput(f"a batch of {recipe.batch_size} cannot be shared by {team.size} workers")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    network = build(recipe.architecture, measure_normalisation(training))
    if len(recipe.exit_weights) != network.exits:
        raise InvalidInput(f"{len(recipe.exit_weights)} exit weights for {network.exits} exits")
    # Convolutions on a CPU train faster on this layout, in bfloat16 by far.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fresh = _copied(network.state_dict())
    trainer = _Trainer(recipe, network, training, held_out, folder, on_step, team)
    start = fresh
    if trunk_from is not None:
        start = with_trunk(fresh, finished_trunk(trunk_from), trunk_from)
    elif recipe.trunk_epochs:
        if (trunk := trainer.run_phase("trunk", fresh, run="trunk" in phases)) is None:
            return None
        start = with_trunk(fresh, trunk, folder)
    joint = None if recipe.frozen else trainer.run_phase("joint", start, run="joint" in phases)
    own_final_exit = recipe.baseline == "final-exit" or network.exits == 1
    baseline = joint if own_final_exit else start
    if recipe.baseline == "trained-on" and not own_final_exit:
        baseline = trainer.run_phase("baseline", start, run="baseline" in phases)
    if recipe.frozen and baseline is not None:
        joint = trainer.run_phase("joint", with_trunk(start, baseline, folder), run="joint" in phases)
    if joint is None or baseline is None:
        return None
    network.load_state_dict(joint)
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return Trained(network.eval(), {name: tensor.contiguous() for name, tensor in trunk_entries(baseline).items()})


@dataclass(frozen=True)
class _Trainer:
    """What does not change while a network is trained."""

    recipe: Recipe
    network: BranchyNet
    training: Dataset
    held_out: Dataset
    folder: Path
    on_step: Callable[[Step], None]
    team: Team

    def run_phase(self, phase: Phase, start: State, *, run: bool) -> State | None:
        """The weights after *phase*, begun at *start* or at its checkpoint; None if it is unfinished and not to *run*.

        The trunk and baseline phases know nothing of the branches, and neither do their checkpoints.
        """
        epochs = self.recipe.epochs_of(phase)
        kept = start if phase == "joint" else trunk_entries(start)
        checkpoint = checkpoints.read(self.folder, phase, self.recipe) or Checkpoint(0, kept)
        if checkpoint.epoch >= epochs or not run:
            return checkpoint.result if checkpoint.epoch >= epochs else None
        network = self.network
        network.load_state_dict(
            with_trunk(start, checkpoint.network, self.folder) if phase != "joint" else checkpoint.network
        )
        fixed = trunk_entries(start) if self.recipe.frozen and phase == "joint" else {}
        learning = [tensor for name, tensor in network.named_parameters() if name in kept and name not in fixed]
        optimiser = _optimiser(learning, self.recipe)
        if checkpoint.optimiser:
            optimiser.load_state_dict(checkpoint.optimiser)
        average = self._average(checkpoint) if self.recipe.averaging and phase != "trunk" else None
        for epoch in range(checkpoint.epoch, epochs):
            started_s = time.monotonic()
            loss = self.run_epoch(phase, epoch, epochs, optimiser, average)
            judged = network if average is None else average.module
            assert isinstance(judged, BranchyNet)
            self._share_statistics(network, judged)
            done = Step(phase, epoch, epochs, 1, 1, loss, exit_accuracies(judged, self.held_out, team=self.team))
            now, averaged = network.state_dict(), {} if average is None else judged.state_dict()
            if phase != "joint":
                now, averaged = trunk_entries(now), trunk_entries(averaged)
            checkpoint = Checkpoint(epoch + 1, now, optimiser.state_dict(), averaged)
            if self.team.leads:
                self.on_step(done)
                _log(self.folder, done, time.monotonic() - started_s)
                checkpoints.write(self.folder, phase, self.recipe, checkpoint)
        return _copied(checkpoint.result)

    def _share_statistics(self, *networks: BranchyNet) -> None:
        """Batch statistics were gathered by each member from what it saw; weights are the same everywhere."""
        for network in networks:
            self.team.average([buffer for buffer in network.buffers() if buffer.is_floating_point()])

    def _average(self, checkpoint: Checkpoint) -> AveragedModel:
        averaging = get_ema_multi_avg_fn(self.recipe.averaging)  # type: ignore[no-untyped-call]
        average = AveragedModel(self.network, multi_avg_fn=averaging, use_buffers=True)
        if checkpoint.average:
            average.module.load_state_dict(checkpoint.average, strict=False)
            average.n_averaged.fill_(1)  # the first update would copy the network's weights over the average
        return average

    def run_epoch(
        self,
        phase: Phase,
        epoch: int,
        epochs: int,
        optimiser: torch.optim.Optimizer,
        average: AveragedModel | None,
    ) -> float:
        """One pass over the training images; the mean loss."""
        recipe, network = self.recipe, self.network
        seed = (recipe.seed * 1_000_003 + PHASES.index(phase)) * 10_007 + epoch
        generator = Generator().manual_seed(seed)
        # Dropout draws from the global generator, and each member for other images.
        torch.manual_seed(seed + self.team.rank * 1_000_000_007)
        _train_mode(network, frozen=recipe.frozen and phase == "joint")
        order = torch.randperm(len(self.training), generator=generator)
        images, labels = torch.from_numpy(self.training.images), torch.from_numpy(self.training.labels)
        steps = len(self.training) // recipe.batch_size or 1
        losses = torch.zeros(steps)
        for step in range(steps):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate_at((epoch * steps + step) / (epochs * steps), phase)
            batch = augmented(images[chosen], recipe.augmentation, generator)
            mine = self.team.share(len(chosen))
            loss = _batch_loss(network, batch[mine], labels[chosen[mine]], recipe, phase)
            losses[step] = loss.detach()
            first = phase == "trunk" and epoch == 0 and step == 0
            _check_loss(float(losses[step]), recipe, first=first, where=f"{phase} epoch {epoch} step {step}")
            optimiser.zero_grad(set_to_none=True)
            # A share that is larger than another's counts for more; shares are equal where the batch can be divided so.
            (loss * (len(batch[mine]) * self.team.size / len(batch))).backward()  # type: ignore[no-untyped-call]
            self.team.average([tensor.grad for tensor in network.parameters() if tensor.grad is not None])
            nn.utils.clip_grad_norm_(network.parameters(), max_norm=5.0)
            optimiser.step()
            if average is not None:
                average.update_parameters(network)
            if self.team.leads:
                self.on_step(Step(phase, epoch, epochs, step + 1, steps, float(losses[step])))
        self.team.average([losses])
        return float(losses.mean())


def _batch_loss(network: BranchyNet, images: Tensor, labels: Tensor, recipe: Recipe, phase: Phase) -> Tensor:
    if phase == "trunk" and recipe.trunk_side:
        images = shrink(images, recipe.trunk_side)
    x = network.normalisation(images).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.precision == "bf16"):
        if phase != "joint":
            return F.cross_entropy(network.trunk(x).float(), labels, label_smoothing=recipe.label_smoothing)
        if not recipe.frozen:
            return joint_loss(network(x), labels, recipe)
        if recipe.distillation:
            *branches, teacher = frozen_logits(network, x)
            return branch_loss(branches, labels, recipe, teacher)
        # Without a teacher nothing past the last branch is needed, which is most of the work.
        return branch_loss(frozen_logits(network, x, stages=_branched_stages(network)), labels, recipe, None)


def _branched_stages(network: BranchyNet) -> int:
    return max(index + 1 for index in range(network.total_stages - 1) if network.stage(index).head is not None)


def _train_mode(network: BranchyNet, *, frozen: bool) -> None:
    """What learns goes to training mode; a frozen trunk keeps its batch statistics and drops nothing out."""
    network.train(not frozen)
    for index in range(network.total_stages - 1):
        if (head := network.stage(index).head) is not None:
            head.train()


def _check_loss(value: float, recipe: Recipe, *, first: bool, where: str) -> None:
    if not math.isfinite(value):
        raise DamagedData(f"the loss is {value} at {where}; lower the learning rate ({recipe.learning_rate})")
    expected = math.log(recipe.architecture.classes)
    if first and value > MAX_FIRST_LOSS_RATIO * expected:
        raise DamagedData(
            f"the first loss is {value:.2f}, fresh weights should give about {expected:.2f}; check the images' range"
        )


def _optimiser(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
        )
    if recipe.optimiser == "muon":
        return Muon(parameters, recipe.learning_rate, recipe.weight_decay)
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    return kind(parameters, recipe.learning_rate, betas=(recipe.beta1, 0.999), weight_decay=recipe.weight_decay)


def _copied(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def _log(folder: Path, done: Step, seconds: float) -> None:
    """Append the epoch that *done* ends to the log."""
    record = {
        "phase": done.phase,
        "epoch": done.epoch + 1,
        "epochs": done.epochs,
        "loss": round(done.loss, 5),
        "held_out_accuracy_by_exit": [round(accuracy, 5) for accuracy in done.accuracies or ()],
        "seconds": round(seconds, 2),
    }
    checkpoints.append_log(folder, record)
