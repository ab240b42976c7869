"""Messages of the Open Inference Protocol to arrays and back. Nothing here decides.

What a sender says about sizes is checked against the bytes that came before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.rpc.messages import array_from_bytes, check_shape
from branchynet.rpc.open_inference.values import Answers, Parameter, TensorSpec
from protos import open_inference_pb2 as pb

__all__ = [
    "answers_from_response",
    "input_from_request",
    "outputs_from_request",
    "parameters_from_message",
    "request_from_images",
    "response_from_answers",
]

# Little-endian whatever the host is: the wire has one byte order.
_DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "UINT8": np.dtype("<u1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
}
_TYPED_FIELDS = {"UINT8": "uint_contents", "FP32": "fp32_contents"}
LENGTH_BYTES = 4


def input_from_request(
    request: pb.ModelInferRequest, specs: Sequence[TensorSpec]
) -> tuple[TensorSpec, NDArray[np.generic]]:
    """Which of *specs* came, and its values; read-only over the message's bytes if they came raw.

    Raises `InvalidInput` unless it is exactly one input of a known name, with its datatype, a shape that fits, and as
    many values as that shape asks for, either raw or typed.
    """
    names = [tensor.name for tensor in request.inputs]
    known = {spec.name: spec for spec in specs}
    if len(names) != 1 or names[0] not in known:
        raise InvalidInput(f"inputs are {names}; there must be exactly one, {' or '.join(known)}")
    tensor, spec = request.inputs[0], known[names[0]]
    what = f"input {spec.name!r}"
    _refuse_parameters(tensor.parameters, what)
    if tensor.datatype != spec.datatype:
        raise InvalidInput(f"{what}: datatype is {tensor.datatype!r}, it must be {spec.datatype}")
    shape = tuple(tensor.shape)
    if len(shape) != len(spec.shape) or any(
        fixed not in (-1, side) for side, fixed in zip(shape, spec.shape, strict=True)
    ):
        raise InvalidInput(f"{what}: shape is {shape}, it must be {spec.shape} with any positive number for -1")
    if not request.raw_input_contents:
        return spec, _typed(tensor.contents, spec, shape, what)
    if len(request.raw_input_contents) != 1:
        raise InvalidInput(f"1 input came with {len(request.raw_input_contents)} raw_input_contents")
    if tensor.contents.ListFields():
        raise InvalidInput(f"{what}: came with typed contents and with raw_input_contents; use one of them")
    return spec, array_from_bytes(request.raw_input_contents[0], _DTYPES[spec.datatype], shape, what)


def _typed(
    contents: pb.InferTensorContents, spec: TensorSpec, shape: tuple[int, ...], what: str
) -> NDArray[np.generic]:
    """The values in the field of *contents* that the datatype calls for; every other one must be empty."""
    check_shape(shape, what)
    name = _TYPED_FIELDS[spec.datatype]
    filled = [field.name for field, _ in contents.ListFields()]
    if set(filled) - {name}:
        raise InvalidInput(f"{what}: {', '.join(filled)} came; the values of {spec.datatype} belong in {name}")
    values = getattr(contents, name)
    if len(values) != math.prod(shape):
        raise InvalidInput(f"{what}: shape {shape} takes {math.prod(shape)} values, {name} holds {len(values)}")
    dtype = _DTYPES[spec.datatype]
    if spec.datatype == "UINT8" and max(values) > 255:
        raise InvalidInput(f"{what}: {name} holds {max(values)}, UINT8 ends at 255")
    return np.array(values, dtype=dtype).reshape(shape)


def outputs_from_request(request: pb.ModelInferRequest, specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Those of *specs* that shall come back, in the order they were asked for; all if none was.

    Raises `InvalidInput` for an unknown name, and for one that is there twice.
    """
    known = {spec.name: spec for spec in specs}
    wanted = [output.name for output in request.outputs]
    for output in request.outputs:
        if output.name not in known:
            raise InvalidInput(f"output {output.name!r} is unknown; there are {', '.join(known)}")
        if wanted.count(output.name) > 1:
            raise InvalidInput(f"output {output.name!r} is asked for {wanted.count(output.name)} times")
        _refuse_parameters(output.parameters, f"output {output.name!r}")
    return [known[name] for name in wanted or known]


def _refuse_parameters(parameters: Mapping[str, pb.InferParameter], what: str) -> None:
    if parameters:
        raise InvalidInput(f"{what}: parameter {', '.join(sorted(parameters))} is unknown; a tensor has none here")


def parameters_from_message(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    """The values of *parameters*; `InvalidInput` for one without a value."""
    values: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidInput(f"parameter {name!r} came without a value")
        values[name] = getattr(parameter, choice)
    return values


def response_from_answers(answers: Answers, wanted: Sequence[TensorSpec]) -> pb.ModelInferResponse:
    """The response with the outputs *wanted*, all of them raw; who answers whom is left to the caller."""
    arrays = answers.outputs()
    response = pb.ModelInferResponse()
    for spec in wanted:
        array = arrays[spec.name]
        response.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        response.raw_output_contents.append(_raw(array, spec.datatype))
    for name, value in answers.parameters.items():
        response.parameters[name].CopyFrom(_parameter(value))
    return response


def request_from_images(
    model: str, images: NDArray[np.uint8], parameters: Mapping[str, Parameter]
) -> pb.ModelInferRequest:
    """The request that *images*, uint8 [B, C, H, W], go through *model* (empty: whatever is served)."""
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[np.ascontiguousarray(images).tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    for name, value in parameters.items():
        request.parameters[name].CopyFrom(_parameter(value))
    return request


def answers_from_response(response: pb.ModelInferResponse, count: int) -> Answers:
    """The answers in *response* to *count* images; `InvalidInput` if one is missing or the bytes do not add up.

    How long they waited for the node's compute thread is not said, so *queue_ms* is 0.
    """
    outputs = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=False))
    shapes = {output.name: tuple(output.shape) for output in response.outputs}
    missing = {"label", "probabilities", "exit", "where"} - outputs.keys()
    if missing:
        raise InvalidInput(f"outputs {sorted(missing)} are missing from the response; {sorted(outputs)} came")

    def array(name: str, datatype: str) -> NDArray[np.generic]:
        return array_from_bytes(outputs[name], _DTYPES[datatype], shapes[name], f"output {name!r}")

    answers = Answers(
        labels=array("label", "INT64").astype(np.int64),
        probabilities=array("probabilities", "FP32").astype(np.float32),
        exits=array("exit", "INT32").astype(np.int32),
        places=np.array(_texts(outputs["where"])),
        parameters=parameters_from_message(response.parameters),
        queue_ms=0.0,
    )
    sizes = {name: len(values) for name, values in answers.outputs().items()}
    if set(sizes.values()) != {count}:
        raise InvalidInput(f"answers to {count} images came as {sizes}")
    return answers


def _texts(data: bytes) -> list[str]:
    """The elements of a BYTES tensor; `InvalidInput` if the last one is cut off."""
    texts, start = [], 0
    while start < len(data):
        end = start + LENGTH_BYTES + int.from_bytes(data[start : start + LENGTH_BYTES], "little")
        if end > len(data):
            raise InvalidInput(f"output 'where' ends at byte {len(data)} inside an element that ends at byte {end}")
        texts.append(data[start + LENGTH_BYTES : end].decode(errors="replace"))
        start = end
    return texts


def _raw(array: NDArray[np.generic], datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.ascontiguousarray(array, dtype=_DTYPES[datatype]).tobytes()
    elements = [str(element).encode() for element in array.flat]
    return b"".join(len(element).to_bytes(LENGTH_BYTES, "little") + element for element in elements)


def _parameter(value: Parameter) -> pb.InferParameter:
    match value:
        case bool():
            return pb.InferParameter(bool_param=value)
        case int():
            return pb.InferParameter(int64_param=value)
        case float():
            return pb.InferParameter(double_param=value)
        case str():
            return pb.InferParameter(string_param=value)
