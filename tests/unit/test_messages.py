"""Values to messages and back; messages that lie about themselves are refused before anything is allocated."""

import math
import string
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from network_examples import many, scorings

from branchynet.data.preprocessing import Interpolation, Preprocessing, Resize
from branchynet.errors import InvalidInput
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.rpc.messages import (
    array_from_tensor,
    history_from_message,
    history_to_message,
    policy_from_message,
    policy_to_message,
    predictions_from_reply,
    predictions_to_reply,
    rule_from_message,
    rule_to_message,
    served_from_reply,
    served_to_reply,
    tensor_from_array,
)
from branchynet.serving.prediction import Place, Policy, Prediction, ServedModel
from protos import split_inference_pb2 as pb

shapes = hnp.array_shapes(min_dims=1, max_dims=5, max_side=5)
arrays = st.one_of(
    hnp.arrays(np.uint8, shapes),
    hnp.arrays(np.float32, shapes, elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
)
preprocessings = st.builds(
    Preprocessing,
    st.sampled_from(Resize),
    st.sampled_from(Interpolation),
    st.tuples(*[st.integers(0, 255)] * 3),
)


def over_the_wire(message):
    """*message* as the other side parses it."""
    return type(message).FromString(message.SerializeToString())


@given(arrays)
@many
def test_a_tensor_comes_back_bit_for_bit(array):
    back = array_from_tensor(over_the_wire(tensor_from_array(array)), "tensor")
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert not back.flags.writeable


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_memory_layout_comes_back_as_the_same_values(dtype):
    original = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(dtype)
    for view in (
        original.transpose(0, 2, 3, 1),
        original[::-1],
        original[:, ::2, 1:, ::-2],
        np.asfortranarray(original),
        np.broadcast_to(original[:1], (3, 3, 4, 5)),
    ):
        np.testing.assert_array_equal(array_from_tensor(tensor_from_array(view), "tensor"), view)


def test_big_endian_numbers_travel_little_endian():
    array = np.array([1.5, -2.25, 3e38], dtype=">f4")
    message = tensor_from_array(array)
    assert message.data == array.astype("<f4").tobytes()
    np.testing.assert_array_equal(array_from_tensor(message, "tensor"), array)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8, np.int64, np.bool_, np.complex64, "S4", object])
def test_a_dtype_without_a_form_on_the_wire_is_refused(dtype):
    with pytest.raises(InvalidInput, match="use uint8 or float32"):
        tensor_from_array(np.zeros(3, dtype=dtype))


@pytest.mark.parametrize("code", [0, 3, 99, -1])
def test_an_unknown_dtype_code_is_refused(code):
    with pytest.raises(InvalidInput, match=f"images: dtype {code} is unknown"):
        array_from_tensor(pb.Tensor(dtype=code, shape=[1], data=b"x"), "images")


@pytest.mark.parametrize(
    "shape", [[], [0], [-1], [4, 0], [0, -1], [-2, -2], [1] * 9, [-(2**63)], [2**62, 0], [-1, 2**63 - 1]]
)
def test_a_shape_that_is_none_is_refused(shape):
    with pytest.raises(InvalidInput, match="is not 1 to 8 positive sides"):
        array_from_tensor(pb.Tensor(dtype=pb.DTYPE_UINT8, shape=shape, data=b"xxxx"), "images")


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        (pb.DTYPE_UINT8, [2, 2], 3),
        (pb.DTYPE_UINT8, [2, 2], 5),
        (pb.DTYPE_UINT8, [1], 0),
        (pb.DTYPE_FLOAT32, [2, 2], 4),
        (pb.DTYPE_FLOAT32, [1], 3),
        (pb.DTYPE_UINT8, [2**32, 2**32], 0),
        (pb.DTYPE_FLOAT32, [2**62], 0),
        (pb.DTYPE_FLOAT32, [2**40, 2**40, 2**40], 16),
        (pb.DTYPE_UINT8, [2**63 - 1], 8),
    ],
)
def test_bytes_that_do_not_add_up_are_refused_before_anything_is_allocated(dtype, shape, size):
    with pytest.raises(InvalidInput, match=f"takes {math.prod(shape) * (4 if dtype == 2 else 1)} bytes.*holds {size}"):
        array_from_tensor(pb.Tensor(dtype=dtype, shape=shape, data=bytes(size)), "images")


@given(
    st.sampled_from([0, 1, 2, 3]),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=10),
    st.binary(max_size=64),
)
@many
def test_any_tensor_message_is_an_array_of_its_bytes_or_refused(dtype, shape, data):
    try:
        array = array_from_tensor(pb.Tensor(dtype=dtype, shape=shape, data=data), "tensor")
    except InvalidInput:
        return
    assert array.tobytes() == data
    assert list(array.shape) == shape


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(scorings(4, 5), st.tuples(finite, finite, finite))
@many
def test_a_rule_comes_back_exactly(rule, thresholds):
    rule = rule.with_thresholds(thresholds)
    assert rule_from_message(over_the_wire(rule_to_message(rule))) == rule


def test_a_rule_of_thresholds_alone_is_on_the_wire_what_it_always_was():
    written = rule_to_message(ExitRule(Criterion.ENTROPY, (0.5,))).SerializeToString()
    assert written == b"\n\x07entropy\x12\x08" + struct.pack("<d", 0.5)


@given(hnp.arrays(np.int32, st.tuples(st.integers(0, 9), st.just(2)), elements=st.integers(0, 2**31 - 1)))
@many
def test_a_history_comes_back_exactly_and_takes_the_same_bytes_whatever_it_says(history):
    message = history_to_message(history)
    np.testing.assert_array_equal(history_from_message(over_the_wire(message)), history)
    assert message.ByteSize() == history_to_message(np.ones_like(history)).ByteSize()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (pb.History(labels=[1, 2], runs=[1]), "2 labels came with 1 runs"),
        (pb.History(labels=[2**32 - 1], runs=[1]), "holds 4294967295"),
    ],
)
def test_a_history_that_is_none_is_refused(message, words):
    with pytest.raises(InvalidInput, match=words):
        history_from_message(message)


@pytest.mark.parametrize(
    "message",
    [
        pb.ExitRule(criterion="margin", thresholds=[0.5], temperatures=[1.0]),
        pb.ExitRule(criterion="margin", thresholds=[0.5], temperatures=[1.0, -1.0]),
        pb.ExitRule(criterion="gate", thresholds=[0.5]),
        pb.ExitRule(criterion="gate", thresholds=[0.5], gates=[pb.Gate(weights=[math.nan])]),
    ],
)
def test_temperatures_and_gates_that_are_none_are_refused(message):
    with pytest.raises(InvalidInput, match=r"temperature|gate"):
        rule_from_message(message)


@pytest.mark.parametrize(
    ("criterion", "threshold"), [("", 0.5), ("luck", 0.5), ("entropy", math.nan), ("entropy", math.inf)]
)
def test_a_rule_that_is_none_is_refused(criterion, threshold):
    with pytest.raises(InvalidInput, match=r"criterion|threshold"):
        rule_from_message(pb.ExitRule(criterion=criterion, thresholds=[threshold]))


@pytest.mark.parametrize("policy", Policy)
def test_a_policy_comes_back(policy):
    assert policy_from_message(policy_to_message(policy)) is policy


@pytest.mark.parametrize("code", [3, -1, 1000])
def test_an_unknown_policy_is_refused(code):
    with pytest.raises(InvalidInput, match=f"policy {code} is unknown"):
        policy_from_message(code)


def test_no_policy_means_split():
    assert policy_from_message(pb.ClassifyRequest().policy) is Policy.SPLIT


milliseconds = st.floats(0, 1e6)
text = st.text(string.printable, max_size=20)
predictions = st.builds(
    Prediction,
    label=st.integers(0, 9),
    probabilities=hnp.arrays(np.float32, 10, elements=st.floats(0, 1, width=32)),
    exit=st.integers(0, 5),
    place=st.sampled_from(Place),
    edge_ms=milliseconds,
    network_ms=milliseconds,
    cloud_ms=milliseconds,
    uplink_bytes=st.integers(0, 2**40),
    fallback_reason=text,
)


def plain(prediction):
    """*prediction* as a value that can be compared."""
    fields = {name: getattr(prediction, name) for name in Prediction.__dataclass_fields__}
    return {**fields, "probabilities": prediction.probabilities.tobytes()}


@given(st.lists(predictions, min_size=1, max_size=5), text, text)
@many
def test_predictions_come_back_in_their_order(sent, model, content_hash):
    reply = over_the_wire(predictions_to_reply(model, content_hash, sent))
    assert (reply.model, reply.content_hash) == (model, content_hash)
    assert [plain(prediction) for prediction in predictions_from_reply(reply)] == [plain(one) for one in sent]


def reply_of(answers, rows):
    return pb.ClassifyReply(answers=answers, probabilities=tensor_from_array(np.zeros((rows, 10), np.float32)))


@pytest.mark.parametrize(("answers", "rows"), [(1, 2), (2, 1), (0, 1)])
def test_answers_that_do_not_match_the_probabilities_are_refused(answers, rows):
    with pytest.raises(InvalidInput, match=f"{answers} answers came with {rows} rows"):
        predictions_from_reply(reply_of([pb.Answer(place=pb.PLACE_EDGE)] * answers, rows))


@pytest.mark.parametrize("place", [0, 4, -1])
def test_an_answer_from_an_unknown_place_is_refused(place):
    with pytest.raises(InvalidInput, match=f"place .*{place}"):
        predictions_from_reply(reply_of([pb.Answer(place=place)], 1))


@pytest.mark.parametrize("label", [10, -1])
def test_an_answer_with_a_label_beyond_the_probabilities_is_refused(label):
    with pytest.raises(InvalidInput, match=f"label .*{label}.* 0 to 9"):
        predictions_from_reply(reply_of([pb.Answer(place=pb.PLACE_EDGE, label=label)], 1))


@pytest.mark.parametrize("shape", [(1,), (1, 10, 1)])
def test_probabilities_of_another_form_are_refused(shape):
    probabilities = tensor_from_array(np.zeros(shape, np.float32))
    reply = pb.ClassifyReply(answers=[pb.Answer(place=pb.PLACE_EDGE)], probabilities=probabilities)
    with pytest.raises(InvalidInput, match=r"probabilities of shape \(1,"):
        predictions_from_reply(reply)


@pytest.mark.parametrize(("shape", "max_batch"), [((1, 28, 28), 0), ((28, 28), 1), ((1, 28, -1), 1), ((), 8)])
def test_a_description_that_no_image_fits_is_refused(shape, max_batch):
    with pytest.raises(InvalidInput, match=f"max_batch {max_batch}"):
        served_from_reply(
            pb.DescribeReply(input_shape=shape, max_batch=max_batch, rule=pb.ExitRule(criterion="margin"))
        )


@pytest.mark.parametrize(("field", "value"), [("resize", "zoom"), ("interpolation", ""), ("ground", [0, 0, 256])])
def test_a_preprocessing_that_is_not_known_here_is_refused(field, value):
    reply = pb.DescribeReply(input_shape=(1, 28, 28), max_batch=1, rule=pb.ExitRule(criterion="margin"))
    assert served_from_reply(reply).preprocessing == Preprocessing(), "what nodes of before it was a choice mean"
    reply.preprocessing.MergeFrom(pb.Preprocessing(**(Preprocessing().to_json() | {field: value})))
    if field == "ground":
        del reply.preprocessing.ground[:3]
    with pytest.raises(InvalidInput, match=f"{field} is "):
        served_from_reply(reply)


def test_a_share_to_crop_crosses_the_wire_and_one_that_is_not_sent_is_all():
    reply = pb.DescribeReply(input_shape=(3, 28, 28), max_batch=1, rule=pb.ExitRule(criterion="margin"))
    for chosen in (Preprocessing("crop", crop_share=0.875), Preprocessing("crop")):
        reply.preprocessing.CopyFrom(pb.Preprocessing(**chosen.to_json()))
        assert reply.preprocessing.HasField("crop_share") is (chosen.crop_share != 1)
        assert served_from_reply(reply).preprocessing == chosen


def test_what_is_no_policy_is_refused():
    with pytest.raises(InvalidInput, match=r"'fast'.*'edge-only'"):
        policy_to_message("fast")


def test_a_reply_without_probabilities_is_refused():
    with pytest.raises(InvalidInput, match="probabilities"):
        predictions_from_reply(pb.ClassifyReply(answers=[pb.Answer(place=pb.PLACE_EDGE)]))


@given(
    st.builds(
        ServedModel,
        model=text,
        content_hash=text,
        stages=st.tuples(st.integers(0, 3), st.integers(1, 9)),
        total_stages=st.integers(1, 9),
        input_shape=st.tuples(*[st.integers(1, 64)] * 3),
        labels=st.lists(text, max_size=4).map(tuple),
        rule=scorings(3, 4),
        max_batch=st.integers(1, 65536),
        preprocessing=preprocessings,
    )
)
@many
def test_a_served_model_comes_back(served):
    assert served_from_reply(over_the_wire(served_to_reply(served))) == served
