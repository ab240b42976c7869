"""The part of an artifact's work that needs torch: layers from files, and files from layers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from branchynet.artifact.codec_entries import FREQUENCIES, BottleneckFile
from branchynet.artifact.files import digest_of
from branchynet.artifact.manifest import PLAIN_TRUNK, Manifest, bottleneck_graphs, bottleneck_stem, stage_stem
from branchynet.artifact.network_spec import NetworkSpec
from branchynet.artifact.onnx_stages import stage_graph
from branchynet.artifact.stage_weights import stage_weights
from branchynet.artifact.weights import Tensors, pack, tensors_to_bytes
from branchynet.codecs.ans import LevelTables
from branchynet.codecs.bottleneck import BottleneckShape, Halves
from branchynet.codecs.bottleneck_net import Bottleneck, fresh_bottleneck
from branchynet.errors import DamagedData, InvalidInput
from branchynet.models.architectures import Architecture, build
from branchynet.network.counting import measure_cost
from branchynet.network.graph_halves import GraphHalves
from branchynet.network.graph_weights import with_weights
from branchynet.network.onnx_export import cached_graph, export_module, export_stage, is_near, weights_of
from branchynet.network.onnx_import.graph_layers import GraphLayers
from branchynet.network.onnx_runner import FEATURES, LOGITS
from branchynet.network.stages import BranchyNet

__all__ = [
    "bottleneck_files",
    "bottleneck_net",
    "cached_graph_of",
    "graph_files",
    "load_part",
    "load_plain_trunk",
    "load_tail",
    "network_files",
    "spec_of",
]

# Share of a map's levels that may come out otherwise on another engine.
MOST_ROUNDED = 0.01


def spec_of(architecture: Architecture | str, network: BranchyNet) -> NetworkSpec:
    """What a manifest records of the whole *network*, which is of an *architecture* of ours or has that name."""
    name, variant = (architecture, None) if isinstance(architecture, str) else (architecture.name, architecture.variant)
    return NetworkSpec(name, network.classes, network.input_shape, measure_cost(network), variant)


# --- layers from files ------------------------------------------------------------------------------------------------


def load_part(folder: Path, manifest: Manifest, first: int, last: int) -> BranchyNet:
    """Stages [*first*, *last*) in evaluation mode; see `Artifact.network`."""
    spec = manifest.architecture
    if spec.variant is None:
        raise InvalidInput(f"{manifest.name} has its layers as ONNX graphs: the engine onnx runs it, torch cannot")
    with torch.device("meta"):  # shapes without memory: no half ever holds the weights of the other
        whole = build(Architecture(spec.name, spec.variant, spec.classes), manifest.normalisation)
    part = whole.part(first, last)
    for index in range(first, last):
        _fill(part.stage(index), stage_weights(folder, manifest, index), f"{stage_stem(index)}.safetensors")
    return part.eval()


def load_plain_trunk(folder: Path, manifest: Manifest) -> BranchyNet:
    """The plain trunk as a network of one stage."""
    network = load_part(folder, manifest, 0, manifest.stages)
    _fill(network, stage_weights(folder, manifest, PLAIN_TRUNK), f"{PLAIN_TRUNK}.safetensors", strict=False)
    return network.plain()


def load_tail(folder: Path, manifest: Manifest, cut: int) -> nn.Module:
    """What follows *cut*, in evaluation mode; see `Artifact.trainable_tail`."""
    if manifest.architecture.variant is not None:
        return load_part(folder, manifest, cut, manifest.stages)
    return _GraphTail([GraphLayers(stage_graph(folder, manifest, index)) for index in range(cut, manifest.stages)])


class _GraphTail(nn.Module):
    """The last stages of a network, from their graphs."""

    def __init__(self, stages: Sequence[GraphLayers]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits [B, C] of every exit for maps *x*."""
        logits = []
        for stage in self.stages:
            made = stage(x)
            logits += [made[name] for name in (LOGITS,) if name in made]
            x = made.get(FEATURES, x)
        return logits


def bottleneck_net(shape: BottleneckShape, weights: Tensors, name: str) -> Bottleneck:
    """The bottleneck of *shape* with the *weights* of the file *name*; `DamagedData` if they do not fit."""
    with torch.device("meta"):
        bottleneck = fresh_bottleneck(shape)
    _fill(bottleneck, weights, name)
    return bottleneck.eval()


def _fill(module: nn.Module, weights: Tensors, name: str, *, strict: bool = True) -> None:
    """Give *module* the *weights*, of the file *name*; `DamagedData` if they do not fit, all of them if *strict*."""
    tensors = {key: torch.from_numpy(values) for key, values in weights.items()}
    try:
        module.load_state_dict(tensors, strict=strict, assign=True)
    except RuntimeError as error:
        raise DamagedData(f"{name} does not fit the architecture: {error}") from None
    for parameter in module.parameters():
        parameter.requires_grad_(False)


# --- files from layers ------------------------------------------------------------------------------------------------


def network_files(
    manifest: Manifest, network: BranchyNet, plain_trunk: Mapping[str, Tensor]
) -> tuple[Manifest, dict[str, bytes]]:
    """*manifest* with the digests of the files of *network*, and these by name. See `Artifact.create`."""
    blobs = {
        f"{stage_stem(index)}.safetensors": tensors_to_bytes(pack(weights_of(network.stage(index)), manifest.weights))
        for index in range(manifest.stages)
    }
    own = network.state_dict()
    unlike = {name: tensor.numpy() for name, tensor in plain_trunk.items() if not torch.equal(tensor, own[name])}
    plain_weights = "fp16" if manifest.weights == "fp32" else manifest.weights
    blobs[f"{PLAIN_TRUNK}.safetensors"] = tensors_to_bytes(pack(unlike, plain_weights))
    graphs = dict(_graphs(network, manifest)) if manifest.architecture.variant is None else {}
    return replace(manifest, files=_digests(blobs), graphs=_digests(graphs)), {**blobs, **graphs}


def graph_files(folder: Path, manifest: Manifest, bottlenecks: Mapping[int, Halves]) -> dict[str, bytes]:
    """The graphs of the network in *folder* and of its *bottlenecks*, by cut; each by its name."""
    graphs = dict(_graphs(load_part(folder, manifest, 0, manifest.stages), manifest))
    for cut, bottleneck in bottlenecks.items():
        assert isinstance(bottleneck, Bottleneck)
        graphs |= _bottleneck_graphs(bottleneck, cut)
    return graphs


def bottleneck_files(
    manifest: Manifest, cut: int, bottleneck: Bottleneck, tables: LevelTables
) -> tuple[Manifest, dict[str, bytes]]:
    """*manifest* with the *bottleneck* of *cut*, and the files of that by name."""
    blob = tensors_to_bytes({**pack(weights_of(bottleneck), "fp16"), FREQUENCIES: tables.frequencies})
    graphs = _bottleneck_graphs(bottleneck, cut) if manifest.graphs else {}
    named = replace(
        manifest,
        bottlenecks={**manifest.bottlenecks, cut: BottleneckFile(bottleneck.shape, digest_of(blob))},
        graphs={**manifest.graphs, **_digests(graphs)},
    )
    return named, {f"{bottleneck_stem(cut)}.safetensors": blob, **graphs}


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: digest_of(blob) for name, blob in files.items()}


def cached_graph_of(folder: Path, manifest: Manifest, part: int | str) -> bytes:
    """The graph of a stage, or of `PLAIN_TRUNK`, from the cache folder; it is exported if it is not there yet."""
    key, shapes = manifest.content_hash, manifest.cut_shapes
    if isinstance(part, str):
        key = hashlib.sha256(f"{key} {part}".encode()).hexdigest()
        return cached_graph(key, 0, lambda: export_stage(load_plain_trunk(folder, manifest), 0, shapes[0]))
    return cached_graph(
        key, part, lambda: export_stage(load_part(folder, manifest, part, part + 1), part, shapes[part])
    )


def _graphs(network: BranchyNet, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    """The graphs of all stages and of the plain trunk, by name. They hold no weights, so they are those of either."""
    for index, shape in enumerate(manifest.cut_shapes):
        yield f"{stage_stem(index)}.onnx", export_stage(network, index, shape)
    yield f"{PLAIN_TRUNK}.onnx", export_stage(network.plain(), 0, network.input_shape)


def _bottleneck_graphs(bottleneck: Bottleneck, cut: int) -> dict[str, bytes]:
    """The graphs of encoder and decoder by name, for one sample at a time; tried beside torch as stages are."""
    shape, names = bottleneck.shape, bottleneck_graphs(cut)
    halves = (
        (_Half(bottleneck, "codes"), torch.zeros(1, *shape.map_shape)),
        (_Half(bottleneck, "decoded"), torch.zeros(1, *shape.code_shape)),
    )
    graphs = [export_module(half.eval(), example, [half.step], kept_in=bottleneck) for half, example in halves]
    weights = weights_of(bottleneck)
    run = GraphHalves(shape, *(with_weights(graph, weights) for graph in graphs))
    features = np.random.default_rng(0).random(shape.map_shape, np.float32)
    levels = bottleneck.levels(features)
    # Between two levels rounding decides; a wrong graph is off at more than a few places.
    wrong = np.mean(run.levels(features) != levels)
    if wrong > MOST_ROUNDED or not is_near(bottleneck.features(levels), run.features(levels)):
        raise InvalidInput(f"the graphs of the bottleneck at cut {cut} differ from torch")
    return dict(zip(names, graphs, strict=True))


class _Half(nn.Module):
    """One *step* of a bottleneck, its method `codes` or `decoded`."""

    def __init__(self, bottleneck: Bottleneck, step: str) -> None:
        super().__init__()
        self.bottleneck, self.step = bottleneck, step

    def forward(self, x: Tensor) -> Tensor:
        """What the step makes of a batch."""
        result: Tensor = getattr(self.bottleneck, self.step)(x)
        return result
