"""From torch to ONNX: each stage of a network becomes one graph, which `OnnxRunner` runs.

Exporting takes seconds a stage, so graphs of artifacts are kept in the user's cache folder, in files whose names tell
what they were made from, what made them, and the SHA-256 of their content: a file that is not what its name says is
made again.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from branchynet.cache import cache_folder, writing
from branchynet.engine import Array, Engine, Runner
from branchynet.errors import InvalidInput
from branchynet.network import BranchyNet
from branchynet.onnx_engine import FEATURES, INPUT, LOGITS, OnnxRunner, need

__all__ = ["cached_graph", "check_engine", "export_stage", "on_engine", "trunk_runner"]

_log = logging.getLogger(__name__)

OPSET = 20
EXAMPLE_BATCH = 2  # the exporter takes a batch of one for a constant
CHECKED_BATCHES = (1, 3)
TOLERANCE = 1e-3  # a wrong graph is far off; the rounding of a deep stage comes to 1e-5
KEY_CHARACTERS = 16


def on_engine(network: Runner, engine: Engine, threads: int = 1) -> Runner:
    """The whole *network* on *engine*; for ONNX Runtime it is exported first, which takes seconds a stage.

    *threads* are those of ONNX Runtime; torch's are a setting of its own. Raises `InvalidInput` if what is only there
    as graphs is wanted in torch, `SettingsError` if a package is not installed.
    """
    if not isinstance(network, BranchyNet):
        check_engine(engine)
        return network
    if engine is Engine.EAGER:
        return network
    shapes = _cut_shapes(network)
    return OnnxRunner(
        lambda index: export_stage(network, index, shapes[index]),
        input_shape=network.input_shape,
        classes=network.classes,
        exit_of_stage=network.exit_of_stage,
        first=0,
        last=network.total_stages,
        threads=threads,
    )


def trunk_runner(network: Runner, engine: Engine, threads: int = 1) -> Runner:
    """The plain network of *network* on *engine*, as one stage: uint8 images in, logits out. Raises as `on_engine`."""
    if isinstance(network, BranchyNet):
        network = network.plain()
    elif network.total_stages > 1:
        raise InvalidInput(f"{network.total_stages} graphs cannot be joined; the plain trunk has a graph of its own")
    return on_engine(network, engine, threads)


def check_engine(engine: Engine) -> None:
    """Raise `InvalidInput` unless *engine* can run graphs."""
    if engine is not Engine.ONNX:
        raise InvalidInput(f"the engine is {engine}; this network was exported as ONNX graphs and runs on onnx only")


def export_stage(network: BranchyNet, index: int, shape: Sequence[int]) -> bytes:
    """The graph of stage *index*, of opset 20 and in ONNX's own format; *shape*: one sample's tensor at that cut.

    The graph is tried beside torch before it is given out. Raises `InvalidInput` for layers that cannot be exported
    with a free batch size, and for a network in training.
    """
    need("onnx", "onnxscript", "onnxruntime")
    if network.stage(index).training:
        raise InvalidInput("a network in training mode cannot be exported; call eval() first")
    stage = _Graph(network, index)
    outputs = [name for name, there in ((FEATURES, not stage.final), (LOGITS, stage.scores)) if there]
    example = torch.zeros(EXAMPLE_BATCH, *shape, dtype=torch.float32 if index else torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own use of what torch deprecates
        stage(example)  # what layers compute once and keep must not first be computed while they are traced
        try:
            program = torch.onnx.export(
                stage.eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=outputs,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise InvalidInput(f"stage {index} cannot be exported to ONNX: {error}") from error
    assert program is not None
    graph = bytes(program.model_proto.SerializeToString())
    _check(graph, network, index, shape)
    return graph


def cached_graph(key: str, index: int, export: Callable[[], bytes]) -> bytes:
    """The graph of stage *index* of what *key* identifies: from the cache folder, else made by *export* and put there.

    A cache folder that cannot be written costs the next start its time and is logged, no more.
    """
    folder = cache_folder() / "graphs" / key[:KEY_CHARACTERS]
    name = f"stage-{index}.{_exporter()}"
    for path in folder.glob(f"{name}.*.onnx"):
        graph = path.read_bytes()
        if path.name == f"{name}.{_digest(graph)}.onnx":
            return graph
    graph = export()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder / f"{name}.{_digest(graph)}.onnx") as file:
            file.write(graph)
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
    """Raise `InvalidInput` unless *graph* says what torch says, for batches of a size that was not traced."""
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
        try:
            expected, got = network.run(index, x), runner.run(index, x)
        except Exception as error:  # the layers' and the runtime's own kinds
            raise InvalidInput(f"stage {index} does not take a batch of {batch}: {error}") from error
        final = index == network.total_stages - 1
        if not (final or _near(expected[0], got[0])) or (expected[1] is not None and not _near(expected[1], got[1])):
            raise InvalidInput(f"the graph of stage {index} says something else than torch for a batch of {batch}")


def _near(expected: Array, got: Array | None) -> bool:
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
    here = Path(__file__).parent
    for pattern in ("export.py", "network.py", "models/*.py"):
        for path in sorted(here.glob(pattern)):
            digest.update(path.read_bytes())
    for package in ("torch", "onnxscript", "onnx"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()[:KEY_CHARACTERS]


def _digest(graph: bytes) -> str:
    return hashlib.sha256(graph).hexdigest()[:KEY_CHARACTERS]
