"""What calibration leaves in an artifact's manifest beside the rule: scores, operating points, and the guarantee.

All lie under `results` / `calibration` and are optional. A rule that is chosen anew drops them with the other results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from branchynet.decisions.drift import Reference
from branchynet.decisions.operating import OperatingPoint
from branchynet.decisions.risk import RiskControlled
from branchynet.errors import InvalidInput
from branchynet.manifest import Manifest, read_manifest, write_manifest

__all__ = ["points_of", "record_calibration", "reference_of"]


def record_calibration(
    folder: Path,
    reference: Reference | None,
    guarantee: RiskControlled | None = None,
    points: Sequence[OperatingPoint] = (),
) -> Manifest:
    """Add *reference*, *guarantee* and *points* to the manifest of the artifact in *folder*.

    *points* are thresholds for the artifact's rule in place of its own. Raises `InvalidInput` if reference or
    guarantee are about another rule than the artifact's.
    """
    manifest = read_manifest(folder)
    for record in (reference, guarantee):
        if record is not None and record.rule != manifest.rule:
            raise InvalidInput(f"{manifest.name} has {manifest.rule}; this record is about {record.rule}")
    calibration = {**manifest.results.get("calibration", {})}
    if reference is not None:
        calibration["reference"] = reference.to_json()
    if guarantee is not None:
        calibration["guarantee"] = guarantee.to_json()
    if points:
        calibration["operating_points"] = [point.to_json() for point in points]
    manifest = replace(manifest, results={**manifest.results, "calibration": calibration})
    write_manifest(folder, manifest)
    return manifest


def reference_of(manifest: Manifest) -> Reference | None:
    """The reference of *manifest*'s rule, None if it has none.

    Raises `InvalidInput` for one that is there but is not what `record_calibration` writes.
    """
    raw = _calibration(manifest).get("reference")
    return None if raw is None else Reference.from_json(raw, manifest.rule)


def points_of(manifest: Manifest) -> tuple[OperatingPoint, ...]:
    """The operating points of *manifest*'s rule, none if there are none.

    Raises `InvalidInput` for what is there but is not what `record_calibration` writes, or does not fit the rule.
    """
    raw = _calibration(manifest).get("operating_points", [])
    if not isinstance(raw, list):
        raise InvalidInput(f"the operating points of {manifest.name} are {raw!r}; they must be a list")
    points = tuple(OperatingPoint.from_json(one) for one in raw)
    for point in points:
        manifest.rule.with_thresholds(point.thresholds)
    return points


def _calibration(manifest: Manifest) -> dict[str, Any]:
    calibration = manifest.results.get("calibration")
    return calibration if isinstance(calibration, dict) else {}
