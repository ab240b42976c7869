"""What calibration leaves in an artifact's manifest beside the rule: the guarantee, and the reference of the scores.

Both lie under `results` / `calibration` and are optional. A rule that is chosen anew drops them with the other results.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from branchynet.decisions.drift import Reference
from branchynet.decisions.risk import RiskControlled
from branchynet.errors import InvalidInput
from branchynet.manifest import Manifest, read_manifest, write_manifest

__all__ = ["record_calibration", "reference_of"]


def record_calibration(folder: Path, reference: Reference, guarantee: RiskControlled | None = None) -> Manifest:
    """Add *reference* and *guarantee* to the manifest of the artifact in *folder*.

    Raises `InvalidInput` if either is about another rule than the artifact's.
    """
    manifest = read_manifest(folder)
    for rule in (reference.rule, guarantee.rule if guarantee else manifest.rule):
        if rule != manifest.rule:
            raise InvalidInput(f"{manifest.name} has {manifest.rule}; this record is about {rule}")
    calibration = {**manifest.results.get("calibration", {}), "reference": reference.to_json()}
    if guarantee is not None:
        calibration["guarantee"] = guarantee.to_json()
    manifest = replace(manifest, results={**manifest.results, "calibration": calibration})
    write_manifest(folder, manifest)
    return manifest


def reference_of(manifest: Manifest) -> Reference | None:
    """The reference of *manifest*'s rule, None if it has none.

    Raises `InvalidInput` for one that is there but is not what `record_calibration` writes.
    """
    calibration = manifest.results.get("calibration")
    raw = calibration.get("reference") if isinstance(calibration, dict) else None
    return None if raw is None else Reference.from_json(raw, manifest.rule)
