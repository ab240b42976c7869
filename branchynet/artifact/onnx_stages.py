"""An artifact's stages on ONNX Runtime: graphs and weights, which lie in separate files, put together."""

from __future__ import annotations

from pathlib import Path

from branchynet.artifact.files import read_file
from branchynet.artifact.manifest import PLAIN_TRUNK, Manifest, stage_stem
from branchynet.artifact.stage_weights import plain_trunk_weights, stage_weights
from branchynet.errors import need
from branchynet.network.graph_weights import with_weights
from branchynet.network.onnx_runner import OnnxRunner

__all__ = ["onnx_stages", "onnx_trunk", "stage_graph"]


def onnx_stages(folder: Path, manifest: Manifest, first: int, last: int, threads: int) -> OnnxRunner:
    """Stages [*first*, *last*) of the artifact in *folder*; see `Artifact.runner`."""
    return OnnxRunner(
        lambda index: stage_graph(folder, manifest, index),
        input_shape=manifest.architecture.input_shape,
        classes=manifest.architecture.classes,
        exit_of_stage=manifest.cost.exit_of_stage,
        first=first,
        last=last,
        threads=threads,
    )


def stage_graph(folder: Path, manifest: Manifest, index: int) -> bytes:
    """The graph of stage *index* with its weights; raises as `Artifact.runner`."""
    return with_weights(_graph(folder, manifest, index), stage_weights(folder, manifest, index))


def onnx_trunk(folder: Path, manifest: Manifest, threads: int) -> OnnxRunner:
    """The plain trunk as one stage; see `Artifact.trunk`."""
    return OnnxRunner(
        lambda _: with_weights(_graph(folder, manifest, PLAIN_TRUNK), plain_trunk_weights(folder, manifest)),
        input_shape=manifest.architecture.input_shape,
        classes=manifest.architecture.classes,
        exit_of_stage=(0,),
        first=0,
        last=1,
        threads=threads,
    )


def _graph(folder: Path, manifest: Manifest, part: int | str) -> bytes:
    """The graph of a stage or of `PLAIN_TRUNK`: the artifact's own, else one in the cache, made if need be."""
    name = f"{stage_stem(part)}.onnx"
    if name in manifest.graphs:
        return read_file(folder / name, manifest.graphs[name], manifest.name)
    need("torch")
    from branchynet.artifact.torch_files import cached_graph_of

    return cached_graph_of(folder, manifest, part)
