"""Messages of the Open Inference Protocol to values and back, parameters to rules, and the counters."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from network_examples import gates
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from branchynet.errors import InvalidInput
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.rpc.open_inference import tensors
from branchynet.rpc.open_inference.counters import Counters, Times
from branchynet.rpc.open_inference.values import (
    NUMBER,
    TEXT,
    Answers,
    TensorSpec,
    check_parameters,
    rule_from_parameters,
)
from protos import open_inference_pb2 as pb

IMAGE = TensorSpec("image", "UINT8", (-1, -1, -1))
FEATURES = TensorSpec("features", "FP32", (-1, -1, -1))
OUTPUTS = (
    TensorSpec("label", "INT64", (-1,)),
    TensorSpec("probabilities", "FP32", (-1, 3)),
    TensorSpec("exit", "INT32", (-1,)),
    TensorSpec("where", "BYTES", (-1,)),
)
RULE = ExitRule(Criterion.ENTROPY, (0.5, 0.25))
DTYPES = {"UINT8": np.uint8, "FP32": np.float32}
SHAPES = arrays.array_shapes(min_dims=3, max_dims=3, max_side=4)
FLOATS = st.floats(width=32)


def tensor(spec: TensorSpec) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(DTYPES[spec.datatype], SHAPES, elements=FLOATS if spec is FEATURES else None)


def request_for(array: np.ndarray, spec: TensorSpec, typed: bool) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    message = request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
    if typed:
        field = "uint_contents" if spec is IMAGE else "fp32_contents"
        getattr(message.contents, field).extend(array.ravel().tolist())
    else:
        request.raw_input_contents.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return request


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("spec", [IMAGE, FEATURES], ids=lambda spec: spec.datatype)
@given(data=st.data())
def test_an_input_arrives_as_it_was_sent(data: st.DataObject, spec: TensorSpec, typed: bool) -> None:
    sent = data.draw(tensor(spec))
    came, array = tensors.input_from_request(request_for(sent, spec, typed), (IMAGE, FEATURES))
    assert came is spec
    assert array.dtype == sent.dtype
    np.testing.assert_array_equal(array, sent)


@given(sent=tensor(IMAGE), shape=SHAPES, typed=st.booleans())
def test_a_shape_that_asks_for_other_sizes_is_refused(sent: np.ndarray, shape: tuple[int, ...], typed: bool) -> None:
    request = request_for(sent, IMAGE, typed)
    request.inputs[0].shape[:] = shape
    if math.prod(shape) == sent.size:
        assert tensors.input_from_request(request, [IMAGE])[1].shape == shape
    else:
        with pytest.raises(InvalidInput, match=str(math.prod(shape))):
            tensors.input_from_request(request, [IMAGE])


@given(shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=12), typed=st.booleans(), contents=st.binary())
def test_no_shape_whatever_makes_more_than_what_came(shape: list[int], typed: bool, contents: bytes) -> None:
    """A sender's word for a size: what does not add up is refused, and nothing of that size is allocated."""
    request = request_for(np.frombuffer(contents, dtype=np.uint8), IMAGE, typed)
    request.inputs[0].shape[:] = shape
    try:
        _, array = tensors.input_from_request(request, [IMAGE])
    except InvalidInput:
        return
    assert array.tobytes() == contents


@given(request=st.binary(max_size=200))
def test_any_message_is_read_or_refused(request: bytes) -> None:
    message = pb.ModelInferRequest()
    try:
        message.ParseFromString(request)
    except Exception:  # gRPC answers these before our code runs
        return
    with contextlib.suppress(InvalidInput):
        tensors.parameters_from_message(message.parameters)
        tensors.outputs_from_request(message, OUTPUTS)
        tensors.input_from_request(message, [IMAGE])


@given(
    probabilities=arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=FLOATS),
    places=st.data(),
)
def test_what_goes_out_is_what_tritonclient_reads(probabilities: np.ndarray, places: st.DataObject) -> None:
    batch = len(probabilities)
    where = places.draw(
        st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=batch, max_size=batch)
    )
    answers = Answers(
        labels=np.arange(batch) - 2**62,
        probabilities=probabilities,
        exits=np.arange(batch, dtype=np.int32),
        places=np.array(where),
        parameters={"a": True, "b": 3, "c": 0.5, "d": "text"},
        queue_ms=0.0,
    )
    wanted = tensors.outputs_from_request(pb.ModelInferRequest(), OUTPUTS)
    ours = tensors.response_from_answers(answers, wanted)
    theirs = service_pb2.ModelInferResponse.FromString(ours.SerializeToString())
    result = InferResult(theirs)
    np.testing.assert_array_equal(result.as_numpy("label"), answers.labels)
    np.testing.assert_array_equal(result.as_numpy("probabilities"), probabilities)
    np.testing.assert_array_equal(result.as_numpy("exit"), answers.exits)
    assert [text.decode() for text in result.as_numpy("where")] == where
    assert deserialize_bytes_tensor(theirs.raw_output_contents[3]).tolist() == [text.encode() for text in where]
    assert theirs.parameters["a"].bool_param is True
    assert theirs.parameters["b"].int64_param == 3
    assert theirs.parameters["c"].double_param == 0.5
    assert theirs.parameters["d"].string_param == "text"


@given(thresholds=st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 2))
def test_thresholds_written_out_are_the_thresholds_read(thresholds: tuple[float, float]) -> None:
    text = ",".join(map(str, thresholds))
    assert rule_from_parameters({"threshold": text}, RULE) == ExitRule(Criterion.ENTROPY, thresholds)


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        ({}, None),
        ({"criterion": "entropy"}, None),
        ({"threshold": 0.125}, ExitRule(Criterion.ENTROPY, (0.125, 0.125))),
        ({"threshold": 1, "criterion": "margin"}, ExitRule(Criterion.MARGIN, (1.0, 1.0))),
        ({"threshold": " 0.5 , 1e-3"}, ExitRule(Criterion.ENTROPY, (0.5, 0.001))),
    ],
)
def test_a_rule_is_made_of_parameters(parameters, rule) -> None:
    assert rule_from_parameters(parameters, RULE) == rule


def test_parameters_keep_what_was_fitted() -> None:
    fitted = ExitRule("gate", (0.5,), (2.0, 3.0), gates(2, 10))
    assert rule_from_parameters({"threshold": 0.9}, fitted) == ExitRule("gate", (0.9,), (2.0, 3.0), gates(2, 10))
    asked = rule_from_parameters({"threshold": 0.9, "criterion": "margin"}, fitted)
    assert asked == ExitRule("margin", (0.9,), (2.0, 3.0))
    with pytest.raises(InvalidInput, match="0 gates with criterion 'gate'"):
        rule_from_parameters({"threshold": 0.9, "criterion": "gate"}, ExitRule.never(2))


@pytest.mark.parametrize("threshold", ["0.5", "0.5,", "0.5;0.5", "1,2,3", "", ",", "nan,1", float("inf")])
def test_thresholds_that_do_not_fit_are_refused(threshold) -> None:
    with pytest.raises(InvalidInput, match=r"threshold"):
        rule_from_parameters({"threshold": threshold}, RULE)


def test_a_network_without_early_exits_takes_a_number_for_all_of_none() -> None:
    plain = ExitRule(Criterion.ENTROPY, ())
    assert rule_from_parameters({"threshold": 0.5}, plain) == plain


@pytest.mark.parametrize(("value", "fits"), [(1, True), (1.5, True), (True, False), ("1", False)])
def test_a_number_is_an_integer_or_a_double_and_nothing_else(value, fits) -> None:
    known = {"deadline_ms": NUMBER, "policy": TEXT}
    if fits:
        check_parameters({"deadline_ms": value}, known, "edge")
    else:
        with pytest.raises(InvalidInput, match=f"'deadline_ms' is {value!r}, it must be an integer or a double"):
            check_parameters({"deadline_ms": value}, known, "edge")


def test_counters_are_sums_of_what_they_are_told() -> None:
    counters = Counters()
    counters.add(
        [("edge", 0), ("cloud", 1), ("edge", 0)], Times(read_ns=1, queue_ns=20, infer_ns=300, write_ns=4_000), 17
    )
    counters.add([("fallback", 0)], Times(read_ns=5, queue_ns=0, infer_ns=0, write_ns=0), 23)
    counters.add_failure(99)
    assert (counters.images, counters.last_ms) == (4, 23)
    assert (counters.success.count, counters.success.ns) == (2, 4_326)
    assert (counters.failure.count, counters.failure.ns) == (1, 99)
    assert [part.ns for part in (counters.read, counters.queue, counters.infer, counters.write)] == [6, 20, 300, 4_000]
    assert {by: (images.count, images.ns) for by, images in counters.answered_by.items()} == {
        ("edge", 0): (2, 8_642),
        ("cloud", 1): (1, 4_321),
        ("fallback", 0): (1, 5),
    }


ANSWERS = Answers(
    labels=np.array([2, 0]),
    probabilities=np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1]], np.float32),
    exits=np.array([0, 1], np.int32),
    places=np.array(["edge", "fallback"]),
    parameters={"edge_ms": 1.5, "fallback_reason": "UNAVAILABLE: away"},
    queue_ms=0.25,
)


def test_a_client_reads_the_answers_that_a_node_wrote():
    back = tensors.answers_from_response(tensors.response_from_answers(ANSWERS, OUTPUTS), 2)
    for name, values in ANSWERS.outputs().items():
        np.testing.assert_array_equal(back.outputs()[name], values)
    assert back.parameters == ANSWERS.parameters


def test_a_node_reads_the_images_that_a_client_wrote():
    images = np.arange(24, dtype=np.uint8).reshape(2, 1, 3, 4)
    request = tensors.request_from_images("m", images, {"policy": "edge-only", "threshold": 0.5})
    spec, read = tensors.input_from_request(request, [TensorSpec("image", "UINT8", (-1, 1, 3, 4))])
    assert spec.name == "image"
    np.testing.assert_array_equal(read, images)
    assert tensors.parameters_from_message(request.parameters) == {"policy": "edge-only", "threshold": 0.5}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda response: response.outputs.pop(), r"outputs \['where'\] are missing"),
        (lambda response: response.raw_output_contents.pop(), r"outputs \['where'\] are missing"),
        (lambda response: response.outputs[0].shape.__setitem__(0, 3), "output 'label'"),
        (lambda response: response.raw_output_contents.__setitem__(3, b"\x04\0\0\0edg"), "ends at byte 7 inside"),
        (lambda response: response.raw_output_contents.__setitem__(3, b"\x04\0\0\0edge"), "answers to 2 images came"),
    ],
)
def test_a_response_that_does_not_add_up_is_refused(break_it, message):
    response = tensors.response_from_answers(ANSWERS, OUTPUTS)
    break_it(response)
    with pytest.raises(InvalidInput, match=message):
        tensors.answers_from_response(response, 2)
