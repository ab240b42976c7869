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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from branchynet.errors import DamagedData, InvalidInput, UnknownModel
from branchynet.manifest import BASELINE, Manifest, read_manifest, stage_file, write_manifest
from branchynet.models import build
from branchynet.network import BranchyNet

__all__ = ["Manifest", "load", "load_baseline", "read_manifest", "save", "write_manifest"]


def save(folder: Path, manifest: Manifest, network: BranchyNet, baseline: Mapping[str, Tensor]) -> Manifest:
    """Write *network* (whole) and its *baseline* weights under *folder*; the manifest with `files` filled in.

    The baseline is kept in half precision: it is only measured, and its recorded results come from the kept values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    blobs = {
        stage_file(index): tensors_to_bytes(_plain(network.stage(index).state_dict()))
        for index in range(network.total_stages)
    }
    blobs[BASELINE] = tensors_to_bytes(_plain(baseline, torch.float16))
    for name, blob in blobs.items():
        (folder / name).write_bytes(blob)
        files[name] = hashlib.sha256(blob).hexdigest()
    complete = replace(manifest, files=files)
    write_manifest(folder, complete)
    return complete


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
        _fill(half.stage(index), folder, stage_file(index), manifest)
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
