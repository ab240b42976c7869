"""Can a score be trusted? Ranking the wrong answers last (AURC, AUROC), and meaning what it says (ECE, temperature).

These are properties of an exit, apart from any threshold: what a threshold then saves is another question, and
`branchynet.exits.threshold_search` answers it. In all of them *confidence* is float64 [N], higher is surer, and
*correct* is bool [N]; samples of equal confidence count as in any order, so that ties earn nothing and lose nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

__all__ = [
    "BINS",
    "Bins",
    "aurc",
    "auroc",
    "expected_calibration_error",
    "fit_temperature",
    "reliability_bins",
    "risk_coverage",
]

Floats = NDArray[np.float64]

BINS = 15
# Beyond these an exit is certain of everything, or of nothing; float32 logits say no more.
TEMPERATURES = (0.02, 50.0)


def risk_coverage(confidence: Floats, correct: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Coverage k/N and the share of errors among the k surest samples, k = 1 … N: float64 [N] each.

    Geifman and El-Yaniv 2017, section 2. Among samples of equal confidence errors come at an even rate.
    """
    _check(confidence, correct)
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    errors = np.bincount(group, ~correct)
    seen = np.arange(1, len(correct) + 1)
    return seen / len(correct), np.cumsum(np.repeat(errors / sizes, sizes)) / seen


def aurc(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Area under the risk-coverage curve, 0 … 1, lower is better: the mean risk over all coverages.

    Geifman, Uziel and El-Yaniv 2019, section 3. It depends on the exit's accuracy too: compare scores of one exit.
    """
    return float(risk_coverage(confidence, correct)[1].mean())


def auroc(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Probability that a right answer is surer than a wrong one, ties counting half; NaN if there is only one kind.

    Failure prediction as in Hendrycks and Gimpel 2017, section 2; the area is the Mann-Whitney statistic (Hanley and
    McNeil 1982).
    """
    _check(confidence, correct)
    right, wrong = int(correct.sum()), int((~correct).sum())
    if not right or not wrong:
        return math.nan
    _, group, sizes = np.unique(confidence, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[group]
    return float((ranks[correct].sum() - right * (right + 1) / 2) / (right * wrong))


@dataclass(frozen=True, slots=True)
class Bins:
    """Samples binned by confidence: mean *confidence*, *accuracy* and *share* of all samples, float64 [K] each."""

    confidence: Floats
    accuracy: Floats
    share: Floats


def reliability_bins(probability: Floats, correct: NDArray[np.bool_], bins: int = BINS, *, adaptive: bool) -> Bins:
    """The bins of a reliability diagram (Niculescu-Mizil and Caruana 2005, section 4) that are not empty.

    *probability*: 0 … 1, that the answer is right. Bins are equally wide (Guo et al. 2017, section 2), or, if
    *adaptive*, hold equally many samples (Nixon et al. 2019, section 4), which tells more where most
    are nearly certain.
    """
    _check(probability, correct)
    if probability.min() < 0 or probability.max() > 1:
        raise InvalidInput(f"probabilities lie between {probability.min()} and {probability.max()}, not 0 and 1")
    samples = len(correct)
    if adaptive:
        # Equal probabilities go into one bin: that of the first of them.
        distinct, group = np.unique(probability, return_inverse=True)
        first = np.searchsorted(np.sort(probability), distinct)
        number = (first * bins // samples)[group]
    else:
        number = np.minimum(np.ceil(probability * bins).astype(np.int64) - 1, bins - 1).clip(0)
    counts = np.bincount(number, minlength=bins)
    full = counts > 0
    return Bins(
        np.bincount(number, probability, minlength=bins)[full] / counts[full],
        np.bincount(number, correct, minlength=bins)[full] / counts[full],
        counts[full] / samples,
    )


def expected_calibration_error(
    probability: Floats, correct: NDArray[np.bool_], bins: int = BINS, *, adaptive: bool
) -> float:
    """How far *probability* and the share of right answers lie apart, 0 … 1, on the mean over the bins' samples.

    ECE of Naeini et al. 2015, section 3; bins as in `reliability_bins`.
    """
    binned = reliability_bins(probability, correct, bins, adaptive=adaptive)
    return float(np.abs(binned.confidence - binned.accuracy) @ binned.share)


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The temperature T that makes softmax(*logits* / T) most likely for *labels* (Guo et al. 2017, section 4.2).

    *logits*: [N, C]; *labels*: [N]. The negative log-likelihood is convex in 1/T; its slope is the mean difference
    between the expected and the labelled logit, and bisection finds where it is 0, or the end of `TEMPERATURES`.
    """
    if len(logits) == 0 or labels.shape != logits.shape[:1]:
        raise InvalidInput(f"logits {logits.shape} do not fit labels {labels.shape}")
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    labelled = shifted[np.arange(len(labels)), labels].mean()

    def slope(temperature: float) -> float:
        exponentials = np.exp(shifted / temperature)
        return float(((exponentials * shifted).sum(axis=1) / exponentials.sum(axis=1)).mean() - labelled)

    low, high = TEMPERATURES
    if slope(low) <= 0:
        return low
    if slope(high) >= 0:
        return high
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return high


def _check(confidence: Floats, correct: NDArray[np.bool_]) -> None:
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(correct):
        raise InvalidInput(f"confidence {confidence.shape} does not fit correct {correct.shape}")
    if not np.isfinite(confidence).all():
        raise InvalidInput(f"the confidence of sample {np.isfinite(confidence).argmin()} is not a finite number")
