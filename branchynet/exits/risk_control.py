"""Exit rules with a guarantee: learn then test (Angelopoulos et al. 2021), for any number of thresholds.

What is promised: over the draw of the calibration set, with probability *confidence* at least, the mean loss of the
chosen rule on new samples of the same distribution is below *tolerated_loss*. Three things make it true.

1. A part of the samples draws a *path* of rules, from one that lets hardly anybody leave to one that lets everybody.
   The other part tests it and has no part in it. (Jazbec et al. 2024, "Fast yet safe", share one threshold among all
   exits instead; here each exit keeps its own.)
2. Each rule's p-value for "my mean loss is *tolerated_loss* or more" is valid for any distribution (`bounds`).
3. Fixed-sequence testing: the rules are tested in the order of the path at the full level 1 - *confidence*, until the
   first that fails. For *any* wrong rule to pass, the first wrong one on the path must pass, and that alone has a
   probability of at most 1 - *confidence*. So all that passed are good at once, and the cheapest may be taken.

It is a promise about samples like those of calibration. `drift` watches whether they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.confidence_bounds import Bound, Losses, check_share
from branchynet.exits.outcomes import OutcomeTable, RuleResult
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.exits.threshold_search import candidate_thresholds

__all__ = ["Loss", "RiskControlled", "certified", "control_risk", "losses_along", "safe_path", "split"]

Floats = NDArray[np.float64]

DESIGN_SHARE = 0.2
STEPS_PER_EXIT = 48


class Loss(StrEnum):
    """What a sample loses by leaving early, against the final exit. Each is at most the next, on every sample.

    - `accuracy-gap`: [final exit right] - [answer right], -1, 0 or 1: where an early exit knows better, it makes up for
      another's mistake.
    - `new-errors`: 1 where the final exit is right and the answer is wrong; nothing makes up for it.
    - `disagreement`: 1 where the answer differs from the final exit's. Needs no labels.
    """

    ACCURACY_GAP = "accuracy-gap"
    NEW_ERRORS = "new-errors"
    DISAGREEMENT = "disagreement"

    @property
    def least(self) -> int:
        """The lowest loss of a sample."""
        return -1 if self is Loss.ACCURACY_GAP else 0

    @property
    def bound(self) -> Bound:
        """The tightest bound for it."""
        return Bound.BETTING if self is Loss.ACCURACY_GAP else Bound.BINOMIAL

    def of(self, table: OutcomeTable) -> Losses:
        """The loss of each sample if it left at each exit: int8 [E, N]; 0 at the last exit."""
        if self is Loss.DISAGREEMENT:
            answers = table.logits.argmax(axis=2)
            return np.asarray(answers != answers[-1], dtype=np.int8)
        right = table.correct.astype(np.int8)
        gap = np.asarray(right[-1] - right)
        return gap if self is Loss.ACCURACY_GAP else np.maximum(gap, 0)


@dataclass(frozen=True, slots=True)
class RiskControlled:
    """A rule whose mean *loss* is below *tolerated_loss* with *confidence*, as `control_risk` found it.

    *result*: what the rule does on the *samples* that tested it; *observed_loss*: its mean loss there. *path_samples*
    drew a path of *tried* rules, of which the first *certified* passed. If that is 0, nothing that leaves early could
    be promised, and the rule is that of the full network.
    """

    result: RuleResult
    loss: Loss
    tolerated_loss: float
    confidence: float
    bound: Bound
    observed_loss: float
    samples: int
    path_samples: int
    certified: int
    tried: int

    @property
    def rule(self) -> ExitRule:
        """The rule."""
        return self.result.rule

    def to_json(self) -> dict[str, Any]:
        """What an artifact's manifest keeps of the guarantee."""
        return {
            "loss": self.loss.value,
            "tolerated_loss": self.tolerated_loss,
            "confidence": self.confidence,
            "bound": self.bound.value,
            "observed_loss": round(self.observed_loss, 6),
            "samples": self.samples,
            "path_samples": self.path_samples,
        }


def control_risk(
    table: OutcomeTable,
    criterion: Criterion,
    tolerated_loss: float,
    confidence: float,
    loss: Loss = Loss.ACCURACY_GAP,
    bound: Bound | None = None,
    seed: int = 0,
) -> RiskControlled:
    """The cheapest rule of a path whose mean *loss* is proved to be below *tolerated_loss* with *confidence*.

    *table*: held-out samples, drawn like those to come; nothing that makes their scores may have been fitted on them.
    *bound*: the loss's own if not given. *seed*: draws which samples make the path.

    Raises `InvalidInput` for a tolerated loss or confidence outside (0, 1), and for fewer samples than could prove it
    even without a single loss, saying how many would.
    """
    bound = bound or loss.bound
    check_share("tolerated loss", tolerated_loss)
    check_share("confidence", confidence)
    design, test = split(table, seed)
    needed = bound.samples_needed(loss.least, tolerated_loss, confidence)
    if len(test.labels) < needed:
        raise InvalidInput(
            f"{len(table.labels):,} samples cannot prove a loss below {tolerated_loss:g} with confidence "
            f"{confidence:g}: {len(test.labels):,} of them are left to test with, and even without a single loss "
            f"that takes {needed:,}, so {math.ceil(needed / (1 - DESIGN_SHARE)):,} in all"
        )
    path = safe_path(design, criterion, loss)
    losses, costs = losses_along(test, criterion, path, loss)
    passed = certified(bound.p_values(losses, loss.least, tolerated_loss, confidence), confidence)
    best = int(costs[:passed].argmin()) if passed else None
    never = (criterion.never,) * (table.exits - 1)
    rule = ExitRule(criterion, never if best is None else tuple(path[best].tolist()))
    return RiskControlled(
        result=test.apply(rule),
        loss=loss,
        tolerated_loss=tolerated_loss,
        confidence=confidence,
        bound=bound,
        observed_loss=0.0 if best is None else float(losses[best].mean()),
        samples=len(test.labels),
        path_samples=len(design.labels),
        certified=passed,
        tried=len(path),
    )


def split(table: OutcomeTable, seed: int) -> tuple[OutcomeTable, OutcomeTable]:
    """The samples that draw the path, a fifth, and those that test it; both in a random order."""
    order = np.random.default_rng(seed).permutation(len(table.labels))
    design = round(DESIGN_SHARE * len(order))
    return table.take(order[:design]), table.take(order[design:])


def safe_path(design: OutcomeTable, criterion: Criterion, loss: Loss) -> Floats:
    """Thresholds, float64 [R, E - 1], from hardly anybody leaving early to everybody at the first exit.

    From rule to rule one exit is loosened by one step: the exit that on *design* saves the most cost for each loss
    it adds. The steps are even quantiles of all samples' scores, and of the scores of those with something to lose:
    these crowd where the first do not look.
    """
    scores, per_exit = design.scores(criterion)[:-1], loss.of(design)
    samples = np.arange(len(design.labels))
    axes = []
    for row, losses in zip(scores, per_exit[:-1], strict=True):
        candidates = {*candidate_thresholds(row, criterion, STEPS_PER_EXIT).tolist(), criterion.always}
        if losses.any():
            candidates.update(candidate_thresholds(row[losses != 0], criterion, STEPS_PER_EXIT).tolist())
        axes.append(sorted(candidates, key=lambda threshold: abs(threshold - criterion.never)))

    def thresholds(place: tuple[int, ...]) -> list[float]:
        return [axis[position] for axis, position in zip(axes, place, strict=True)]

    def totals(place: tuple[int, ...]) -> tuple[float, float]:
        taken = _taken(scores, criterion, np.array([thresholds(place)]))[0]
        return float(per_exit[taken, samples].sum()), float(design.costs[taken].sum())

    place, path = (0,) * len(axes), []
    lost, cost = totals(place)
    while any(position + 1 < len(axis) for axis, position in zip(axes, place, strict=True)):
        steps = []
        for index in np.flatnonzero([position + 1 < len(axis) for axis, position in zip(axes, place, strict=True)]):
            further = tuple(position + (number == index) for number, position in enumerate(place))
            more_lost, less_cost = totals(further)
            saved = cost - less_cost
            price = (more_lost - lost) / saved if saved > 0 else -math.inf
            steps.append((price, less_cost, more_lost, further))
        _, cost, lost, place = min(steps)
        path.append(thresholds(place))
    return np.array(path, dtype=np.float64).reshape(len(path), len(axes))


def losses_along(table: OutcomeTable, criterion: Criterion, path: Floats, loss: Loss) -> tuple[Losses, Floats]:
    """Loss of each sample, int8 [R, N], and mean cost, float64 [R], under each rule of *path* [R, E - 1]."""
    taken = _taken(table.scores(criterion)[:-1], criterion, path)
    return loss.of(table)[taken, np.arange(len(table.labels))], table.costs[taken].mean(axis=1)


def certified(p_values: Floats, confidence: float) -> int:
    """How many rules pass before the first that does not: fixed-sequence testing."""
    return int(np.append(p_values > 1 - confidence, True).argmax())


def _taken(scores: Floats, criterion: Criterion, path: Floats) -> NDArray[np.int8]:
    """The exit, int8 [R, N], at which each sample leaves, from *scores* [E - 1, N] and thresholds [R, E - 1]."""
    taken = np.full((len(path), scores.shape[1]), len(scores), dtype=np.int8)
    for number, thresholds in enumerate(path):
        for index in reversed(range(len(scores))):
            taken[number][criterion.confident(scores[index], float(thresholds[index]))] = index
    return taken
