"""A trained network on disk: one file a stage, and a manifest that says what they are.

    NAME/
    ├── manifest.json           architecture, normalisation, exit rule, recipe, measured results, checksums
    ├── stage-0.safetensors     trunk layers and exit head of stage 0
    ├── stage-1.safetensors     …
    ├── bottleneck-1.safetensors    encoder and decoder that were trained for cut 1, if any were
    └── baseline.safetensors    the plain trunk trained with the same recipe: a yard-stick, never served

A network whose layers are no code of ours is *exported*: each file is then an ONNX graph (`stage-0.onnx`, …), and the
manifest tells what our code would have. Only the engine onnx runs it; nothing else is different.

A half opens only the files of its own stages, so an edge never reads the deep weights; they need not even be on its
disk. The *content hash* covers architecture, normalisation and the weights of every stage, and nothing that may
change between two measurements: two halves with equal hashes belong together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from branchynet.codec_files import BottleneckFile
from branchynet.codecs import BottleneckCodec
from branchynet.codecs.entropy import LevelTables
from branchynet.codecs.learned import Bottleneck, fresh_bottleneck
from branchynet.engine import Engine, Runner
from branchynet.errors import DamagedData, InvalidInput, UnknownModel
from branchynet.export import cached_graph, check_engine, export_stage, trunk_runner
from branchynet.exported import ExportedArchitecture
from branchynet.manifest import BASELINE, Manifest, read_manifest, write_manifest
from branchynet.models import build
from branchynet.network import BranchyNet
from branchynet.onnx_engine import OnnxRunner
from branchynet.weight_files import Weights, pack, read_tensors, tensors_to_bytes, unpack

__all__ = [
    "Manifest",
    "load",
    "load_baseline",
    "load_runner",
    "load_trunk",
    "read_manifest",
    "save",
    "save_bottleneck",
    "save_exported",
    "write_manifest",
]


FREQUENCIES = "frequencies"


def save(
    folder: Path, manifest: Manifest, network: BranchyNet, baseline: Mapping[str, Tensor], weights: Weights = "fp32"
) -> Manifest:
    """Write *network* (whole) and its *baseline* weights under *folder*; the manifest with `files` filled in.

    *weights*: how those of the stages are kept; fp16 takes half the disk and int8 a quarter, and they round them. The
    baseline is kept in half precision at best: it is only measured, and its recorded results come from the kept
    values. What it shares with the network, which is all of it where the branches were put on a frozen trunk, is not
    kept twice. Raises `InvalidInput` for a weight that is too large for fp16.
    """
    manifest = replace(manifest, weights=weights)
    blobs = {
        manifest.file(index): tensors_to_bytes(pack(network.stage(index).state_dict(), weights))
        for index in range(network.total_stages)
    }
    own = network.state_dict()
    unlike = {name: tensor for name, tensor in baseline.items() if not torch.equal(tensor, own[name])}
    blobs[manifest.file(BASELINE)] = tensors_to_bytes(pack(unlike, _baseline_weights(manifest)))
    return _write(folder, manifest, blobs)


def save_exported(folder: Path, manifest: Manifest, network: BranchyNet, baseline: BranchyNet) -> Manifest:
    """Write the whole *network* under *folder* as ONNX graphs, and the plain trunk of *baseline* as one more.

    *network* may have been made of any layers; *baseline* is a whole network too, and may be the same one. The
    manifest comes back with `architecture` and `files` filled in; the name of its architecture is kept. Takes seconds
    a stage. Raises what `export_stage` raises.
    """
    architecture = ExportedArchitecture.of(manifest.architecture.name, network)
    manifest = replace(manifest, architecture=architecture, weights="fp32")
    blobs = {
        manifest.file(index): export_stage(network, index, shape) for index, shape in enumerate(manifest.cut_shapes)
    }
    blobs[manifest.file(BASELINE)] = export_stage(baseline.plain(), 0, baseline.input_shape)
    return _write(folder, manifest, blobs)


def load(folder: Path, first: int = 0, last: int | None = None) -> tuple[Manifest, BranchyNet]:
    """The artifact's manifest and its stages [*first*, *last*), in evaluation mode; by default all of them.

    Only those stages' files are opened. Raises `UnknownModel` if the artifact or a stage file is missing,
    `InvalidInput` for a range that the network does not have or an exported network, `DamagedData` for a checksum
    that does not fit.
    """
    manifest = read_manifest(folder)
    first, last = _range(manifest, first, last)
    half = _empty(manifest).part(first, last)
    for index in range(first, last):
        _fill(half.stage(index), folder, index, manifest)
    return _with_bottlenecks(folder, manifest, first, last), half.eval()


def load_runner(
    folder: Path, first: int = 0, last: int | None = None, *, engine: Engine | None = None, threads: int = 1
) -> tuple[Manifest, Runner]:
    """The artifact's manifest and its stages [*first*, *last*) on *engine*; by default all, on `Manifest.own_engine`.

    *threads* are those of ONNX Runtime; torch's are a setting of its own. The first time that a network of ours is to
    run on onnx it is exported, which takes seconds a stage; the graphs are kept in the cache folder. Raises what
    `load` raises, `SettingsError` if a package is not installed, and `InvalidInput` for an exported network on eager.
    """
    manifest = read_manifest(folder)
    engine = engine or manifest.own_engine
    if manifest.exported:
        check_engine(engine)
    if engine is Engine.EAGER:
        return load(folder, first, last)
    first, last = _range(manifest, first, last)
    runner = OnnxRunner(
        _exported_graphs(folder, manifest) if manifest.exported else _cached_graphs(folder, manifest),
        input_shape=manifest.architecture.input_shape,
        classes=manifest.architecture.classes,
        exit_of_stage=manifest.cost.exit_of_stage,
        first=first,
        last=last,
        threads=threads,
    )
    return _with_bottlenecks(folder, manifest, first, last), runner


def save_bottleneck(
    folder: Path, manifest: Manifest, cut: int, bottleneck: Bottleneck, tables: LevelTables
) -> Manifest:
    """Write the *bottleneck* of *cut* and its *tables* beside the stages in *folder*; the manifest that names the file.

    Its weights are kept in half precision, which rounds them.
    """
    tensors = pack(bottleneck.state_dict(), "fp16")
    blob = tensors_to_bytes({**tensors, FREQUENCIES: torch.from_numpy(tables.frequencies)})
    (folder / manifest.bottleneck_file(cut)).write_bytes(blob)
    kept = BottleneckFile(bottleneck.shape, hashlib.sha256(blob).hexdigest())
    complete = replace(manifest, bottlenecks={**manifest.bottlenecks, cut: kept})
    write_manifest(folder, complete)
    return complete


def load_baseline(folder: Path, manifest: Manifest) -> BranchyNet:
    """The plain trunk trained with the same recipe, as a whole network whose branches mean nothing: use `trunk` only.

    Raises `UnknownModel` if the artifact does not carry one or lacks a stage, `DamagedData` if a file is not what was
    written, `InvalidInput` for an exported network.
    """
    name, network = manifest.file(BASELINE), load(folder)[1]
    packed = read_tensors(_read(folder, BASELINE, manifest), folder / name)
    _assign(network, unpack(packed, _baseline_weights(manifest), name), name, strict=False)
    return network


def load_trunk(folder: Path, manifest: Manifest, *, engine: Engine | None = None, threads: int = 1) -> Runner:
    """The plain trunk trained with the same recipe, as a network of one stage; *engine*, *threads* as `load_runner`.

    Raises what `load_baseline` raises, but takes exported networks too.
    """
    engine = engine or manifest.own_engine
    if manifest.exported:
        check_engine(engine)
    if engine is Engine.EAGER:
        return trunk_runner(load_baseline(folder, manifest), Engine.EAGER)

    def graph(_: int) -> bytes:
        blob = _read(folder, BASELINE, manifest)
        if manifest.exported:
            return blob
        shape = manifest.architecture.input_shape
        key = hashlib.sha256(f"{manifest.content_hash} {manifest.files[manifest.file(BASELINE)]}".encode()).hexdigest()
        return cached_graph(key, 0, lambda: export_stage(load_baseline(folder, manifest).plain(), 0, shape))

    return OnnxRunner(
        graph,
        input_shape=manifest.architecture.input_shape,
        classes=manifest.architecture.classes,
        exit_of_stage=(0,),
        first=0,
        last=1,
        threads=threads,
    )


def _write(folder: Path, manifest: Manifest, blobs: Mapping[str, bytes]) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    for name, blob in blobs.items():
        (folder / name).write_bytes(blob)
    files = {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs.items()}
    complete = replace(manifest, files=files, bottlenecks={})  # those were made for other weights
    write_manifest(folder, complete)
    return complete


def _with_bottlenecks(folder: Path, manifest: Manifest, first: int, last: int) -> Manifest:
    """*manifest* with the bottlenecks of the cuts at which stages [*first*, *last*) begin, end or are cut."""
    learned = {
        cut: _bottleneck(folder, manifest, cut, kept)
        for cut, kept in manifest.bottlenecks.items()
        if first <= cut <= last
    }
    return replace(manifest, learned=learned)


def _bottleneck(folder: Path, manifest: Manifest, cut: int, kept: BottleneckFile) -> BottleneckCodec:
    name = manifest.bottleneck_file(cut)
    tensors = read_tensors(_checked(folder, name, kept.digest, manifest), folder / name)
    frequencies = tensors.pop(FREQUENCIES, None)
    if frequencies is None:
        raise DamagedData(f"{folder / name} holds no {FREQUENCIES}")
    with torch.device("meta"):
        bottleneck = fresh_bottleneck(kept.shape)
    _assign(bottleneck, unpack(tensors, "fp16", name), name, strict=True)
    try:
        return BottleneckCodec(kept.shape, bottleneck.eval(), LevelTables(frequencies.numpy()), kept.digest)
    except InvalidInput as error:
        raise DamagedData(f"{folder / name} is no bottleneck: {error}") from None


def _range(manifest: Manifest, first: int, last: int | None) -> tuple[int, int]:
    last = manifest.stages if last is None else last
    if not 0 <= first <= last <= manifest.stages:
        raise InvalidInput(
            f"stages [{first}, {last}) do not exist; {manifest.name} has the stages [0, {manifest.stages})"
        )
    return first, last


def _empty(manifest: Manifest) -> BranchyNet:
    """The whole network on the `meta` device, shapes without memory: no half ever holds the weights of the other."""
    if isinstance(manifest.architecture, ExportedArchitecture):
        raise InvalidInput(f"{manifest.name} was exported as ONNX graphs: the engine onnx runs it, torch cannot")
    with torch.device("meta"):
        return build(manifest.architecture, manifest.normalisation)


def _exported_graphs(folder: Path, manifest: Manifest) -> Callable[[int], bytes]:
    return lambda index: _read(folder, index, manifest)


def _cached_graphs(folder: Path, manifest: Manifest) -> Callable[[int], bytes]:
    shapes = manifest.cut_shapes

    def graph(index: int) -> bytes:
        _read(folder, index, manifest)  # a graph in the cache does not make up for weights that are away or damaged
        return cached_graph(
            manifest.content_hash,
            index,
            lambda: export_stage(load(folder, index, index + 1)[1], index, shapes[index]),
        )

    return graph


def _fill(module: torch.nn.Module, folder: Path, index: int, manifest: Manifest) -> None:
    name = manifest.file(index)
    tensors = read_tensors(_read(folder, index, manifest), folder / name)
    _assign(module, unpack(tensors, manifest.weights, name), name, strict=True)


def _baseline_weights(manifest: Manifest) -> Weights:
    return "fp16" if manifest.weights == "fp32" else manifest.weights


def _assign(module: torch.nn.Module, tensors: Mapping[str, Tensor], name: str, *, strict: bool) -> None:
    try:
        module.load_state_dict(tensors, strict=strict, assign=True)
    except RuntimeError as error:
        raise DamagedData(f"{name} does not fit the architecture: {error}") from None
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def _read(folder: Path, part: int | str, manifest: Manifest) -> bytes:
    """The file of a stage or of `BASELINE`, which is what was written."""
    name = manifest.file(part)
    return _checked(folder, name, manifest.files.get(name), manifest)


def _checked(folder: Path, name: str, expected: str | None, manifest: Manifest) -> bytes:
    try:
        blob = (folder / name).read_bytes()
    except FileNotFoundError:
        raise UnknownModel(f"{folder} does not hold {name}; this half of {manifest.name} is not here") from None
    digest = hashlib.sha256(blob).hexdigest()
    if digest != expected:
        raise DamagedData(f"{folder / name} has SHA-256 {digest}, the manifest says {expected}")
    return blob
