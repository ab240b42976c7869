"""A bottleneck as its files hold it: run by its graphs where they are, else by torch."""

from __future__ import annotations

from pathlib import Path

from branchynet.artifact.codec_entries import FREQUENCIES
from branchynet.artifact.files import read_file
from branchynet.artifact.manifest import Manifest, bottleneck_graphs, bottleneck_stem
from branchynet.artifact.weights import read_tensors, unpack
from branchynet.codecs.ans import LevelTables
from branchynet.codecs.bottleneck import BottleneckCodec, Halves
from branchynet.errors import DamagedData, InvalidInput, installed, need
from branchynet.network.graph_halves import GraphHalves
from branchynet.network.graph_weights import with_weights

__all__ = ["read_bottleneck"]


def read_bottleneck(folder: Path, manifest: Manifest, cut: int, *, in_torch: bool = False) -> BottleneckCodec:
    """The bottleneck at *cut* of the artifact in *folder*; *in_torch*, as training needs it, even if it has graphs.

    Raises `InvalidInput` if there is none, `UnknownModel` if its file is missing, `DamagedData` if that is damaged.
    """
    kept = manifest.bottlenecks.get(cut)
    if kept is None:
        raise InvalidInput("no bottleneck was trained for this cut of the artifact (`branchynet train --bottleneck`)")
    name = f"{bottleneck_stem(cut)}.safetensors"
    tensors = read_tensors(read_file(folder / name, kept.digest, manifest.name), folder / name)
    frequencies = tensors.pop(FREQUENCIES, None)
    if frequencies is None:
        raise DamagedData(f"{folder / name} holds no {FREQUENCIES}")
    weights, graphs = unpack(tensors, "fp16", name), bottleneck_graphs(cut)
    halves: Halves
    if in_torch or not manifest.graphs.keys() >= set(graphs) or not installed("onnxruntime"):
        need("torch")
        from branchynet.artifact.torch_files import bottleneck_net

        halves = bottleneck_net(kept.shape, weights, name)
    else:
        read = (read_file(folder / graph, manifest.graphs[graph], manifest.name) for graph in graphs)
        halves = GraphHalves(kept.shape, *(with_weights(graph, weights) for graph in read))
    try:
        return BottleneckCodec(kept.shape, halves, LevelTables(frequencies), kept.digest)
    except InvalidInput as error:
        raise DamagedData(f"{folder / name} is no bottleneck: {error}") from None
