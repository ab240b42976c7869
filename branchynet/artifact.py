"""A trained network on disk: one safetensors file a stage, and a manifest that says what they are.

    NAME/
    ├── manifest.json           architecture, normalisation, exit rule, recipe, measured results, checksums
    ├── stage-0.safetensors     trunk layers and exit head of stage 0
    ├── stage-1.safetensors     …
    └── baseline.safetensors    the plain trunk trained with the same recipe: a yard-stick, never served

A half opens only the files of its own stages, so an edge never reads the deep weights; they need not even be on its
disk. The *content hash* covers architecture, normalisation and the weights of every stage, and nothing that may
change between two measurements: two halves with equal hashes belong together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from branchynet.decisions.exits import Criterion, ExitRule
from branchynet.errors import BranchyNetError, DamagedData, InvalidInput, UnknownModel
from branchynet.models import Architecture, build
from branchynet.network import BranchyNet, Normalisation
from branchynet.prediction import ServedModel

__all__ = ["Manifest", "load", "load_baseline", "read_manifest", "save", "write_manifest"]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
BASELINE = "baseline.safetensors"


def _stage_file(index: int) -> str:
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


def save(folder: Path, manifest: Manifest, network: BranchyNet, baseline: Mapping[str, Tensor]) -> Manifest:
    """Write *network* (whole) and its *baseline* weights under *folder*; the manifest with `files` filled in.

    The baseline is kept in half precision: it is only measured, and its recorded results come from the kept values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    blobs = {
        _stage_file(index): tensors_to_bytes(_plain(network.stage(index).state_dict()))
        for index in range(network.total_stages)
    }
    blobs[BASELINE] = tensors_to_bytes(_plain(baseline, torch.float16))
    for name, blob in blobs.items():
        (folder / name).write_bytes(blob)
        files[name] = hashlib.sha256(blob).hexdigest()
    complete = replace(manifest, files=files)
    write_manifest(folder, complete)
    return complete


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
        manifest = _from_json(raw)
    except (KeyError, TypeError, ValueError, BranchyNetError) as error:
        raise DamagedData(f"{path} is incomplete or wrong: {error!r}") from None
    if raw["content_hash"] != manifest.content_hash:
        raise DamagedData(f"{path} says content hash {raw['content_hash']}, its contents make {manifest.content_hash}")
    return manifest


def load(folder: Path, first: int = 0, last: int | None = None) -> tuple[Manifest, BranchyNet]:
    """The artifact's manifest and its stages [*first*, *last*), in evaluation mode; by default all of them.

    Only those stages' files are opened. Raises `UnknownModel` if the artifact or a stage file is missing,
    `InvalidInput` for a range that the network does not have, `DamagedData` for a checksum that does not fit.
    """
    manifest = read_manifest(folder)
    # On the `meta` device a layer has shapes but no memory: the other half's weights never exist here.
    with torch.device("meta"):
        whole = build(manifest.architecture, manifest.normalisation)
    last = whole.total_stages if last is None else last
    try:
        half = whole.part(first, last)
    except InvalidInput:
        raise InvalidInput(
            f"stages [{first}, {last}) do not exist; {manifest.name} has the stages [0, {whole.total_stages})"
        ) from None
    for index in range(first, last):
        _fill(half.stage(index), folder, _stage_file(index), manifest)
    return manifest, half.eval()


def load_baseline(folder: Path, manifest: Manifest) -> BranchyNet:
    """The plain trunk trained with the same recipe, as a whole network without branch heads: use its `trunk` only.

    Raises `UnknownModel` if the artifact does not carry one, `DamagedData` if the file is not what was written.
    """
    tensors = {key: value.float() for key, value in _read_tensors(folder, BASELINE, manifest).items()}
    with torch.device("meta"):
        network = build(manifest.architecture, manifest.normalisation)
    _assign(network, tensors, BASELINE, strict=False)
    return network.eval()


def _fill(module: torch.nn.Module, folder: Path, name: str, manifest: Manifest) -> None:
    _assign(module, _read_tensors(folder, name, manifest), name, strict=True)


def _assign(module: torch.nn.Module, tensors: Mapping[str, Tensor], name: str, *, strict: bool) -> None:
    try:
        module.load_state_dict(tensors, strict=strict, assign=True)
    except RuntimeError as error:
        raise DamagedData(f"{name} does not fit the architecture: {error}") from None
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def _read_tensors(folder: Path, name: str, manifest: Manifest) -> dict[str, Tensor]:
    try:
        blob = (folder / name).read_bytes()
    except FileNotFoundError:
        raise UnknownModel(f"{folder} does not hold {name}; this half of {manifest.name} is not here") from None
    digest = hashlib.sha256(blob).hexdigest()
    if digest != manifest.files.get(name):
        raise DamagedData(f"{folder / name} has SHA-256 {digest}, the manifest says {manifest.files.get(name)}")
    try:
        return dict(tensors_from_bytes(blob))
    except SafetensorError as error:
        raise DamagedData(f"{folder / name} is not a safetensors file: {error}") from None


def _plain(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Contiguous copies, floats as *dtype*: safetensors refuses shared or strided memory."""
    return {
        name: tensor.detach().to(dtype if dtype and tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in tensors.items()
    }


def _architecture_json(architecture: Architecture) -> dict[str, Any]:
    return {
        "name": architecture.name,
        "variant": architecture.variant,
        "classes": architecture.classes,
        "input_shape": list(architecture.input_shape),
    }


def _normalisation_json(normalisation: Normalisation) -> dict[str, Any]:
    return {"mean": list(normalisation.mean), "std": list(normalisation.std)}


def _to_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "name": manifest.name,
        "content_hash": manifest.content_hash,
        "architecture": _architecture_json(manifest.architecture),
        "normalisation": _normalisation_json(manifest.normalisation),
        "labels": list(manifest.labels),
        "dataset": manifest.dataset,
        "cut": manifest.cut,
        "exit_rule": {
            "criterion": manifest.rule.criterion.value,
            "thresholds": list(manifest.rule.thresholds),
        },
        "files": dict(manifest.files),
        "training": dict(manifest.training),
        "results": dict(manifest.results),
    }


def _from_json(raw: dict[str, Any]) -> Manifest:
    architecture = raw["architecture"]
    normalisation = raw["normalisation"]
    return Manifest(
        name=raw["name"],
        architecture=Architecture(architecture["name"], architecture["variant"], architecture["classes"]),
        normalisation=Normalisation(tuple(normalisation["mean"]), tuple(normalisation["std"])),
        labels=tuple(raw["labels"]),
        dataset=raw["dataset"],
        rule=ExitRule(Criterion(raw["exit_rule"]["criterion"]), tuple(raw["exit_rule"]["thresholds"])),
        cut=raw["cut"],
        files=raw["files"],
        training=raw["training"],
        results=raw["results"],
    )
