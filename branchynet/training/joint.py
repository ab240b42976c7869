"""Trunk first, then all exits together: BranchyNet's procedure (section III-A), for any `BranchyNet`.

Three phases of one recipe. *trunk* trains the plain network. *joint* goes on from its weights with the weighted sum of
all exits' losses. *baseline* goes on from the same weights with the final exit alone, for as many epochs on the same
schedule: the plain network that the early-exit one is compared with has then had the same training.

Every epoch draws its order, augmentation and dropout from a seed made of the recipe's seed, the phase and the epoch,
and ends with a checkpoint; a run that was stopped goes on to the same weights as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from branchynet.errors import DamagedData, InvalidInput
from branchynet.models import build
from branchynet.network import BranchyNet, Normalisation
from branchynet.training.augmentation import affine, crop_flip
from branchynet.training.datasets import Dataset
from branchynet.training.recipes import Recipe

__all__ = ["PHASES", "ExitLosses", "Phase", "Step", "Trained", "check_data", "exit_accuracies", "joint_loss", "train"]

Phase = Literal["trunk", "joint", "baseline"]
PHASES: tuple[Phase, ...] = ("trunk", "joint", "baseline")
CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
# Fresh weights know nothing, so the first loss is near ln(classes); far above it, inputs or weights are off.
MAX_FIRST_LOSS_RATIO = 4.0

State = dict[str, Tensor]


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
    """What training made: the early-exit *network* and the weights of the plain *baseline* trunk."""

    network: BranchyNet
    baseline: State


@dataclass
class _Run:
    """The state that a checkpoint holds."""

    phase: int
    epoch: int
    network: State
    optimiser: dict[str, Any]
    trunk: State | None = None
    joint: State | None = None


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
    pixels = dataset.images.transpose(1, 0, 2, 3).reshape(dataset.images.shape[1], -1)
    mean, std = pixels.mean(axis=1) / 255, pixels.std(axis=1) / 255
    return Normalisation(tuple(round(float(m), 4) for m in mean), tuple(round(float(s), 4) for s in std))


class ExitLosses(Protocol):
    """What `joint_loss` reads of a recipe; see `Recipe` for the meaning of each."""

    @property
    def exit_weights(self) -> tuple[float, ...]:
        """One weight for each exit."""

    @property
    def label_smoothing(self) -> float:
        """Share of the target that is spread over all classes."""

    @property
    def distillation(self) -> float:
        """Weight of the divergence from the final exit's probabilities."""


def joint_loss(logits: list[Tensor], labels: Tensor, recipe: ExitLosses) -> Tensor:
    """Σ wₙ · cross-entropy(exit n) (section III-A), plus the recipe's distillation from the last exit to the branches.

    *logits*: [B, C] for each exit; *labels*: int64 [B]. The final exit's part in distillation carries no gradient:
    it teaches, it does not learn from the branches.
    """
    total = torch.zeros(())
    teacher = F.log_softmax(logits[-1].detach().float(), dim=1)
    for weight, scored in zip(recipe.exit_weights, logits, strict=True):
        loss = F.cross_entropy(scored.float(), labels, label_smoothing=recipe.label_smoothing)
        if recipe.distillation and scored is not logits[-1]:
            student = F.log_softmax(scored.float(), dim=1)
            loss = loss + recipe.distillation * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        total = total + weight * loss
    return total


@torch.inference_mode()
def exit_accuracies(network: BranchyNet, dataset: Dataset, batch_size: int = 500) -> tuple[float, ...]:
    """Accuracy 0..1 of every exit on *dataset*, each exit answering everything."""
    network.eval()
    right = [0] * network.exits
    for start in range(0, len(dataset), batch_size):
        images = torch.from_numpy(dataset.images[start : start + batch_size])
        labels = torch.from_numpy(dataset.labels[start : start + batch_size])
        for index, scored in enumerate(network(network.normalisation(images))):
            right[index] += int((scored.argmax(1) == labels).sum())
    return tuple(count / len(dataset) for count in right)


def train(
    recipe: Recipe,
    training: Dataset,
    held_out: Dataset,
    folder: Path,
    on_step: Callable[[Step], None] = lambda _: None,
) -> Trained:
    """Train the recipe's network on *training*, going on from the checkpoint in *folder* if there is one.

    *held_out* is only scored at the end of each epoch, for the log `log.jsonl`. Raises `InvalidInput` for data that
    cannot train the network or a checkpoint of another recipe, `DamagedData` if the loss is not finite.
    """
    check_data(training, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    network = build(recipe.architecture, measure_normalisation(training))
    if len(recipe.exit_weights) != network.exits:
        raise InvalidInput(f"{len(recipe.exit_weights)} exit weights for {network.exits} exits")
    memory = torch.channels_last if recipe.precision == "bf16" else torch.contiguous_format
    network.to(memory_format=memory)  # type: ignore[call-overload]
    run = _read_checkpoint(folder, recipe) or _Run(0, 0, network.state_dict(), {})
    trainer = _Trainer(recipe, network, training, held_out, folder, on_step)
    for index in range(run.phase, len(PHASES)):
        trainer.run_phase(index, run)
    assert run.joint is not None
    network.load_state_dict(run.joint)
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return Trained(network.eval(), _without_branches(run.network, network))


@dataclass(frozen=True)
class _Trainer:
    """What does not change while a network is trained."""

    recipe: Recipe
    network: BranchyNet
    training: Dataset
    held_out: Dataset
    folder: Path
    on_step: Callable[[Step], None]

    def run_phase(self, index: int, run: _Run) -> None:
        """Run the rest of phase *index* and leave *run* at the start of the next one."""
        phase = PHASES[index]
        epochs = self.recipe.trunk_epochs if phase == "trunk" else self.recipe.joint_epochs
        self.network.load_state_dict(run.network)
        optimiser = _optimiser(self.network, self.recipe)
        if run.optimiser:
            optimiser.load_state_dict(run.optimiser)
        for epoch in range(run.epoch, epochs):
            started_s = time.monotonic()
            loss = self.run_epoch(phase, epoch, epochs, optimiser)
            accuracies = exit_accuracies(self.network, self.held_out)
            done = Step(phase, epoch, epochs, 1, 1, loss, accuracies)
            self.on_step(done)
            _log(self.folder, done, time.monotonic() - started_s)
            run.phase, run.epoch = index, epoch + 1
            run.network, run.optimiser = self.network.state_dict(), optimiser.state_dict()
            _write_checkpoint(self.folder, self.recipe, run)
        finished = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        if phase == "trunk":
            run.trunk = finished
        elif phase == "joint":
            run.joint = finished
        # The joint phase goes on from the trunk's weights, and so does the baseline.
        run.network = run.trunk if phase != "baseline" and run.trunk is not None else finished
        run.phase, run.epoch, run.optimiser = index + 1, 0, {}
        _write_checkpoint(self.folder, self.recipe, run)

    def run_epoch(self, phase: Phase, epoch: int, epochs: int, optimiser: torch.optim.Optimizer) -> float:
        """One pass over the training images; the mean loss."""
        recipe, network = self.recipe, self.network
        seed = (recipe.seed * 1_000_003 + PHASES.index(phase)) * 10_007 + epoch
        generator = Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout draws from the global generator
        network.train()
        order = torch.randperm(len(self.training), generator=generator)
        images, labels = torch.from_numpy(self.training.images), torch.from_numpy(self.training.labels)
        steps = len(self.training) // recipe.batch_size or 1
        losses = torch.zeros(steps)
        for step in range(steps):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate_at((epoch * steps + step) / (epochs * steps))
            loss = _batch_loss(network, _augment(images[chosen], recipe, generator), labels[chosen], recipe, phase)
            losses[step] = loss.detach()
            first = phase == "trunk" and epoch == 0 and step == 0
            _check_loss(float(losses[step]), recipe, first=first, where=f"{phase} epoch {epoch} step {step}")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), max_norm=5.0)
            optimiser.step()
            self.on_step(Step(phase, epoch, epochs, step + 1, steps, float(losses[step])))
        return float(losses.mean())


def _batch_loss(network: BranchyNet, images: Tensor, labels: Tensor, recipe: Recipe, phase: Phase) -> Tensor:
    x = network.normalisation(images)
    if recipe.precision == "bf16":
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits = network(x) if phase == "joint" else [network.trunk(x)]
    if phase == "joint":
        return joint_loss(logits, labels, recipe)
    return F.cross_entropy(logits[0].float(), labels, label_smoothing=recipe.label_smoothing)


def _check_loss(value: float, recipe: Recipe, *, first: bool, where: str) -> None:
    if not math.isfinite(value):
        raise DamagedData(f"the loss is {value} at {where}; lower the learning rate ({recipe.learning_rate})")
    expected = math.log(recipe.architecture.classes)
    if first and value > MAX_FIRST_LOSS_RATIO * expected:
        raise DamagedData(
            f"the first loss is {value:.2f}, fresh weights should give about {expected:.2f}; check the images' range"
        )


def _augment(images: Tensor, recipe: Recipe, generator: Generator) -> Tensor:
    if recipe.augmentation == "crop-flip":
        return crop_flip(images, generator)
    if recipe.augmentation == "affine":
        return affine(images, generator)
    return images


def _optimiser(network: BranchyNet, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            recipe.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=recipe.weight_decay,
        )
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    return kind(
        network.parameters(),
        recipe.learning_rate,
        betas=(recipe.beta1, 0.999),
        weight_decay=recipe.weight_decay,
    )


def _without_branches(state: Mapping[str, Tensor], network: BranchyNet) -> State:
    """The entries of the trunk and the final exit's head."""
    final = f"stages.{network.total_stages - 1}.head."
    return {name: tensor.contiguous() for name, tensor in state.items() if ".trunk." in name or name.startswith(final)}


def _log(folder: Path, done: Step, seconds: float) -> None:
    """Append the epoch that *done* ends to the log, one JSON object a line."""
    record = {
        "phase": done.phase,
        "epoch": done.epoch + 1,
        "epochs": done.epochs,
        "loss": round(done.loss, 5),
        "held_out_accuracy_by_exit": [round(accuracy, 5) for accuracy in done.accuracies or ()],
        "seconds": round(seconds, 2),
    }
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(record) + "\n")


def _write_checkpoint(folder: Path, recipe: Recipe, run: _Run) -> None:
    temporary = folder / f".{CHECKPOINT}.tmp"
    torch.save({"recipe": json.dumps(recipe.to_json()), **vars(run)}, temporary)
    temporary.replace(folder / CHECKPOINT)


def _read_checkpoint(folder: Path, recipe: Recipe) -> _Run | None:
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        saved = torch.load(path, weights_only=True)
        theirs, run = json.loads(saved.pop("recipe")), _Run(**saved)
    except (RuntimeError, EOFError, UnpicklingError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise DamagedData(f"{path} is no checkpoint of ours ({error!r}); delete it to start again") from None
    ours = json.loads(json.dumps(recipe.to_json()))
    if theirs != ours:
        changed = [
            f"{key}: {theirs.get(key)!r} there, {ours[key]!r} asked" for key in ours if theirs.get(key) != ours[key]
        ]
        raise InvalidInput(f"{path} belongs to another recipe ({'; '.join(changed)}); choose another --run folder")
    return run
