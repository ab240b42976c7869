"""Muon: momentum whose step is made orthogonal, for convolutions.

From Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". PyTorch has it for matrices alone,
and without the fixed norm below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from branchynet.errors import InvalidInput

__all__ = ["Muon", "orthogonal"]

# Of a quintic that takes singular values 0..1 to about 0.7 to 1.2 in few steps (Jordan et al. 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_STEPS = 3
MOMENTUM = 0.9
# Filters of a fixed norm, whose steps are all as long, take one that forgets sooner.
NORMALISED_MOMENTUM = 0.6


class Muon(torch.optim.Optimizer):
    """Muon for convolutions, Nesterov momentum with weight decay for all else.

    *normalised*: a normalisation follows each convolution, so the length of its filters means nothing. They are then
    brought back to a mean norm of 1 before each step, which makes the learning rate the share of themselves by which
    they turn.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        weight_decay: float = 0.0,
        *,
        normalised: bool = True,
    ) -> None:
        every = list(parameters)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in every if p.ndim == 4], "convolutions": True},
            {"params": [p for p in every if p.ndim != 4], "convolutions": False},
        ]
        super().__init__(
            [group for group in groups if group["params"]], {"lr": learning_rate, "weight_decay": weight_decay}
        )
        self.normalised = normalised

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient; `InvalidInput` for a *closure*, which it has no use for."""
        if closure is not None:
            raise InvalidInput("Muon takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                decay = 0.0 if group["convolutions"] else group["weight_decay"]
                momentum = NORMALISED_MOMENTUM if group["convolutions"] and self.normalised else MOMENTUM
                step = self._nesterov(parameter, parameter.grad.add(parameter, alpha=decay), momentum)
                if group["convolutions"]:
                    if self.normalised:
                        parameter.mul_(len(parameter) ** 0.5 / parameter.norm().clamp_min(1e-12))
                    step = orthogonal(step.flatten(1)).view(step.shape)
                parameter.add_(step, alpha=-group["lr"])

    def _nesterov(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        kept: Tensor = state["momentum"]
        kept.mul_(momentum).add_(gradient)
        return gradient.add(kept, alpha=momentum)


def orthogonal(matrix: Tensor) -> Tensor:
    """*matrix* [M, N] with all its singular values near 1, by Newton-Schulz steps."""
    a, b, c = _QUINTIC
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x: Tensor = wide / (wide.norm() + 1e-7)
    for _ in range(_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
