"""What the edge offers under the Open Inference Protocol. Knows no protobuf."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from branchynet.errors import InvalidInput
from branchynet.rpc.open_inference.values import (
    NUMBER,
    RULE_PARAMETERS,
    TEXT,
    Answers,
    Inference,
    Kinds,
    Parameter,
    TensorSpec,
    image_spec,
    rule_from_parameters,
)
from branchynet.serving.prediction import Policy, Prediction, ServedModel
from edge_node.node import EdgeNode

__all__ = ["EdgeModel"]


class EdgeModel:
    """An `EdgeNode` as a `branchynet.rpc.open_inference.values.Model`."""

    def __init__(self, node: EdgeNode) -> None:
        self._node = node
        self.server = "branchynet-edge"
        self.parameters: Mapping[str, Kinds] = {
            **RULE_PARAMETERS,
            "accuracy_target": NUMBER,
            "policy": TEXT,
            "deadline_ms": NUMBER,
        }

    @property
    def served(self) -> ServedModel:
        """What the node serves now; the version changes, and its rule is that of a plan, which changes, too."""
        return self._node.served

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Images, as the served network takes them."""
        return (image_spec(self._node.served),)

    @property
    def settings(self) -> Mapping[str, str]:
        """The plan of the next request, as far as its rule does not say it."""
        plan = self._node.plan
        return {"cut": str(plan.cut), "codec": plan.codec, "edge_only": str(plan.edge_only).lower()}

    async def infer(self, inference: Inference) -> Answers:
        """The answers to a batch of images, whatever the cloud does; raises `InvalidInput` or `TooLarge`."""
        parameters = inference.parameters
        target = parameters.get("accuracy_target")
        predictions = await self._node.classify(
            inference.tensor,
            rule=rule_from_parameters(parameters, self.served.rule),
            policy=_policy(parameters.get("policy", Policy.SPLIT)),
            remaining_ms=min(inference.remaining_ms, _deadline_ms(parameters)),
            accuracy_target=None if target is None else float(target),
        )
        return _answers(predictions)


def _policy(name: Parameter) -> Policy:
    try:
        return Policy(str(name))
    except ValueError:
        raise InvalidInput(f"policy is {name!r}, it must be one of {', '.join(Policy)}") from None


def _deadline_ms(parameters: Mapping[str, Parameter]) -> float:
    """How long the caller waits; for ever if it does not say so."""
    if "deadline_ms" not in parameters:
        return math.inf
    deadline_ms = float(parameters["deadline_ms"])
    if not (math.isfinite(deadline_ms) and deadline_ms > 0):
        raise InvalidInput(f"deadline_ms is {deadline_ms:g}, it must be a positive number of milliseconds")
    return deadline_ms


def _answers(predictions: Sequence[Prediction]) -> Answers:
    """*predictions* as arrays; the parameters hold the batch's longest times, its bytes, and why it fell back."""
    parameters: dict[str, Parameter] = {
        "edge_ms": max(prediction.edge_ms for prediction in predictions),
        "network_ms": max(prediction.network_ms for prediction in predictions),
        "cloud_ms": max(prediction.cloud_ms for prediction in predictions),
        "uplink_bytes": sum(prediction.uplink_bytes for prediction in predictions),
    }
    # What is left of a batch travels in one message, so there is one reason at most.
    reason = max(prediction.fallback_reason for prediction in predictions)
    if reason:
        parameters["fallback_reason"] = reason
    return Answers(
        labels=np.array([prediction.label for prediction in predictions], dtype=np.int64),
        probabilities=np.stack([prediction.probabilities for prediction in predictions]),
        exits=np.array([prediction.exit for prediction in predictions], dtype=np.int32),
        places=np.array([prediction.place.value for prediction in predictions]),
        parameters=parameters,
        queue_ms=max(prediction.edge_queue_ms for prediction in predictions),
    )
