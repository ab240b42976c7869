"""Choose an artifact's exit rule on the images that were held out from its training, and record what follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from branchynet.artifact.artifact import Artifact
from branchynet.evaluation.codec_study import calibrated_ranges
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.drift import Reference
from branchynet.exits.operating_points import operating_points
from branchynet.exits.outcomes import OutcomeTable, RuleResult
from branchynet.exits.paired_tests import difference_points
from branchynet.exits.risk_control import RiskControlled
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.exits.threshold_search import frontier, select

__all__ = [
    "calibration_table",
    "choose_rule",
    "copy_with_rule",
    "drift_reference",
    "record_reference",
    "result_json",
]


def calibration_table(artifact: Artifact, data: Path | None) -> OutcomeTable:
    """The outcomes of *artifact* on the images that were held out when it was trained."""
    network = artifact.runner(engine=artifact.reference_engine)
    return measure_outcomes(network, artifact.manifest.cost, artifact.calibration_split(data)[1])


def choose_rule(
    table: OutcomeTable, rule: ExitRule | Criterion, accuracy_drop_points: float
) -> tuple[list[RuleResult], RuleResult]:
    """The frontier of *rule*'s thresholds, and the cheapest on it.

    It loses at most *accuracy_drop_points* percentage points to the final exit.
    """
    front = frontier(table, rule)
    return front, select(front, float(table.correct[-1].mean()) - accuracy_drop_points / 100)


def copy_with_rule(
    artifact: Artifact, out: Path, table: OutcomeTable, rule: ExitRule, guarantee: RiskControlled | None = None
) -> Artifact:
    """Copy *artifact* to *out* (its own folder is fine) with another *rule*, chosen on *table*.

    What was measured with the old rule is dropped; what the new one does on *table* is recorded, with its *guarantee*
    if it has one, with the scores there, which an edge that watches its exits compares with, and with the operating
    points of its criterion.
    """
    result = {**result_json(table.apply(rule)), "difference_points": difference_points(table, rule)}
    chosen = artifact.with_rule(rule, {"calibration": result})
    points = operating_points(frontier(table, rule))
    return chosen.with_calibration(drift_reference(table, rule), guarantee, points).save(out)


def record_reference(artifact: Artifact, data: Path | None, out: Path | None = None) -> Artifact:
    """Add to *artifact*, or to its copy in *out*, scores of its exits, operating points, and ranges of its maps.

    All are those of the held-out training images. A rule with a memory gets no scores. Raises what
    `Artifact.calibration_split` raises.
    """
    network, images = artifact.runner(engine=artifact.reference_engine), artifact.calibration_split(data)[1]
    table, rule = measure_outcomes(network, artifact.manifest.cost, images), artifact.manifest.rule
    points = operating_points(frontier(table, rule))
    recorded = artifact.with_fields(codec_ranges=calibrated_ranges(network, images))
    return recorded.with_calibration(drift_reference(table, rule), points=points).save(out)


def drift_reference(table: OutcomeTable, rule: ExitRule) -> Reference | None:
    """What *rule* makes of *table*; None for a rule with a memory, and for one under which nobody reaches some exit."""
    last_reached = int(table.exit_of(rule).max())
    return None if rule.remembers or last_reached < table.exits - 2 else Reference.of(table, rule)


def result_json(result: RuleResult) -> dict[str, Any]:
    """Accuracy (0..1), share of samples at each exit, and mean MACs, rounded for a manifest."""
    return {
        "accuracy": round(result.accuracy, 6),
        "exit_shares": [round(share, 6) for share in result.exit_shares],
        "macs": round(result.cost, 1),
    }
