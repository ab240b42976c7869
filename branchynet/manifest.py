"""What an artifact says about itself: the value, and its file `manifest.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from branchynet.decisions.exits import ExitRule
from branchynet.decisions.gates import Gate
from branchynet.errors import BranchyNetError, DamagedData, InvalidInput, UnknownModel
from branchynet.models import Architecture, cost
from branchynet.network import Normalisation
from branchynet.prediction import ServedModel

__all__ = ["BASELINE", "Manifest", "read_manifest", "stage_file", "write_manifest"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
BASELINE = "baseline.safetensors"


def stage_file(index: int) -> str:
    """Name of the file with the weights of stage *index*."""
    return f"stage-{index}.safetensors"


@dataclass(frozen=True)
class Manifest:
    """What an artifact says about itself.

    *files*: SHA-256 of each weight file by name. *training* and *results* are free-form JSON: the recipe with its
    data and seed, and what was measured with which rule. *cut*: where the edge half ends by default.
    """

    name: str
    architecture: Architecture
    normalisation: Normalisation
    labels: tuple[str, ...]
    dataset: str
    rule: ExitRule
    cut: int
    files: Mapping[str, str]
    training: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def stages(self) -> int:
        """Number of stages of the whole network."""
        return sum(name.startswith("stage-") for name in self.files)

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) over architecture, normalisation and all stage weights."""
        identity = {
            "architecture": _architecture_json(self.architecture),
            "normalisation": _normalisation_json(self.normalisation),
            "stages": {name: digest for name, digest in self.files.items() if name.startswith("stage-")},
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def served(self, stages: tuple[int, int], max_batch: int) -> ServedModel:
        """How a node that holds *stages* [first, last) describes itself to clients."""
        return ServedModel(
            model=self.name,
            content_hash=self.content_hash,
            stages=stages,
            total_stages=self.stages,
            input_shape=self.architecture.input_shape,
            labels=self.labels,
            rule=self.rule,
            max_batch=max_batch,
        )

    def with_rule(self, rule: ExitRule, results: Mapping[str, Any]) -> Manifest:
        """The same network under another exit rule and with that rule's *results*; the old ones no longer hold."""
        return replace(self, rule=rule, results=results)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` in one step, so that a reader never sees half of it."""
    text = json.dumps(_to_json(manifest), indent=2, ensure_ascii=False) + "\n"
    temporary = folder / f".{MANIFEST}.tmp"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in *folder*.

    Raises `UnknownModel` if there is none, `DamagedData` if it is not what this version writes.
    """
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnknownModel(f"{folder} holds no artifact: {MANIFEST} is missing") from None
    except ValueError as error:
        raise DamagedData(f"{path} is not JSON: {error}") from None
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise DamagedData(f"{path} has format version {version!r}; this program reads {FORMAT_VERSION}")
    try:
        manifest = _from_json(_MANIFEST_FILE.validate_python(raw, strict=True))
    except (ValidationError, BranchyNetError) as error:
        raise DamagedData(f"{path} is incomplete or wrong: {error}") from None
    if raw["content_hash"] != manifest.content_hash:
        raise DamagedData(f"{path} says content hash {raw['content_hash']}, its contents make {manifest.content_hash}")
    return manifest


class _ArchitectureFile(TypedDict):
    name: str
    variant: str
    classes: int
    input_shape: list[int]


class _NormalisationFile(TypedDict):
    mean: list[float]
    std: list[float]


class _GateFile(TypedDict):
    weights: list[float]
    bias: float


class _RuleFile(TypedDict):
    criterion: str
    thresholds: list[float]
    temperatures: NotRequired[list[float]]
    gates: NotRequired[list[_GateFile]]


class _ManifestFile(TypedDict):
    format_version: int
    name: str
    content_hash: str
    architecture: _ArchitectureFile
    normalisation: _NormalisationFile
    labels: list[str]
    dataset: str
    cut: int
    exit_rule: _RuleFile
    files: dict[str, str]
    training: dict[str, Any]
    results: dict[str, Any]


_MANIFEST_FILE = TypeAdapter(_ManifestFile)


def _architecture_json(architecture: Architecture) -> _ArchitectureFile:
    return {
        "name": architecture.name,
        "variant": architecture.variant,
        "classes": architecture.classes,
        "input_shape": list(architecture.input_shape),
    }


def _normalisation_json(normalisation: Normalisation) -> _NormalisationFile:
    return {"mean": list(normalisation.mean), "std": list(normalisation.std)}


def _rule_json(rule: ExitRule) -> _RuleFile:
    """*rule* for the file; what it has no use for is left out, so that earlier versions read a rule they know."""
    written: _RuleFile = {"criterion": rule.criterion.value, "thresholds": list(rule.thresholds)}
    if rule.temperatures:
        written["temperatures"] = list(rule.temperatures)
    if rule.gates:
        written["gates"] = [{"weights": list(gate.weights), "bias": gate.bias} for gate in rule.gates]
    return written


def _rule(raw: _RuleFile) -> ExitRule:
    """The rule in the file; `InvalidInput` if it is none."""
    gates = tuple(Gate(tuple(gate["weights"]), gate["bias"]) for gate in raw.get("gates", []))
    return ExitRule(
        raw["criterion"],  # type: ignore[arg-type]
        tuple(raw["thresholds"]),
        tuple(raw.get("temperatures", [])),
        gates,
    )


def _to_json(manifest: Manifest) -> _ManifestFile:
    return {
        "format_version": FORMAT_VERSION,
        "name": manifest.name,
        "content_hash": manifest.content_hash,
        "architecture": _architecture_json(manifest.architecture),
        "normalisation": _normalisation_json(manifest.normalisation),
        "labels": list(manifest.labels),
        "dataset": manifest.dataset,
        "cut": manifest.cut,
        "exit_rule": _rule_json(manifest.rule),
        "files": dict(manifest.files),
        "training": dict(manifest.training),
        "results": dict(manifest.results),
    }


def _from_json(raw: _ManifestFile) -> Manifest:
    """The manifest; raises one of our errors if its parts do not fit each other."""
    described = raw["architecture"]
    architecture = Architecture(described["name"], described["variant"], described["classes"])
    if tuple(described["input_shape"]) != architecture.input_shape:
        raise InvalidInput(f"input_shape is {described['input_shape']}, it must be {list(architecture.input_shape)}")
    mean, std = tuple(raw["normalisation"]["mean"]), tuple(raw["normalisation"]["std"])
    if not len(mean) == len(std) == architecture.input_shape[0] or min(std) <= 0:
        raise InvalidInput(f"normalisation needs a mean and a positive std for each channel, not {mean} and {std}")
    if len(raw["labels"]) != architecture.classes:
        raise InvalidInput(f"{len(raw['labels'])} labels for {architecture.classes} classes")
    rule = _rule(raw["exit_rule"])
    counted = cost(architecture)
    rule.check_exits(counted.exits, architecture.classes)
    stages = len(counted.stages)
    if not 1 <= raw["cut"] <= stages:
        raise InvalidInput(f"cut is {raw['cut']}; it must be 1 to {stages}")
    expected = {BASELINE, *map(stage_file, range(stages))}
    if set(raw["files"]) != expected:
        raise InvalidInput(f"files are {sorted(raw['files'])}; they must be {sorted(expected)}")
    return Manifest(
        name=raw["name"],
        architecture=architecture,
        normalisation=Normalisation(mean, std),
        labels=tuple(raw["labels"]),
        dataset=raw["dataset"],
        rule=rule,
        cut=raw["cut"],
        files=raw["files"],
        training=raw["training"],
        results=raw["results"],
    )
