"""What a rule knows before its thresholds are chosen, fitted on a calibration table: temperatures and gates."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import need
from branchynet.exits.calibration_metrics import fit_temperature
from branchynet.exits.gates import Gate, features
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule

__all__ = ["fit_gate", "fit_rule"]

# The log-likelihood has one maximum; more steps than this say that a feature is not on the scale of the others.
MAX_STEPS = 1_000


def fit_rule(table: OutcomeTable, criterion: Criterion, *, tempered: bool = False) -> ExitRule:
    """A rule of *criterion* at which nobody leaves yet, with what it needs fitted on *table*.

    *tempered*: with a temperature for each exit. Raises `SettingsError` for a gate without scikit-learn.
    """
    temperatures = tuple(fit_temperature(logits, table.labels) for logits in table.logits) if tempered else ()
    gates: tuple[Gate, ...] = ()
    if criterion is Criterion.GATE:
        gates = tuple(
            fit_gate(table.logits[number] / (temperatures[number] if tempered else 1.0), table.correct[number])
            for number in range(table.exits - 1)
        )
    return ExitRule(criterion, (criterion.never,) * (table.exits - 1), temperatures, gates)


def fit_gate(logits: NDArray[np.floating], correct: NDArray[np.bool_]) -> Gate:
    """The gate of an exit with *logits* [N, C] that was right where *correct*, bool [N], is set.

    A logistic regression with scikit-learn's own weak penalty (C = 1) on standardised features; the scale is folded
    into the weights. An exit that is always right, or never, gets a gate with as much confidence as N samples give
    (Laplace's rule of succession). Raises `SettingsError` without scikit-learn.
    """
    known = features(logits)
    right, samples = int(correct.sum()), len(correct)
    if right in (0, samples):
        return Gate((0.0,) * known.shape[1], math.log((right + 1) / (samples - right + 1)))
    need("sklearn")
    from sklearn.linear_model import LogisticRegression

    mean, scale = known.mean(axis=0), known.std(axis=0)
    scale[scale < 1e-9] = 1.0
    fitted = LogisticRegression(max_iter=MAX_STEPS).fit((known - mean) / scale, correct)
    weights = fitted.coef_[0] / scale
    return Gate(tuple(weights), float(fitted.intercept_[0] - weights @ mean))
