"""What the exits learn from: the labels, and the final exit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from branchynet.network.stages import BranchyNet

__all__ = ["ExitLosses", "branch_loss", "frozen_logits", "joint_loss"]


class ExitLosses(Protocol):
    """What the losses read of a recipe; see `Recipe` for the meaning of each."""

    @property
    def exit_weights(self) -> tuple[float, ...]:
        """One weight for each exit."""

    @property
    def label_smoothing(self) -> float:
        """Share of the target that is spread over all classes."""

    @property
    def distillation(self) -> float:
        """Weight of the divergence from the final exit's probabilities."""


def joint_loss(logits: Sequence[Tensor], labels: Tensor, recipe: ExitLosses) -> Tensor:
    """Σ wₙ · cross-entropy(exit n) (section III-A), plus the recipe's distillation from the last exit to the branches.

    *logits*: [B, C] for each exit; *labels*: int64 [B]. The final exit's part in distillation carries no gradient:
    it teaches, it does not learn from the branches.
    """
    if len(recipe.exit_weights) != len(logits):
        raise ValueError(f"{len(recipe.exit_weights)} exit weights for {len(logits)} exits")
    final = F.cross_entropy(logits[-1].float(), labels, label_smoothing=recipe.label_smoothing)
    return branch_loss(logits[:-1], labels, recipe, logits[-1].detach()) + recipe.exit_weights[-1] * final


def branch_loss(logits: Sequence[Tensor], labels: Tensor, recipe: ExitLosses, teacher: Tensor | None) -> Tensor:
    """`joint_loss` without the final exit's own part; *teacher* is its logits, None for no distillation."""
    total = torch.zeros(())
    for weight, scored in zip(recipe.exit_weights, logits, strict=False):
        loss = F.cross_entropy(scored.float(), labels, label_smoothing=recipe.label_smoothing)
        if recipe.distillation and teacher is not None:
            student = F.log_softmax(scored.float(), dim=1)
            target = F.log_softmax(teacher.float(), dim=1)
            loss = loss + recipe.distillation * F.kl_div(student, target, reduction="batchmean", log_target=True)
        total = total + weight * loss
    return total


def frozen_logits(network: BranchyNet, x: Tensor, *, stages: int | None = None) -> list[Tensor]:
    """Logits of every exit in the first *stages* stages (all if None), with gradients for the branches' heads alone."""
    logits = []
    for index in range(network.total_stages if stages is None else stages):
        stage = network.stage(index)
        with torch.no_grad():
            x = stage.trunk(x)
        if stage.head is not None:
            with torch.set_grad_enabled(index < network.total_stages - 1):
                logits.append(stage.head(x))
    return logits
