"""What passes between the Open Inference Protocol and a node: arrays and plain values, no protobuf."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput, UnknownModel
from branchynet.exits.rules import ExitRule
from branchynet.serving.prediction import ServedModel
from branchynet.serving.validation import check_model

__all__ = [
    "INTEGER",
    "NUMBER",
    "RULE_PARAMETERS",
    "TEXT",
    "Answers",
    "Inference",
    "Kinds",
    "Model",
    "Parameter",
    "TensorSpec",
    "check_parameters",
    "check_served",
    "image_spec",
    "model_settings",
    "model_version",
    "output_specs",
    "rule_from_parameters",
]

Parameter = bool | int | float | str
Kinds = tuple[type[Parameter], ...]

INTEGER: Kinds = (int,)
NUMBER: Kinds = (int, float)
TEXT: Kinds = (str,)
RULE_PARAMETERS: Mapping[str, Kinds] = {"threshold": (*NUMBER, *TEXT), "criterion": TEXT}
_KIND_WORDS: Mapping[type[Parameter], str] = {int: "an integer", float: "a double", str: "a string"}
VERSION_CHARACTERS = 12  # of the content hash: other weights are another version, and a person may type it


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: its *datatype* in the protocol's words, its *shape* with the batch first, -1 for any."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Inference:
    """One request: the one input it came with, its *parameters*, and how long the caller waits."""

    name: str
    tensor: NDArray[np.generic]
    parameters: Mapping[str, Parameter]
    remaining_ms: float


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to a batch of B samples, in their order.

    *labels*: int64 [B]; *probabilities*: float32 [B, K]; *exits*: int32 [B]; *places*: str [B].
    *parameters* go into the response; *queue_ms* was spent waiting for the node's compute thread.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    exits: NDArray[np.int32]
    places: NDArray[np.str_]
    parameters: Mapping[str, Parameter]
    queue_ms: float

    def outputs(self) -> dict[str, NDArray[np.generic]]:
        """The arrays by the names that `output_specs` gives them."""
        return {"label": self.labels, "probabilities": self.probabilities, "exit": self.exits, "where": self.places}


class Model(Protocol):
    """What a node offers: the one model it serves.

    *server*: what the node calls itself. *parameters*: those it takes, with the types each may have.
    """

    server: str
    parameters: Mapping[str, Kinds]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """A request brings one of them; the version may change."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """What it reports of itself now beside `model_settings`: the plan may change."""
        ...

    @property
    def served(self) -> ServedModel:
        """What it serves now: version and rule may change."""
        ...

    async def infer(self, inference: Inference) -> Answers:
        """The answers to *inference*, whose parameters are known and of the right types; raises our errors."""
        ...


def image_spec(served: ServedModel) -> TensorSpec:
    """The input that brings raw images."""
    return TensorSpec("image", "UINT8", (-1, *served.input_shape))


def output_specs(served: ServedModel) -> tuple[TensorSpec, ...]:
    """The outputs, the same on both nodes."""
    return (
        TensorSpec("label", "INT64", (-1,)),
        TensorSpec("probabilities", "FP32", (-1, len(served.labels))),
        TensorSpec("exit", "INT32", (-1,)),
        TensorSpec("where", "BYTES", (-1,)),
    )


def model_version(served: ServedModel) -> str:
    """The one version of the model: the beginning of its content hash."""
    return served.content_hash[:VERSION_CHARACTERS]


def check_served(name: str, version: str, served: ServedModel) -> None:
    """Raise `UnknownModel` unless *name* and *version* are *served*'s; empty ones are, and so is the whole hash."""
    check_model(name, served.model)
    if version not in ("", model_version(served), served.content_hash):
        raise UnknownModel(
            f"model {served.model!r} has no version {version!r} here; this node serves version {model_version(served)}"
        )


def model_settings(served: ServedModel) -> dict[str, str]:
    """What is to be known of the network and its rule, as text."""
    temperatures = ",".join(map(str, served.rule.temperatures))
    return {
        "content_hash": served.content_hash,
        "first_stage": str(served.stages[0]),
        "last_stage": str(served.stages[1]),
        "total_stages": str(served.total_stages),
        "criterion": served.rule.criterion.value,
        "thresholds": ",".join(map(str, served.rule.thresholds)),
        **({"temperatures": temperatures} if temperatures else {}),
        "labels": json.dumps(served.labels, ensure_ascii=False),
        "preprocessing": json.dumps(served.preprocessing.to_json()),
    }


def check_parameters(given: Mapping[str, Parameter], known: Mapping[str, Kinds], server: str) -> None:
    """Raise `InvalidInput` for a parameter that is not *known* to *server*, or of none of the types it may have."""
    for name, value in given.items():
        if name not in known:
            # To ignore it would be a wrong answer: the caller would take it for heeded.
            raise InvalidInput(f"parameter {name!r} is unknown; {server} takes {', '.join(known)}")
        # Not isinstance: to Python, True is an int.
        if type(value) not in known[name]:
            words = " or ".join(_KIND_WORDS[kind] for kind in known[name])
            raise InvalidInput(f"parameter {name!r} is {value!r}, it must be {words}")


def rule_from_parameters(parameters: Mapping[str, Parameter], rule: ExitRule) -> ExitRule | None:
    """The rule that *parameters* ask for in place of the served *rule*; None if they ask for none.

    The served temperatures stay. Raises `InvalidInput` for an unknown criterion, for thresholds that are not one finite
    number for each exit but the last, for another criterion without thresholds (the served ones mean nothing to it),
    and for gates where none are served.
    """
    threshold = parameters.get("threshold")
    criterion = str(parameters.get("criterion", rule.criterion.value))
    if threshold is None:
        # A rule without thresholds knows whether there is such a criterion.
        if ExitRule(criterion, ()).criterion is not rule.criterion:  # type: ignore[arg-type]
            raise InvalidInput(
                f"criterion is {criterion!r} and parameter 'threshold' is missing; "
                f"the served thresholds are for {rule.criterion.value}"
            )
        return None
    early = len(rule.thresholds)
    thresholds = _numbers(threshold) if isinstance(threshold, str) else (float(threshold),) * early
    return rule.with_thresholds(tuple(thresholds), criterion)


def _numbers(text: str) -> Sequence[float]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"threshold is {text!r}, it must be numbers with commas between them") from None
