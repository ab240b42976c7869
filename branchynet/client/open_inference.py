"""Ask a node, edge or cloud, over the Open Inference Protocol, as clients of other projects do."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from branchynet.client.connection import DESCRIBE_TIMEOUT_MS, AsyncConnection, checked_ms, parts
from branchynet.errors import InvalidInput
from branchynet.exits.rules import ExitRule
from branchynet.rpc.open_inference import tensors
from branchynet.rpc.open_inference.service import WIRE_NAME
from branchynet.rpc.open_inference.values import Answers, Parameter
from branchynet.serving.prediction import Place, Policy, Prediction
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc

__all__ = ["OpenInferenceClient", "OpenInferenceModel"]


@dataclass(frozen=True, slots=True)
class OpenInferenceModel:
    """What a node reports of itself: its *server* name, and of its model the name, hash, limits and class names.

    *input_shape*: channels, height, width of one image; empty if it takes no images.
    """

    server: str
    model: str
    content_hash: str
    input_shape: tuple[int, ...]
    labels: tuple[str, ...]
    max_batch: int


class OpenInferenceClient(AsyncConnection):
    """A connection to the node at *target* (`host:port`), with the calls of `AsyncClient`."""

    def __init__(self, target: str) -> None:
        super().__init__(target, _stub)
        self._model: OpenInferenceModel | None = None

    async def describe(self, *, timeout_ms: float = DESCRIBE_TIMEOUT_MS) -> OpenInferenceModel:
        """What the node serves; waits for it to start, and raises `Unavailable` after *timeout_ms*."""
        with self.starting(timeout_ms) as timeout_s:
            return await self._ask(timeout_s, wait=True)

    async def _ask(self, timeout_s: float, *, wait: bool = False) -> OpenInferenceModel:
        server = await self._call(self._node.ServerMetadata, pb.ServerMetadataRequest(), timeout_s, wait=wait)
        config = (await self._call(self._node.ModelConfig, pb.ModelConfigRequest(), timeout_s)).config
        settings = {name: parameter.string_value for name, parameter in config.parameters.items()}
        self._model = OpenInferenceModel(
            server=server.name,
            model=config.name,
            content_hash=settings.get("content_hash", ""),
            input_shape=next((tuple(given.dims) for given in config.input if given.name == "image"), ()),
            labels=tuple(json.loads(settings.get("labels", "[]"))),
            max_batch=config.max_batch_size,
        )
        return self._model

    async def classify(
        self,
        images: NDArray[np.uint8],
        *,
        rule: ExitRule | None = None,
        policy: Policy = Policy.SPLIT,
        deadline_ms: float = 10_000,
    ) -> list[Prediction]:
        """One prediction for each of *images*, uint8 [B, C, H, W]. Raises what the node refuses.

        More than the node takes go in several requests, all answered within *deadline_ms*; it is asked for its limit by
        the first call with more than one image. Times are those of a whole request, and its bytes are shared out
        evenly: the protocol has no more.
        """
        until_s = time.monotonic() + checked_ms(deadline_ms, "deadline_ms") / 1e3
        parameters: dict[str, Parameter] = {}
        if policy is not Policy.SPLIT:  # a cloud knows no policy
            parameters["policy"] = policy.value
        if rule is not None:
            parameters["criterion"] = rule.criterion.value
            parameters["threshold"] = ",".join(map(str, rule.thresholds))
        model = self._model
        if model is None and len(images) > 1:
            model = await self._ask(deadline_ms / 1e3)
        predictions: list[Prediction] = []
        for part in parts(images, model.max_batch) if model else [images]:
            request = tensors.request_from_images("", part, parameters)
            response = await self._call(self._node.ModelInfer, request, max(until_s - time.monotonic(), 1e-3))
            predictions += _predictions(tensors.answers_from_response(response, len(part)))
        return predictions


def _stub(channel: grpc.aio.Channel) -> Any:
    return pb_grpc.GRPCInferenceServiceStub(_UnderWireName(channel))  # type: ignore[no-untyped-call]


class _UnderWireName:
    """*channel* for a stub whose methods go by the name that every server of the protocol has."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def unary_unary(self, method: str, **options: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._channel.unary_unary(_wire(method), **options)

    def stream_stream(self, method: str, **options: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._channel.stream_stream(_wire(method), **options)


def _wire(method: str) -> str:
    return f"/{WIRE_NAME}/{method.rpartition('/')[2]}"


def _predictions(answers: Answers) -> list[Prediction]:
    """One a row of *answers*; raises `InvalidInput` for a place or parameter that makes no sense."""
    count, given = len(answers.labels), answers.parameters
    try:
        places = [Place(place) for place in answers.places.tolist()]
        edge_ms, network_ms, cloud_ms = (float(given.get(name, 0)) for name in ("edge_ms", "network_ms", "cloud_ms"))
        sent_bytes = int(given.get("uplink_bytes", 0))
    except ValueError as error:
        raise InvalidInput(f"the response does not make sense: {error}") from None
    offloaded = max(sum(place is not Place.EDGE for place in places), 1)
    reason = str(given.get("fallback_reason", ""))
    return [
        Prediction(
            label=int(answers.labels[row]),
            probabilities=answers.probabilities[row],
            exit=int(answers.exits[row]),
            place=place,
            edge_ms=edge_ms,
            network_ms=0.0 if place is Place.EDGE else network_ms,
            cloud_ms=cloud_ms if place is Place.CLOUD else 0.0,
            uplink_bytes=0 if place is Place.EDGE else sent_bytes // offloaded,
            fallback_reason=reason if place is Place.FALLBACK else "",
        )
        for row, place in zip(range(count), places, strict=True)
    ]
