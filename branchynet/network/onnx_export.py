"""From torch to ONNX: each stage of a network becomes one graph, which `OnnxRunner` runs.

A graph is written without its weights: they lie in the artifact's safetensors files, and `with_weights` adds them under
the names that they have in the stage. Exporting takes seconds a stage, so graphs are kept: beside an artifact's weights
(`Artifact.export_graphs`), or in the user's cache folder, in files whose names state what they were made from, what
made them, and the SHA-256 of their content: a file that is not what its name states is made again.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from branchynet.data.cache import cache_folder, cache_folders
from branchynet.errors import InvalidInput, need
from branchynet.files import write_bytes
from branchynet.network.foreign_code import foreign_code
from branchynet.network.graph_weights import with_weights
from branchynet.network.onnx_runner import FEATURES, INPUT, LOGITS, OnnxRunner
from branchynet.network.runner import Array, Engine, Runner
from branchynet.network.stages import BranchyNet

__all__ = ["cached_graph", "export_module", "export_stage", "is_near", "on_engine", "weights_of"]

_log = logging.getLogger(__name__)

OPSET = 20
EXAMPLE_BATCH = 2  # the exporter takes a batch of one for a constant
CHECKED_BATCHES = (1, 3)  # neither is the example's: the exporter has fixed a batch size without a word
_TABLES: dict[int, Any] = {}
TOLERANCE = 1e-3  # a wrong graph is far off; the rounding of a deep stage comes to 1e-5
KEY_CHARACTERS = 16


def on_engine(network: Runner, engine: Engine, threads: int = 1) -> Runner:
    """The whole *network* on *engine*; for ONNX Runtime it is exported first, which takes seconds a stage.

    *threads* are those of ONNX Runtime; torch's are a setting of its own. Raises `InvalidInput` if what is only there
    as graphs is wanted in torch, `SettingsError` if a package is not installed.
    """
    if not isinstance(network, BranchyNet):
        if engine is not Engine.ONNX:
            raise InvalidInput(f"the engine is {engine}; this network is there as ONNX graphs and runs on onnx only")
        return network
    if engine is Engine.EAGER:
        return network
    shapes = _cut_shapes(network)
    return OnnxRunner(
        lambda index: with_weights(export_stage(network, index, shapes[index]), weights_of(network.stage(index))),
        input_shape=network.input_shape,
        classes=network.classes,
        exit_of_stage=network.exit_of_stage,
        first=0,
        last=network.total_stages,
        threads=threads,
    )


def weights_of(module: nn.Module) -> dict[str, Array]:
    """What a file keeps of *module*, by name; the arrays share its memory."""
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def export_stage(network: BranchyNet, index: int, shape: Sequence[int]) -> bytes:
    """The graph of stage *index* without its weights, of opset 20; *shape*: one sample's tensor at that cut.

    The graph is tried beside torch before it is given out. Raises `InvalidInput`, with the operator or submodule, for
    layers that cannot be exported with a free batch size, and for a network in training.
    """
    if network.stage(index).training:
        raise InvalidInput("a network in training mode cannot be exported; call eval() first")
    stage = _Graph(network, index)
    outputs = [name for name, there in ((FEATURES, not stage.final), (LOGITS, stage.scores)) if there]
    example = torch.zeros(EXAMPLE_BATCH, *shape, dtype=torch.float32 if index else torch.uint8)
    with foreign_code(f"stage {index} cannot be exported to ONNX", stage.stage):
        try:
            graph = export_module(stage.eval(), example, outputs, kept_in=stage.stage)
        except torch.onnx.errors.OnnxExporterError as error:
            raise _first_cause(error) from None
        with_its_weights = with_weights(graph, weights_of(stage.stage))
    _check(with_its_weights, network, index, shape)
    return graph


def _first_cause(error: Exception) -> Exception:
    """What made torch's exporter give up; its own words are advice to its developers."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def export_module(module: nn.Module, example: Tensor, outputs: Sequence[str], *, kept_in: nn.Module) -> bytes:
    """The graph of *module*, from `INPUT`, alike *example*, to *outputs*; without the weights.

    It takes any batch if *example* has several samples, else one sample. The weights are those of *kept_in*, a part of
    *module*, and have the names that they have there.
    """
    need("onnx", "onnxscript", "onnxruntime")
    import onnx_ir
    from onnxscript.optimizer import optimize_ir

    with warnings.catch_warnings(), torch.no_grad(), _one_table_of_operators():
        warnings.simplefilter("ignore")  # the exporter's own use of what torch deprecates
        module(example)  # what layers compute once and keep must not first be computed while they are traced
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch")},) if len(example) > 1 else None,
            input_names=[INPUT],
            output_names=outputs,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        model, weights = program.model, _names_in(module, kept_in)
        # As inputs, weights are unknown: the optimiser then folds what is constant in the structure, and nothing else.
        for name in weights.keys() & model.graph.initializers.keys():
            weight = model.graph.initializers.pop(name)
            weight.const_value, weight.name = None, weights[name]
            model.graph.inputs.append(weight)
        optimize_ir(model)
    del model.graph.inputs[1:]
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # where in whose source each layer stands
    return bytes(onnx_ir.to_proto(model).SerializeToString())


@contextmanager
def _one_table_of_operators() -> Iterator[None]:
    """Have torch take the table of what it can export from the last time: making it takes longer than a small stage.

    It has no interface for that; where its inside has changed, exports take their time.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        original, make = ONNXRegistry.__dict__["from_torchlib"], ONNXRegistry.from_torchlib
    except (ImportError, KeyError):
        yield
        return

    def kept(opset_version: int) -> Any:
        if opset_version not in _TABLES:
            _TABLES[opset_version] = make(opset_version)
        return _TABLES[opset_version]

    ONNXRegistry.from_torchlib = staticmethod(kept)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]


def _names_in(module: nn.Module, part: nn.Module) -> dict[str, str]:
    """The names in *part* of its weights, by those in the whole *module*."""
    [prefix] = [f"{name}." if name else "" for name, inner in module.named_modules() if inner is part]
    return {prefix + name: name for name in part.state_dict()}


def cached_graph(key: str, index: int, export: Callable[[], bytes]) -> bytes:
    """The graph of stage *index* of what *key* identifies: from the cache folder, else made by *export* and put there.

    A cache folder that cannot be written costs the next start its time and is logged, no more.
    """
    within, name = Path("graphs") / key[:KEY_CHARACTERS], f"stage-{index}.{_exporter()}"
    for path in itertools.chain.from_iterable((place / within).glob(f"{name}.*.onnx") for place in cache_folders()):
        graph = path.read_bytes()
        if path.name == f"{name}.{_digest(graph)}.onnx":
            return graph
    graph = export()
    try:
        write_bytes(cache_folder() / within / f"{name}.{_digest(graph)}.onnx", graph)
    except OSError as error:
        _log.warning("the graph of stage %d is not kept for the next start: %s", index, error)
    return graph


class _Graph(nn.Module):
    """What the graph of a stage computes."""

    def __init__(self, network: BranchyNet, index: int) -> None:
        super().__init__()
        self.stage = network.stage(index)
        self.normalisation = network.normalisation if index == 0 else None
        self.final = index == network.total_stages - 1
        self.scores = self.stage.head is not None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features, logits = self.stage(x if self.normalisation is None else self.normalisation(x))
        return tuple(part for part in (None if self.final else features, logits) if part is not None)


def _check(graph: bytes, network: BranchyNet, index: int, shape: Sequence[int]) -> None:
    """Raise `InvalidInput` unless *graph* computes what torch does, for batches of a size that was not traced."""
    with foreign_code(f"ONNX Runtime does not take the graph of stage {index}", network.stage(index)):
        runner = OnnxRunner(
            lambda _: graph,
            input_shape=network.input_shape,
            classes=network.classes,
            exit_of_stage=network.exit_of_stage,
            first=index,
            last=index + 1,
        )
    random = np.random.default_rng(0)
    for batch in CHECKED_BATCHES:
        size = (batch, *shape)
        x: Array = random.standard_normal(size, np.float32) if index else random.integers(0, 256, size, np.uint8)
        with foreign_code(f"stage {index} does not take a batch of {batch}", network.stage(index)):
            expected, got = network.run(index, x), runner.run(index, x)
        final = index == network.total_stages - 1
        if not (final or is_near(expected[0], got[0])) or (
            expected[1] is not None and not is_near(expected[1], got[1])
        ):
            raise InvalidInput(f"the graph of stage {index} differs from torch for a batch of {batch}")


def is_near(expected: Array, got: Array | None) -> bool:
    """Equal but for rounding, which scales with the largest value."""
    if got is None or got.shape != expected.shape:
        return False
    return bool(np.abs(got - expected).max() <= TOLERANCE * max(float(np.abs(expected).max()), 1e-6))


def _cut_shapes(network: BranchyNet) -> list[tuple[int, ...]]:
    """As `models.cut_shapes`, for any whole network."""
    x: Array = np.zeros((1, *network.input_shape), np.uint8)
    shapes = []
    for index in range(network.total_stages):
        shapes.append(x.shape[1:])
        x, _ = network.run(index, x)
    return shapes


@functools.cache
def _exporter() -> str:
    """Stands for all that decides about a graph beside the weights: the layers' code and the exporter's versions."""
    digest = hashlib.sha256()
    package_folder = Path(__file__).parents[1]
    for name in ("network/onnx_export.py", "network/stages.py"):
        digest.update((package_folder / name).read_bytes())
    for path in sorted(package_folder.glob("models/*.py")):
        digest.update(path.read_bytes())
    for package in ("torch", "onnxscript", "onnx"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()[:KEY_CHARACTERS]


def _digest(graph: bytes) -> str:
    return hashlib.sha256(graph).hexdigest()[:KEY_CHARACTERS]
