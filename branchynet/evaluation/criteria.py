"""Criteria compared on images that neither their temperatures, their gates nor their thresholds have seen.

Two questions, kept apart. Is an exit's score to be trusted (AURC, AUROC, ECE)? That knows no threshold. And what does
it save at equal accuracy? That depends on the thresholds too, and so on how they were chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.evaluation.calibrate import choose_rule
from branchynet.evaluation.fit import fit_rule
from branchynet.exits.calibration_metrics import aurc, auroc, expected_calibration_error
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule

__all__ = ["CANDIDATES", "Figures", "candidate_name", "compare_criteria", "confidence"]

# A temperature changes no label, and so nothing for patience.
CANDIDATES = tuple(
    (criterion, tempered)
    for criterion in Criterion
    for tempered in (False, True)
    if not (criterion is Criterion.PATIENCE and tempered)
)
# Each name with one value for each exit, or one in all.
Figures = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class CriterionResult:
    """One candidate's figures on unseen images.

    *mean* and *spread* (standard deviation) over the halvings of the calibration split; *test*: on the test set, with
    everything chosen on the whole calibration split; None without one. The names are those of `judge`.
    """

    criterion: Criterion
    tempered: bool
    mean: Figures
    spread: Figures
    test: Figures | None

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, None where a figure has no meaning."""
        return {
            "criterion": self.criterion.value,
            "tempered": self.tempered,
            "mean": _plain(self.mean),
            "spread": _plain(self.spread),
            "test": None if self.test is None else _plain(self.test),
        }


def candidate_name(criterion: Criterion, tempered: bool) -> str:
    """A candidate for readers: `margin, T`."""
    return criterion.value + (", T" if tempered else "")


def compare_criteria(
    table: OutcomeTable,
    drop_points: float,
    halvings: int,
    test: OutcomeTable | None = None,
    on_fit: Callable[[int], None] = lambda _done: None,
) -> list[CriterionResult]:
    """Every one of `CANDIDATES` on the same *halvings* of *table*: fitted on one half, judged on the other.

    With *test* also fitted on all of *table* and judged there. *on_fit* receives how many fits are done, of
    `len(CANDIDATES) * (halvings + 1)` at most. Raises `InvalidInput` for less than two halvings, `SettingsError`
    without scikit-learn.
    """
    if halvings < 2:
        raise InvalidInput(f"halvings is {halvings}; a spread needs at least 2")
    half = len(table.labels) // 2
    orders = [np.random.default_rng(seed).permutation(len(table.labels)) for seed in range(halvings)]
    pairs = [(table.take(order[:half]), table.take(order[half:])) for order in orders]
    compared, done = [], 0
    for criterion, tempered in CANDIDATES:
        rows = []
        for chosen_on, judged_on in pairs:
            rows.append(judge(fit_and_choose(chosen_on, criterion, tempered, drop_points), judged_on))
            done += 1
            on_fit(done)
        on_test = None if test is None else judge(fit_and_choose(table, criterion, tempered, drop_points), test)
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        compared.append(
            CriterionResult(
                criterion,
                tempered,
                {name: values.mean(axis=0) for name, values in stacked.items()},
                {name: values.std(axis=0, ddof=1) for name, values in stacked.items()},
                on_test,
            )
        )
    return compared


def fit_and_choose(table: OutcomeTable, criterion: Criterion, tempered: bool, drop_points: float) -> ExitRule:
    """The cheapest rule on *table* within *drop_points* percentage points of its final exit, all chosen there."""
    return choose_rule(table, fit_rule(table, criterion, tempered=tempered), drop_points)[1].rule


def judge(rule: ExitRule, table: OutcomeTable) -> Figures:
    """*rule* on *table*, which it must not have seen.

    For each of the E exits `aurc`, `auroc`, `ece` (bins of equally many samples) and `ece_equal_width`, NaN where they
    have no meaning: only a probability of being right can be calibrated, and a gate has no final exit. In all: `drop`
    (accuracy lost to the final exit, 0..1), `accuracy`, `cost`; and `exit_shares` [E].
    """
    figures = {name: np.full(table.exits, math.nan) for name in ("aurc", "auroc", "ece", "ece_equal_width")}
    gate = rule.criterion is Criterion.GATE
    for number, (score, correct) in enumerate(zip(confidence(rule, table), table.correct, strict=True)):
        if gate and number == table.exits - 1:
            continue
        figures["aurc"][number] = aurc(score, correct)
        figures["auroc"][number] = auroc(score, correct)
        if gate or rule.criterion is Criterion.MAX_PROBABILITY:
            figures["ece"][number] = expected_calibration_error(score, correct, adaptive=True)
            figures["ece_equal_width"][number] = expected_calibration_error(score, correct, adaptive=False)
    result = table.apply(rule)
    return {
        **figures,
        "drop": np.array(table.correct[-1].mean() - result.accuracy),
        "accuracy": np.array(result.accuracy),
        "cost": np.array(result.cost),
        "exit_shares": np.array(result.exit_shares),
    }


def confidence(rule: ExitRule, table: OutcomeTable) -> NDArray[np.float64]:
    """How sure each exit is of each sample, higher is surer: float64 [E, N]."""
    scores = table.scores(rule)
    return -scores if rule.criterion is Criterion.ENTROPY else scores


def _plain(figures: Figures) -> dict[str, Any]:
    return {name: _without_nan(values.tolist()) for name, values in figures.items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if math.isnan(value) else value
