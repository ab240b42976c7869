"""The description of an artifact: the value, and its file `manifest.json`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from branchynet.artifact.codec_entries import (
    BottleneckEntry,
    BottleneckFile,
    RangesEntry,
    bottlenecks_from_json,
    bottlenecks_to_json,
    ranges_from_json,
    ranges_to_json,
)
from branchynet.artifact.files import replace_files
from branchynet.artifact.network_spec import ArchitectureEntry, NetworkSpec, StageEntry
from branchynet.artifact.weights import Weights
from branchynet.codecs import FixedRanges
from branchynet.data.preprocessing import Preprocessing, PreprocessingEntry
from branchynet.data.text_files import read_json
from branchynet.errors import BranchyNetError, DamagedData, InvalidInput, UnknownModel
from branchynet.exits.gates import Gate
from branchynet.exits.rules import ExitRule
from branchynet.network.costs import NetworkCost
from branchynet.network.normalisation import Normalisation
from branchynet.serving.prediction import ServedModel

__all__ = [
    "BASELINES",
    "PLAIN_TRUNK",
    "Manifest",
    "bottleneck_graphs",
    "bottleneck_stem",
    "check_manifest",
    "read_manifest",
    "stage_stem",
    "write_manifest",
]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# The file of the plain trunk, which is measured beside the network and never served.
PLAIN_TRUNK = "baseline"
BASELINES = ("static", "cascade")


@dataclass(frozen=True)
class Manifest:
    """The description of an artifact.

    *files*: SHA-256 of each weight file by name; *graphs*: the same of the ONNX graphs, none or all of them. *training*
    and *results* are free-form JSON: the recipe with its data and seed, and what was measured with which rule. *cut*:
    where the edge half ends by default. *weights*: how those of the stages are kept on disk; they are float32 in
    memory. *baselines*: names of the artifacts to measure beside it, see `branchynet.evaluation.baselines`.
    *codec_ranges*: by cut, what calibrated codecs go by. *bottlenecks*: by cut, the files of what was trained for it.
    *preprocessing*: how clients bring image files to the input shape.
    """

    name: str
    architecture: NetworkSpec
    normalisation: Normalisation
    labels: tuple[str, ...]
    dataset: str
    rule: ExitRule
    cut: int
    files: Mapping[str, str]
    training: Mapping[str, Any]
    results: Mapping[str, Any]
    graphs: Mapping[str, str] = field(default_factory=dict)
    weights: Weights = "fp32"
    baselines: Mapping[str, str] = field(default_factory=dict)
    codec_ranges: Mapping[int, FixedRanges] = field(default_factory=dict)
    bottlenecks: Mapping[int, BottleneckFile] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What it was trained by, as far as *training* records it: the fields of a `Recipe`, or nothing."""
        recipe = self.training.get("recipe")
        return recipe if isinstance(recipe, dict) else {}

    @property
    def cost(self) -> NetworkCost:
        """What the network costs for one image."""
        return self.architecture.cost

    @property
    def cut_shapes(self) -> list[tuple[int, ...]]:
        """Shape of one sample's tensor at each cut 0 … n-1; at cut 0 it is the image's."""
        return self.architecture.cut_shapes

    @property
    def max_sample_bytes(self) -> int:
        """Size of the largest tensor that one sample is sent as, at any cut, as it is in float32."""
        return max(4 * math.prod(shape) for shape in self.cut_shapes)

    @property
    def stages(self) -> int:
        """Number of stages of the whole network."""
        return self.architecture.stages

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) over architecture, normalisation and all stage weights; over graphs where they are the layers.

        Where torch can build the layers anew, graphs are another form of them and may be written again. Preprocessing
        counts, too, unless it is the default: it makes the answer to a picture.
        """
        identity: dict[str, Any] = {
            "architecture": self.architecture.architecture_entry(),
            "normalisation": _normalisation_json(self.normalisation),
            "stages": _stages_of(self.files),
        }
        if self.architecture.variant is None:
            identity |= {"costs": self.architecture.stage_entries(), "graphs": _stages_of(self.graphs)}
        if self.preprocessing != Preprocessing():  # so that artifacts of before it could be chosen keep their hash
            identity["preprocessing"] = self.preprocessing.to_json()
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def all_files(self) -> dict[str, str]:
        """SHA-256 of every file beside the manifest, by name."""
        bottlenecks = {bottleneck_stem(cut) + ".safetensors": kept.digest for cut, kept in self.bottlenecks.items()}
        return {**self.files, **self.graphs, **bottlenecks}

    def served(self, stages: tuple[int, int], max_batch: int) -> ServedModel:
        """How a node that holds *stages* [first, last) describes itself; to clients, lite0@v2 is the model lite0."""
        return ServedModel(
            model=self.name.partition("@")[0] or self.name,
            content_hash=self.content_hash,
            stages=stages,
            total_stages=self.stages,
            input_shape=self.architecture.input_shape,
            labels=self.labels,
            rule=self.rule,
            max_batch=max_batch,
            preprocessing=self.preprocessing,
        )


def stage_stem(part: int | str) -> str:
    """Name, but for its ending, of the files of stage *part*, or of `PLAIN_TRUNK`."""
    return part if isinstance(part, str) else f"stage-{part}"


def bottleneck_stem(cut: int) -> str:
    """Name, but for its ending, of the file with the bottleneck at *cut*."""
    return f"bottleneck-{cut}"


def bottleneck_graphs(cut: int) -> tuple[str, str]:
    """Names of the graphs of the encoder and the decoder at *cut*."""
    return f"{bottleneck_stem(cut)}-encoder.onnx", f"{bottleneck_stem(cut)}-decoder.onnx"


def _stages_of(files: Mapping[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if name.startswith("stage-")}


def write_manifest(folder: Path, manifest: Manifest, files: Mapping[str, bytes | Path] = MappingProxyType({})) -> None:
    """Write `manifest.json`, and those of its *files* that are new, all or none; a path is a file to share."""
    text = json.dumps(_to_json(manifest), indent=2, ensure_ascii=False) + "\n"
    replace_files(folder, files, manifest.all_files, (MANIFEST, text.encode("utf-8", "backslashreplace")))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in *folder*.

    Raises `UnknownModel` if there is none, `DamagedData` if it is not what this version writes.
    """
    path = folder / MANIFEST
    try:
        raw = read_json(path)
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
    architecture: ArchitectureEntry
    stages: list[StageEntry]
    normalisation: _NormalisationFile
    labels: list[str]
    dataset: str
    cut: int
    exit_rule: _RuleFile
    files: dict[str, str]
    training: dict[str, Any]
    results: dict[str, Any]
    weights: NotRequired[Weights]
    graphs: NotRequired[dict[str, str]]
    baselines: NotRequired[dict[str, str]]
    codec_ranges: NotRequired[dict[str, RangesEntry]]
    bottlenecks: NotRequired[dict[str, BottleneckEntry]]
    preprocessing: NotRequired[PreprocessingEntry]


_MANIFEST_FILE = TypeAdapter(_ManifestFile)


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
    written: _ManifestFile = {
        "format_version": FORMAT_VERSION,
        "name": manifest.name,
        "content_hash": manifest.content_hash,
        "architecture": manifest.architecture.architecture_entry(),
        "stages": manifest.architecture.stage_entries(),
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
    if manifest.graphs:
        written["graphs"] = dict(manifest.graphs)
    if manifest.baselines:
        written["baselines"] = dict(manifest.baselines)
    if manifest.codec_ranges:
        written["codec_ranges"] = ranges_to_json(manifest.codec_ranges)
    if manifest.bottlenecks:
        written["bottlenecks"] = bottlenecks_to_json(manifest.bottlenecks)
    if manifest.preprocessing != Preprocessing():
        written["preprocessing"] = manifest.preprocessing.to_json()
    return written


def _from_json(raw: _ManifestFile) -> Manifest:
    """The manifest; raises one of our errors if its parts do not fit each other."""
    architecture = NetworkSpec.from_entries(raw["architecture"], raw["stages"])
    manifest = Manifest(
        name=raw["name"],
        architecture=architecture,
        normalisation=Normalisation(tuple(raw["normalisation"]["mean"]), tuple(raw["normalisation"]["std"])),
        labels=tuple(raw["labels"]),
        dataset=raw["dataset"],
        rule=_rule(raw["exit_rule"]),
        cut=raw["cut"],
        files=raw["files"],
        training=raw["training"],
        results=raw["results"],
        graphs=raw.get("graphs", {}),
        weights=raw.get("weights", "fp32"),
        baselines=raw.get("baselines", {}),
        codec_ranges=ranges_from_json(raw.get("codec_ranges", {}), architecture.cut_shapes),
        bottlenecks=bottlenecks_from_json(raw.get("bottlenecks", {}), architecture.cut_shapes),
        preprocessing=Preprocessing.of(**raw["preprocessing"]) if "preprocessing" in raw else Preprocessing(),
    )
    check_manifest(manifest)
    _check_files(manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Raise one of our errors unless labels, normalisation, rule and cut fit the network."""
    architecture, normalisation = manifest.architecture, manifest.normalisation
    mean, std = normalisation.mean, normalisation.std
    if not len(mean) == len(std) == architecture.input_shape[0] or min(std) <= 0:
        raise InvalidInput(f"normalisation needs a mean and a positive std for each channel, not {mean} and {std}")
    if len(manifest.labels) != architecture.classes:
        raise InvalidInput(f"{len(manifest.labels)} labels for {architecture.classes} classes")
    manifest.rule.check_exits(architecture.cost.exits, architecture.classes)
    if not 1 <= manifest.cut <= manifest.stages:
        raise InvalidInput(f"cut is {manifest.cut}; it must be 1 to {manifest.stages}")
    if unknown := set(manifest.baselines) - set(BASELINES):
        raise InvalidInput(f"baselines are {sorted(unknown)}; they must be among {', '.join(BASELINES)}")


def _check_files(manifest: Manifest) -> None:
    """Raise `InvalidInput` unless there is a file for each stage, and a graph for each of them or for none."""
    stems = [stage_stem(part) for part in (*range(manifest.stages), PLAIN_TRUNK)]
    if manifest.files.keys() != (expected := {f"{stem}.safetensors" for stem in stems}):
        raise InvalidInput(f"files are {sorted(manifest.files)}; they must be {sorted(expected)}")
    graphs = {f"{stem}.onnx" for stem in stems}
    optional = {name for cut in manifest.bottlenecks for name in bottleneck_graphs(cut)}
    if (manifest.graphs or manifest.architecture.variant is None) and manifest.graphs.keys() - optional != graphs:
        raise InvalidInput(f"graphs are {sorted(manifest.graphs)}; they must be {sorted(graphs)}")
