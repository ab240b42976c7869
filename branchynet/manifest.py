"""What an artifact says about itself: the value, and its file `manifest.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired, final

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from branchynet.codec_files import (
    BottleneckEntry,
    BottleneckFile,
    RangesEntry,
    bottlenecks_from_json,
    bottlenecks_to_json,
    ranges_from_json,
    ranges_to_json,
)
from branchynet.codecs import BOTTLENECK, Codec, FixedRanges, check_cut, named_codec
from branchynet.decisions.exits import ExitRule
from branchynet.decisions.gates import Gate
from branchynet.engine import Engine
from branchynet.errors import BranchyNetError, DamagedData, InvalidInput, UnknownModel
from branchynet.exported import ExportedArchitecture, ExportedFile
from branchynet.models import Architecture, cost
from branchynet.network import Normalisation
from branchynet.prediction import ServedModel
from branchynet.profile import NetworkCost
from branchynet.weight_files import Weights

__all__ = ["BASELINE", "Manifest", "read_manifest", "write_manifest"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
BASELINE = "baseline"

YARDSTICKS = ("static", "cascade")


@dataclass(frozen=True)
class Manifest:
    """What an artifact says about itself.

    *files*: SHA-256 of each weight file by name. *training* and *results* are free-form JSON: the recipe with its
    data and seed, and what was measured with which rule. *cut*: where the edge half ends by default. *weights*: how
    those of the stages are kept on disk; they are float32 in memory. *yardsticks*: names of the artifacts to measure
    beside it, see `branchynet.training.yardsticks`. *codec_ranges*: by cut, what calibrated codecs go by.
    *bottlenecks*: by cut, the files of what was trained for it; *learned*: those of them that were loaded.
    """

    name: str
    architecture: Architecture | ExportedArchitecture
    normalisation: Normalisation
    labels: tuple[str, ...]
    dataset: str
    rule: ExitRule
    cut: int
    files: Mapping[str, str]
    training: Mapping[str, Any]
    results: Mapping[str, Any]
    weights: Weights = "fp32"
    yardsticks: Mapping[str, str] = field(default_factory=dict)
    codec_ranges: Mapping[int, FixedRanges] = field(default_factory=dict)
    bottlenecks: Mapping[int, BottleneckFile] = field(default_factory=dict)
    learned: Mapping[int, Codec] = field(default_factory=dict, compare=False, repr=False)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What it was trained by, as far as *training* tells: the fields of a `Recipe`, or nothing."""
        told = self.training.get("recipe")
        return told if isinstance(told, dict) else {}

    @property
    def exported(self) -> bool:
        """Whether the stages are ONNX graphs, which only the engine onnx can run."""
        return isinstance(self.architecture, ExportedArchitecture)

    @property
    def own_engine(self) -> Engine:
        """The engine its results were measured on: torch where it can run the network."""
        return Engine.ONNX if self.exported else Engine.EAGER

    @property
    def cost(self) -> NetworkCost:
        """What the network costs for one image."""
        return (
            self.architecture.cost if isinstance(self.architecture, ExportedArchitecture) else cost(self.architecture)
        )

    @property
    def cut_shapes(self) -> list[tuple[int, ...]]:
        """Shape of one sample's tensor at each cut 0 … n-1; at cut 0 it is the image's."""
        return [self.architecture.input_shape, *(stage.output_shape for stage in self.cost.stages[:-1])]

    def file(self, part: int | str) -> str:
        """Name of the file with stage *part*, or with `BASELINE`."""
        stem = part if isinstance(part, str) else f"stage-{part}"
        return f"{stem}.onnx" if self.exported else f"{stem}.safetensors"

    def codec(self, name: str, cut: int) -> Codec:
        """The codec called *name* for *cut*, with what the artifact knows of it; `InvalidInput` if there is none."""
        codec = named_codec(name, self.codec_ranges.get(cut), self.learned.get(cut))
        check_cut(codec, cut)
        return codec

    def codecs_at(self, cut: int, names: Iterable[str]) -> list[Codec]:
        """Those of *names* that carry what there is at *cut*, calibrated ones and bottlenecks only where there are any.

        Raises `InvalidInput` for a name that is no codec.
        """
        ranges, bottleneck = self.codec_ranges.get(cut), self.learned.get(cut)
        codecs = [
            named_codec(name, ranges, bottleneck)
            for name in names
            if (bottleneck is not None or name != BOTTLENECK) and (ranges is not None or "calibrated" not in name)
        ]
        return [codec for codec in codecs if (codec.dtype == "uint8") == (cut == 0)]

    @staticmethod
    def bottleneck_file(cut: int) -> str:
        """Name of the file with the bottleneck at *cut*."""
        return f"bottleneck-{cut}.safetensors"

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

    def with_results(self, results: Mapping[str, Any], yardsticks: Mapping[str, str]) -> Manifest:
        """The same network and rule with newly measured *results*, and what was measured beside it."""
        return replace(self, results=results, yardsticks=yardsticks)


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


@final
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
    architecture: ExportedFile | _ArchitectureFile
    normalisation: _NormalisationFile
    labels: list[str]
    dataset: str
    cut: int
    exit_rule: _RuleFile
    files: dict[str, str]
    training: dict[str, Any]
    results: dict[str, Any]
    weights: NotRequired[Weights]
    yardsticks: NotRequired[dict[str, str]]
    codec_ranges: NotRequired[dict[str, RangesEntry]]
    bottlenecks: NotRequired[dict[str, BottleneckEntry]]


_MANIFEST_FILE = TypeAdapter(_ManifestFile)


def _architecture_json(architecture: Architecture | ExportedArchitecture) -> ExportedFile | _ArchitectureFile:
    if isinstance(architecture, ExportedArchitecture):
        return architecture.to_json()
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


def _architecture(raw: ExportedFile | _ArchitectureFile) -> Architecture | ExportedArchitecture:
    """The architecture in the file; one of our errors if there is none like it."""
    if "stages" in raw:
        return ExportedArchitecture.from_json(raw)
    architecture = Architecture(raw["name"], raw["variant"], raw["classes"])
    if tuple(raw["input_shape"]) != architecture.input_shape:
        raise InvalidInput(f"input_shape is {raw['input_shape']}, it must be {list(architecture.input_shape)}")
    return architecture


def _to_json(manifest: Manifest) -> _ManifestFile:
    written: _ManifestFile = {
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
    if manifest.weights != "fp32":
        written["weights"] = manifest.weights
    if manifest.yardsticks:
        written["yardsticks"] = dict(manifest.yardsticks)
    if manifest.codec_ranges:
        written["codec_ranges"] = ranges_to_json(manifest.codec_ranges)
    if manifest.bottlenecks:
        written["bottlenecks"] = bottlenecks_to_json(manifest.bottlenecks)
    return written


def _from_json(raw: _ManifestFile) -> Manifest:
    """The manifest; raises one of our errors if its parts do not fit each other."""
    architecture = _architecture(raw["architecture"])
    mean, std = tuple(raw["normalisation"]["mean"]), tuple(raw["normalisation"]["std"])
    if not len(mean) == len(std) == architecture.input_shape[0] or min(std) <= 0:
        raise InvalidInput(f"normalisation needs a mean and a positive std for each channel, not {mean} and {std}")
    if len(raw["labels"]) != architecture.classes:
        raise InvalidInput(f"{len(raw['labels'])} labels for {architecture.classes} classes")
    rule = _rule(raw["exit_rule"])
    manifest = Manifest(
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
        weights=raw.get("weights", "fp32"),
        yardsticks=raw.get("yardsticks", {}),
    )
    manifest = replace(
        manifest,
        codec_ranges=ranges_from_json(raw.get("codec_ranges", {}), manifest.cut_shapes),
        bottlenecks=bottlenecks_from_json(raw.get("bottlenecks", {}), manifest.cut_shapes),
    )
    counted = manifest.cost
    rule.check_exits(counted.exits, architecture.classes)
    stages = len(counted.stages)
    if not 1 <= manifest.cut <= stages:
        raise InvalidInput(f"cut is {manifest.cut}; it must be 1 to {stages}")
    expected = {manifest.file(BASELINE), *map(manifest.file, range(stages))}
    if set(manifest.files) != expected:
        raise InvalidInput(f"files are {sorted(manifest.files)}; they must be {sorted(expected)}")
    if manifest.exported and manifest.weights != "fp32":
        raise InvalidInput(f"weights are {manifest.weights}; those of graphs are fp32")
    if unknown := set(manifest.yardsticks) - set(YARDSTICKS):
        raise InvalidInput(f"yardsticks are {sorted(unknown)}; they must be among {', '.join(YARDSTICKS)}")
    return manifest
