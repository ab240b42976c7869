"""From an ONNX file to a module that is known to answer as ONNX Runtime does on the file."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from branchynet.errors import InvalidInput
from branchynet.network.onnx_runner import open_session
from branchynet.surgery.onnx_file.building import build
from branchynet.surgery.onnx_file.reading import EXPORT_FOR_ANY, GraphFile, read_graph
from branchynet.surgery.tracing import example

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["load_graph"]

# Of the largest answer: rounding comes to 1e-6, a layer that is taken for another one to much more.
TOLERANCE = 1e-4
IMAGES = 4


def load_graph(file: Path) -> tuple[nn.Module, tuple[int, int, int]]:
    """The module in *file*, with the names of its tensors for submodules, and the shape [C, H, W] of its images.

    Raises what `read_graph` does, `DamagedData` for a graph that ONNX Runtime cannot run, and `InvalidInput` where the
    module does not answer as the file does there.
    """
    graph = read_graph(file)
    session = open_session(str(file), str(file))  # tells a graph that is none before anything is made of it
    model = build(graph)
    _check_equal(graph, model, session)
    return model, graph.shape


@torch.no_grad()
def _check_equal(graph: GraphFile, model: nn.Module, session: InferenceSession) -> None:
    images = example(graph.shape, IMAGES if graph.batch is None else 2 * graph.batch)
    stored = images.permute(0, 2, 3, 1).contiguous() if graph.channels_last else images
    parts = [part.numpy() for part in torch.split(stored, graph.batch or IMAGES)]
    expected = np.concatenate([session.run([graph.gives], {graph.takes: part})[0] for part in parts])
    if expected.ndim > 2 and prod(expected.shape[2:]) == 1:
        expected = expected.reshape(expected.shape[:2])
    got = model(images).numpy()
    if got.shape == expected.shape:
        unlike = float(np.abs(got - expected).max() / max(float(np.abs(expected).max()), 1e-12))
        if unlike <= TOLERANCE:
            return
        words = f"differs from it by {unlike:.1e} of the largest answer"
    else:
        words = f"gives {got.shape} for {expected.shape}"
    raise InvalidInput(
        f"{graph.file} runs in ONNX Runtime, and what torch makes of it {words}; export it again, for any number of "
        f"images: {EXPORT_FOR_ANY}"
    )
