"""What an evaluation found, written into the artifact that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from branchynet.artifact.artifact import Artifact
from branchynet.exits.outcomes import wilson_interval

__all__ = ["record", "summary"]

DIGITS = 6


def record(artifact: Artifact, figures: dict[str, Any], baselines: Mapping[str, str]) -> Artifact:
    """Put *figures* of a whole evaluation under `results.test` of *artifact*, and its *baselines*.

    The content hash does not cover results, so halves that run elsewhere still fit.
    """
    trunk, early = figures["trunk"], figures["early_exit"]
    test = {
        "images": figures["images"],
        **{key: early[key] for key in ("accuracy", "exit_shares", "macs", "exit_accuracies")},
        "trunk_accuracy": trunk["accuracy"],
        "trunk_macs": trunk["macs"],
        "evaluation": {key: value for key, value in figures.items() if key not in ("artifact", "dataset", "images")},
    }
    return artifact.with_results({**artifact.manifest.results, "test": _rounded(test)}, baselines).save()


def summary(artifact: Artifact) -> dict[str, Any]:
    """An artifact in a few figures, from its manifest alone: the row of `branchynet models`.

    What was never measured is None, and so are the gains of a network without branches, which is its own trunk.
    """
    manifest = artifact.manifest
    test = manifest.results.get("test") or {}
    early = test.get("evaluation", {}).get("early_exit", {})
    accuracy, images = test.get("accuracy"), test.get("images")
    branched = bool(manifest.rule.thresholds)
    return {
        "name": manifest.name,
        "folder": str(artifact.folder),
        "network": manifest.architecture.name,
        "variant": manifest.architecture.variant,
        "dataset": manifest.dataset,
        "images": images,
        "accuracy": accuracy,
        "interval": list(wilson_interval(accuracy, images)) if accuracy is not None and images else None,
        "trunk_accuracy": test.get("trunk_accuracy"),
        "exit_shares": test.get("exit_shares"),
        "gain_macs": test["trunk_macs"] / test["macs"] if branched and test.get("macs") else None,
        "gain_ms": early.get("gain_ms") if branched else None,
        "engine": test.get("evaluation", {}).get("engine"),
        "criterion": manifest.rule.criterion.value,
        "thresholds": list(manifest.rule.thresholds),
        "stages": manifest.stages,
        "cut": manifest.cut,
        "weight_bytes": sum(
            (artifact.folder / f"stage-{index}.safetensors").stat().st_size for index in range(manifest.stages)
        ),
        "content_hash": manifest.content_hash,
    }


def _rounded(value: Any) -> Any:
    """Floats to six significant digits: more of them would only be noise that changes with each measurement."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, (list, tuple)) else value
