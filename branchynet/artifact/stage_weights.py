"""The weights of an artifact's stages, and of the plain trunk beside them, as float32 arrays."""

from __future__ import annotations

from pathlib import Path

from branchynet.artifact.files import read_file
from branchynet.artifact.manifest import PLAIN_TRUNK, Manifest, stage_stem
from branchynet.artifact.weights import read_tensors, unpack
from branchynet.network.runner import Array

__all__ = ["plain_trunk_weights", "stage_weights"]


def stage_weights(folder: Path, manifest: Manifest, part: int | str) -> dict[str, Array]:
    """The weights of a stage by their names in it, or those of `PLAIN_TRUNK` that differ from the network's.

    Raises `UnknownModel` if the file is missing, `DamagedData` if it is not what was written.
    """
    name = f"{stage_stem(part)}.safetensors"
    packed = read_tensors(read_file(folder / name, manifest.files.get(name), manifest.name), folder / name)
    rounded = part == PLAIN_TRUNK and manifest.weights == "fp32"
    return unpack(packed, "fp16" if rounded else manifest.weights, name)


def plain_trunk_weights(folder: Path, manifest: Manifest) -> dict[str, Array]:
    """Those of the whole plain trunk, by their names in its graph, where the layers of stage k are `trunk.k`."""
    stages, named = range(manifest.stages), {}
    weights = {
        f"stages.{index}.{name}": tensor
        for index in stages
        for name, tensor in stage_weights(folder, manifest, index).items()
    }
    for name, tensor in {**weights, **stage_weights(folder, manifest, PLAIN_TRUNK)}.items():
        _, index, kind, rest = name.split(".", maxsplit=3)
        if kind == "trunk":
            named[f"trunk.{index}.{rest}"] = tensor
        elif int(index) == stages[-1]:
            named[f"head.{rest}"] = tensor
    return named
