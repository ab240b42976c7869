"""Protobuf messages to values and back. Nothing above the services knows protobuf; nothing here decides.

A tensor's bytes are checked against its dtype and shape before anything is allocated: the sender's word for a size
is never enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from branchynet.codecs import Payload
from branchynet.codecs.payload import Sendable
from branchynet.data.preprocessing import Preprocessing
from branchynet.errors import InvalidInput
from branchynet.exits.gates import Gate
from branchynet.exits.rules import ExitRule, History
from branchynet.placement.plan import Plan, plain_codec
from branchynet.serving.prediction import Place, Policy, Prediction, ServedModel
from branchynet.serving.validation import HASH_CHARACTERS
from protos import split_inference_pb2 as pb

__all__ = [
    "array_from_bytes",
    "array_from_tensor",
    "check_shape",
    "history_from_message",
    "history_to_message",
    "payload_from_message",
    "payload_to_message",
    "plan_from_message",
    "plan_to_message",
    "policy_from_message",
    "policy_to_message",
    "predictions_from_reply",
    "predictions_to_reply",
    "resume_request",
    "rule_from_message",
    "rule_to_message",
    "served_from_reply",
    "served_to_reply",
    "tensor_from_array",
]

# Little-endian whatever the host is: the wire has one byte order.
_DTYPES: dict[int, np.dtype[np.generic]] = {
    pb.DTYPE_UINT8: np.dtype("<u1"),
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_POLICIES = {
    pb.POLICY_SPLIT: Policy.SPLIT,
    pb.POLICY_EDGE_ONLY: Policy.EDGE_ONLY,
    pb.POLICY_CLOUD_ONLY: Policy.CLOUD_ONLY,
}
_POLICY_CODES = {policy: code for code, policy in _POLICIES.items()}
_PLACES = {pb.PLACE_EDGE: Place.EDGE, pb.PLACE_CLOUD: Place.CLOUD, pb.PLACE_FALLBACK: Place.FALLBACK}
_PLACE_CODES = {place: code for code, place in _PLACES.items()}
MAX_DIMENSIONS = 8


def tensor_from_array(array: NDArray[np.generic]) -> pb.Tensor:
    """The message for *array*, uint8 or float32; `InvalidInput` for another dtype."""
    code = _CODES.get(array.dtype.newbyteorder("<"))
    if code is None:
        raise InvalidInput(f"dtype {array.dtype} has no form on the wire; use uint8 or float32")
    data = np.ascontiguousarray(array, dtype=_DTYPES[code]).tobytes()
    return pb.Tensor(dtype=code, shape=array.shape, data=data)  # type: ignore[arg-type]


def array_from_tensor(tensor: pb.Tensor, what: str) -> NDArray[np.generic]:
    """A read-only array over the message's bytes; *what* names it in errors.

    Raises `InvalidInput` for an unknown dtype, a shape with a non-positive side or too many sides, or a number of
    bytes that dtype and shape do not ask for.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise InvalidInput(f"{what}: dtype {tensor.dtype} is unknown; 1 is uint8, 2 is float32")
    return array_from_bytes(tensor.data, dtype, tuple(tensor.shape), what)


def array_from_bytes(
    data: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...], what: str
) -> NDArray[np.generic]:
    """A read-only array of *dtype* and *shape* over *data*; *what* names it in errors.

    Raises `InvalidInput` for a shape that `check_shape` refuses, or another number of bytes than it asks for.
    """
    check_shape(shape, what)
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InvalidInput(
            f"{what}: shape {shape} of {dtype.name} takes {expected} bytes, the message holds {len(data)}"
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def check_shape(shape: tuple[int, ...], what: str) -> None:
    """Raise `InvalidInput` for a *shape* with a non-positive side, too many sides or none; *what* names it."""
    if not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 1:
        raise InvalidInput(f"{what}: shape {shape} is not 1 to {MAX_DIMENSIONS} positive sides")


def payload_to_message(payload: Payload) -> pb.Encoded:
    """The message for *payload*."""
    return pb.Encoded(codec=payload.codec, version=payload.version, shape=payload.shape, data=payload.data)


def payload_from_message(message: pb.Encoded) -> Payload:
    """The payload in *message*; `InvalidInput` for a shape that no tensor has. The codec checks the rest."""
    shape = tuple(message.shape)
    check_shape(shape, "encoded")
    return Payload(message.codec, message.version, shape, message.data)


def rule_to_message(rule: ExitRule) -> pb.ExitRule:
    """The message for *rule*."""
    return pb.ExitRule(
        criterion=rule.criterion.value,
        thresholds=rule.thresholds,
        temperatures=rule.temperatures,
        gates=[pb.Gate(weights=gate.weights, bias=gate.bias) for gate in rule.gates],
    )


def rule_from_message(message: pb.ExitRule) -> ExitRule:
    """The rule in *message*; `InvalidInput` for what `ExitRule` or `Gate` refuses."""
    return ExitRule(
        message.criterion,  # type: ignore[arg-type]
        tuple(message.thresholds),
        tuple(message.temperatures),
        tuple(Gate(tuple(gate.weights), gate.bias) for gate in message.gates),
    )


def plan_to_message(plan: Plan) -> pb.Plan:
    """The message for *plan*."""
    return pb.Plan(cut=plan.cut, rule=rule_to_message(plan.rule), codec=plan.codec, edge_only=plan.edge_only)


def plan_from_message(message: pb.Plan, rule: ExitRule | None = None) -> Plan:
    """The plan in *message*; *rule* is for one that brings none. Raises `InvalidInput` for what is no plan."""
    if message.HasField("rule"):
        rule = rule_from_message(message.rule)
    if rule is None:
        raise InvalidInput("a plan came without a rule")
    if message.cut < 0:
        raise InvalidInput(f"a plan's cut is {message.cut}; it must be 0 or more")
    return Plan(message.cut, rule, message.edge_only, message.codec or plain_codec(message.cut))


def history_to_message(history: History) -> pb.History:
    """The message for *history*, int32 [R, 2]."""
    return pb.History(labels=history[:, 0].tolist(), runs=history[:, 1].tolist())


def history_from_message(message: pb.History) -> History:
    """The history in *message*; `InvalidInput` if it has not as many runs as labels, or holds what no exit can say."""
    if len(message.labels) != len(message.runs):
        raise InvalidInput(f"a history of {len(message.labels)} labels came with {len(message.runs)} runs")
    history = np.stack([np.array(message.labels, dtype=np.int64), np.array(message.runs, dtype=np.int64)], axis=1)
    if len(history) and history.max() > np.iinfo(np.int32).max:
        raise InvalidInput(f"a history holds {history.max()}; no label and no run is as large")
    return history.astype(np.int32)


def policy_to_message(policy: Policy) -> pb.Policy:
    """The code of *policy*; `InvalidInput` for what is none."""
    try:
        return _POLICY_CODES[policy]
    except KeyError:
        raise InvalidInput(f"policy {policy!r} is unknown; it must be one of {[*map(str, Policy)]}") from None


def policy_from_message(code: int) -> Policy:
    """The policy with this *code*; `InvalidInput` if there is none."""
    try:
        return _POLICIES[code]  # type: ignore[index]
    except KeyError:
        raise InvalidInput(f"policy {code} is unknown; it must be one of {sorted(_POLICIES)}") from None


def predictions_to_reply(model: str, content_hash: str, predictions: Sequence[Prediction]) -> pb.ClassifyReply:
    """The reply that carries *predictions*, in their order."""
    answers = [
        pb.Answer(
            label=prediction.label,
            exit=prediction.exit,
            place=_PLACE_CODES[prediction.place],
            edge_ms=prediction.edge_ms,
            network_ms=prediction.network_ms,
            cloud_ms=prediction.cloud_ms,
            uplink_bytes=prediction.uplink_bytes,
            fallback_reason=prediction.fallback_reason,
        )
        for prediction in predictions
    ]
    probabilities = np.stack([prediction.probabilities for prediction in predictions])
    return pb.ClassifyReply(
        model=model,
        content_hash=content_hash,
        answers=answers,
        probabilities=tensor_from_array(probabilities),
    )


def predictions_from_reply(reply: pb.ClassifyReply) -> list[Prediction]:
    """The predictions in *reply*; `InvalidInput` if the server's reply does not add up."""
    probabilities = array_from_tensor(reply.probabilities, "probabilities").astype(np.float32)
    if probabilities.ndim != 2:
        raise InvalidInput(f"probabilities of shape {probabilities.shape} came, not (batch, classes)")
    if len(probabilities) != len(reply.answers):
        raise InvalidInput(f"{len(reply.answers)} answers came with {len(probabilities)} rows of probabilities")
    unknown = {answer.place for answer in reply.answers} - set(_PLACES)
    if unknown:
        raise InvalidInput(f"place {sorted(unknown)} is unknown; it must be one of {sorted(_PLACES)}")
    classes = probabilities.shape[1]
    beyond = {answer.label for answer in reply.answers} - set(range(classes))
    if beyond:
        raise InvalidInput(f"label {sorted(beyond)} is unknown; it must be 0 to {classes - 1}")
    return [
        Prediction(
            label=answer.label,
            probabilities=row,
            exit=answer.exit,
            place=_PLACES[answer.place],
            edge_ms=answer.edge_ms,
            network_ms=answer.network_ms,
            cloud_ms=answer.cloud_ms,
            uplink_bytes=answer.uplink_bytes,
            fallback_reason=answer.fallback_reason,
        )
        for answer, row in zip(reply.answers, probabilities, strict=True)
    ]


def served_to_reply(served: ServedModel) -> pb.DescribeReply:
    """The reply that describes *served*."""
    return pb.DescribeReply(
        model=served.model,
        content_hash=served.content_hash,
        first_stage=served.stages[0],
        last_stage=served.stages[1],
        total_stages=served.total_stages,
        input_shape=served.input_shape,
        labels=served.labels,
        rule=rule_to_message(served.rule),
        max_batch=served.max_batch,
        preprocessing=pb.Preprocessing(**served.preprocessing.to_json()),
    )


def served_from_reply(reply: pb.DescribeReply) -> ServedModel:
    """What the node that sent *reply* serves.

    Raises `InvalidInput` for an input shape or batch that no image fits, and for a preprocessing that is not known
    here: another one would make other answers.
    """
    if len(reply.input_shape) != 3 or min(*reply.input_shape, reply.max_batch) < 1:
        raise InvalidInput(
            f"input shape {tuple(reply.input_shape)} and max_batch {reply.max_batch} were described, "
            "not three positive sides and at least 1"
        )
    return ServedModel(
        model=reply.model,
        content_hash=reply.content_hash,
        stages=(reply.first_stage, reply.last_stage),
        total_stages=reply.total_stages,
        input_shape=tuple(reply.input_shape),
        labels=tuple(reply.labels),
        rule=rule_from_message(reply.rule),
        max_batch=reply.max_batch,
        preprocessing=_preprocessing(reply),
    )


def _preprocessing(reply: pb.DescribeReply) -> Preprocessing:
    """The one in *reply*; the default, if it comes from a node of before there was a choice."""
    if not reply.HasField("preprocessing"):
        return Preprocessing()
    sent = reply.preprocessing
    share = sent.crop_share if sent.HasField("crop_share") else 1.0
    return Preprocessing.of(sent.resize, sent.interpolation, sent.ground, share)


def resume_request(
    content_hash: str, cut: int, sent: Sendable, rule: ExitRule | None, history: History | None = None
) -> pb.ResumeRequest:
    """The message that offloads *sent*, R samples, at *cut*; its `ByteSize` is what an offload is said to have sent."""
    return pb.ResumeRequest(
        content_hash=content_hash[:HASH_CHARACTERS],
        cut=cut,
        tensor=None if isinstance(sent, Payload) else tensor_from_array(sent),
        encoded=payload_to_message(sent) if isinstance(sent, Payload) else None,
        rule=None if rule is None else rule_to_message(rule),
        history=None if history is None else history_to_message(history),
    )
