"""Stages in ONNX Runtime, one graph each, with normalisation and exit head inside. Running them needs no torch.

A graph takes `x` (uint8 images for stage 0, float32 features otherwise, the batch first) and gives `features` and
`logits`; a stage without an exit has no `logits`, the final stage no `features`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import DamagedData, need
from branchynet.network.runner import Array, Engine, Runner

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["FEATURES", "INPUT", "LOGITS", "OnnxRunner", "open_session"]

INPUT, FEATURES, LOGITS = "x", "features", "logits"


class OnnxRunner(Runner):
    """Stages [*first*, *last*) as graphs: *graphs* gives that of each stage, in ONNX's own format.

    Raises `SettingsError` if onnxruntime is not installed, `DamagedData` for what is no such graph, and what *graphs*
    raises.
    """

    engine = Engine.ONNX

    def __init__(
        self,
        graphs: Callable[[int], bytes],
        *,
        input_shape: tuple[int, int, int],
        classes: int,
        exit_of_stage: Sequence[int | None],
        first: int,
        last: int,
        threads: int = 1,
    ) -> None:
        super().__init__(input_shape=input_shape, classes=classes, exit_of_stage=exit_of_stage, first=first, last=last)
        self._threads = threads
        self._graphs = graphs
        self._stages = {index: self._open(index, graphs(index)) for index in range(first, last)}

    def run_chunk(self, index: int, x: Array) -> tuple[Array, NDArray[np.float32] | None]:
        """See `Runner.run_chunk`."""
        session, outputs = self._stages[index]
        results = session.run(outputs, {INPUT: x})
        # The last output is the logits where there are any; the final stage has nothing else.
        return results[0], results[-1] if outputs[-1] == LOGITS else None

    def without_branches(self) -> OnnxRunner:
        """See `Runner.without_branches`. Needs the package onnx."""
        final = self.total_stages - 1
        return OnnxRunner(
            lambda index: self._graphs(index) if index == final else _trunk_of(self._graphs(index)),
            input_shape=self.input_shape,
            classes=self.classes,
            exit_of_stage=(*[None] * final, 0),
            first=self.first,
            last=self.last,
            threads=self._threads,
        )

    def _open(self, index: int, graph: bytes) -> tuple[InferenceSession, list[str]]:
        """A session for *graph* and the names of its outputs."""
        session = open_session(graph, f"stage {index}", self._threads)
        outputs = [output.name for output in session.get_outputs()]
        inputs = [(entry.name, entry.type) for entry in session.get_inputs()]
        wanted = [(INPUT, "tensor(uint8)" if index == 0 else "tensor(float)")], self._outputs(index)
        if (inputs, outputs) != wanted:
            raise DamagedData(f"the graph of stage {index} goes from {inputs} to {outputs}, it must be {wanted}")
        return session, outputs

    def _outputs(self, index: int) -> list[str]:
        if index == self.total_stages - 1:
            return [LOGITS]
        return [FEATURES] if self.exit_of_stage[index] is None else [FEATURES, LOGITS]


def open_session(graph: bytes | str, what: str, threads: int = 1) -> InferenceSession:
    """A session that runs *graph*, or the file of that name, on *threads*.

    Raises `DamagedData`, naming *what* it is of, if it cannot be run.
    """
    need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A thread that spins for the next call takes the core from what comes between two calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base class
        raise DamagedData(f"the graph of {what} cannot be run: {error}") from None


def _trunk_of(graph: bytes) -> bytes:
    """*graph* without what only its logits need."""
    need("onnx")
    import onnx

    return onnx.utils.Extractor(onnx.load_from_string(graph)).extract_model([INPUT], [FEATURES]).SerializeToString()
