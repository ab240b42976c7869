"""An ONNX file read and looked at: what cannot become torch layers is refused before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from branchynet.errors import BranchyNetError, DamagedData, InvalidInput, need
from branchynet.network.foreign_code import in_words
from branchynet.network.onnx_import.parsing import GraphNode, nodes_and_constants

__all__ = ["EXPORT_FOR_ANY", "GraphFile", "read_graph"]

OPSET = 18  # the first of those that our operators are written for
IR_VERSION = 8  # that of OPSET; before 4, constants had to be among the inputs
FLOAT = 1  # onnx.TensorProto.FLOAT
EXPORT_FOR_ANY = (
    'torch.onnx.export(model, (images,), "model.onnx", dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},)), '
    "with two images or more"
)
_QUANTISING = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
_PROBABILITIES = {"Softmax", "Sigmoid", "HardSigmoid"}


@dataclass(frozen=True, slots=True)
class GraphFile:
    """The *nodes* of *file* in their order, of opset `OPSET` or later, and its *constants* by name.

    It goes from tensor *takes* to tensor *gives*. *shape*: [C, H, W] of an image. *channels_last*: an image is
    [H, W, C] in the file. *batch*: the only number of images that it takes, None for any.
    """

    file: Path
    nodes: list[GraphNode]
    constants: dict[str, Tensor]
    takes: str
    gives: str
    shape: tuple[int, int, int]
    channels_last: bool
    batch: int | None


def read_graph(file: Path) -> GraphFile:
    """What is in *file*, with weights that lie beside it.

    Raises `InvalidInput` for a graph that does not go from one batch of float32 images of one size to one tensor, ends
    in probabilities, is quantised, or holds an operator that torch is not told; `DamagedData` for a file that holds no
    graph.
    """
    need("onnx")
    import onnx

    if not file.is_file():
        raise InvalidInput(f"there is no file {file}")
    try:
        model = onnx.load(file)
    except (BranchyNetError, MemoryError):
        raise
    except Exception as error:  # its readers' errors have no common base class
        raise DamagedData(f"{file} holds no ONNX model that can be read: {in_words(error)}") from error
    if not model.graph.node:
        raise DamagedData(f"{file} holds no ONNX model: there is no node in it")
    _check_kinds(model, file)
    constants = {kept.name for kept in model.graph.initializer}
    takes = [one for one in model.graph.input if one.name not in constants]
    if len(takes) != 1 or len(model.graph.output) != 1:
        names = [", ".join(one.name for one in many) or "nothing" for many in (takes, model.graph.output)]
        raise InvalidInput(
            f"{file} goes from {names[0]} to {names[1]}; it must go from one tensor to one: "
            'onnx.utils.extract_model("model.onnx", "part.onnx", ["input"], ["logits"]) takes a part out'
        )
    shape, channels_last, batch = _images(takes[0], file)
    taken, given = takes[0].name, model.graph.output[0].name
    _check_logits(model, file, taken, given)
    try:
        nodes, tensors = nodes_and_constants(_renewed(model))
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error}; give the model itself, as FILE.py:CALLABLE or FILE.pt2") from error
    return GraphFile(file, nodes, tensors, taken, given, shape, channels_last, batch)


def _check_kinds(model: Any, file: Path) -> None:
    """Refuse what another file of the same model would be better for."""
    for node in model.graph.node:
        name = f"node {node.name or node.output[0]!r}"
        if node.op_type in _QUANTISING or node.op_type.startswith("QLinear"):
            raise InvalidInput(
                f"{file} is quantised ({name} is a {node.op_type}); give the float model from before, and --precision "
                "int8 for a small artifact"
            )
        if node.domain == "com.microsoft":
            raise InvalidInput(
                f"{file} was written by an optimiser of ONNX Runtime ({name} is a {node.domain}.{node.op_type}); "
                "give the file from before"
            )


def _images(entry: Any, file: Path) -> tuple[tuple[int, int, int], bool, int | None]:
    """The shape [C, H, W] of an image, whether it is [H, W, C] in the file, and the fixed batch size if it has one."""
    import onnx

    kind = entry.type.tensor_type
    sides: list[Any] = [
        side.dim_value if side.HasField("dim_value") else side.dim_param or "?" for side in kind.shape.dim
    ]
    known = "float32" if kind.elem_type == FLOAT else onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    if kind.elem_type != FLOAT or len(sides) != 4:
        raise InvalidInput(
            f"{file} takes {known} [{', '.join(map(str, sides))}]; it must take float32 [batch, C, H, W] of images"
        )
    batch, *image = sides
    if not all(isinstance(side, int) and side > 0 for side in image):
        raise InvalidInput(
            f"{file} takes images [{', '.join(map(str, image))}] of more than one size; fix it, as for 224x224: "
            f"python -m onnxruntime.tools.make_dynamic_shape_fixed --input_name {entry.name} --input_shape 1,3,224,224 "
            "model.onnx fixed.onnx"
        )
    channels_last = image[2] in (1, 3) and image[0] not in (1, 3)
    height, width, channels = image if channels_last else (*image[1:], image[0])
    return (channels, height, width), channels_last, batch if isinstance(batch, int) and batch > 0 else None


def _check_logits(model: Any, file: Path, takes: str, gives: str) -> None:
    last = next((node for node in model.graph.node if gives in node.output), None)
    if last is not None and last.op_type in _PROBABILITIES:
        raise InvalidInput(
            f"{file} gives probabilities (it ends in a {last.op_type}), which would be taken for logits; leave that "
            f'out: onnx.utils.extract_model("{file.name}", "logits.onnx", ["{takes}"], ["{last.input[0]}"])'
        )


def _renewed(model: Any) -> Any:
    """*model* without functions of its own, of opset `OPSET` or later."""
    import onnx.inliner
    import onnx.version_converter

    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), OPSET)
    if opset >= OPSET:
        return model
    model.ir_version = max(model.ir_version, IR_VERSION)
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter's own, of no common kind
        raise InvalidInput(
            f"opset {opset} cannot be brought to {OPSET} ({in_words(error)}); export it with opset_version={OPSET}"
        ) from error
