"""Table I of the paper, as data: what our own networks are set beside.

Source: S. Teerapittayanon, B. McDanel, H. T. Kung, "BranchyNet: Fast Inference via Early Exiting from Deep Neural
Networks", ICPR 2016, Table I (CPU: 3.0 GHz with 20 MB L3; GPU: GTX TITAN X; batch 1, mean over all test samples);
epochs from the scripts of the release. Two things to know when reading it: thresholds were chosen on the test set, at
the knee of the accuracy-runtime curve; and the released timing code stops its clock before the branch heads, the
softmax and the entropy, so the gains are to be compared with ours *without* heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from branchynet.exits.rules import Criterion, ExitRule
from branchynet.models.architectures import Architecture, cost

__all__ = ["TABLE_I", "PaperResult"]


@dataclass(frozen=True, slots=True)
class PaperResult:
    """One network of Table I. *artifact*: the name of ours, also of its recipe. Accuracies and shares are 0..1."""

    artifact: str
    architecture: Architecture
    trunk_accuracy: float
    accuracy: float
    thresholds: tuple[float, ...]
    exit_shares: tuple[float, ...]
    trunk_ms: float
    ms: float
    gain: float
    gpu_trunk_ms: float
    gpu_ms: float
    gpu_gain: float
    epochs: tuple[int, int]

    @property
    def rule(self) -> ExitRule:
        """The paper's rule: entropy in nats below T (section III-C)."""
        return ExitRule(Criterion.ENTROPY, self.thresholds)

    @property
    def trunk_macs(self) -> int:
        """Our count of MACs for the released trunk."""
        return cost(self.architecture).trunk_macs

    def macs(self, *, heads: bool) -> float:
        """Our count of MACs for the released layers at the paper's own exit shares, with or without branch heads."""
        return float(np.array(self.exit_shares) @ cost(self.architecture).macs_by_exit(heads=heads))


TABLE_I = (
    PaperResult(
        artifact="paper-lenet-mnist",
        architecture=Architecture("b-lenet", "code"),
        trunk_accuracy=0.9920,
        accuracy=0.9925,
        thresholds=(0.025,),
        exit_shares=(0.943, 0.0563),
        trunk_ms=3.37,
        ms=0.62,
        gain=5.4,
        gpu_trunk_ms=1.58,
        gpu_ms=0.34,
        gpu_gain=4.7,
        epochs=(50, 100),
    ),
    PaperResult(
        artifact="paper-alexnet-cifar10",
        architecture=Architecture("b-alexnet", "code"),
        trunk_accuracy=0.7838,
        accuracy=0.7919,
        thresholds=(0.0001, 0.05),
        exit_shares=(0.656, 0.252, 0.092),
        trunk_ms=9.56,
        ms=6.32,
        gain=1.5,
        gpu_trunk_ms=3.15,
        gpu_ms=1.30,
        gpu_gain=2.4,
        epochs=(50, 100),
    ),
    PaperResult(
        artifact="paper-resnet110-cifar10",
        architecture=Architecture("b-resnet-110", "code"),
        trunk_accuracy=0.8070,
        accuracy=0.7917,
        thresholds=(0.3, 0.2),
        exit_shares=(0.415, 0.138, 0.447),
        trunk_ms=137.20,
        ms=73.5,
        gain=1.9,
        gpu_trunk_ms=70.9,
        gpu_ms=37.2,
        gpu_gain=1.9,
        epochs=(100, 100),
    ),
)
