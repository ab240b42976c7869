"""Ask an edge node from Python: `Client` waits for its answers, `AsyncClient` awaits them.

Both take the same images and raise the same errors, those of `branchynet.errors`.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Self, TypedDict

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from typing_extensions import Unpack

from branchynet.client.connection import DESCRIBE_TIMEOUT_MS, AsyncConnection, Connection, checked_ms, parts
from branchynet.client.images import Batch, Image, Images
from branchynet.errors import DeadlineExceeded, InvalidInput
from branchynet.exits.rules import ExitRule
from branchynet.rpc import messages
from branchynet.rpc.channel import open_blocking_channel
from branchynet.rpc.message_limits import MAX_MESSAGE_BYTES
from branchynet.serving.prediction import Policy, Prediction, ServedModel
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

__all__ = ["AsyncClient", "Client", "Options"]

DEADLINE_MS = 10_000.0


class Options(TypedDict, total=False):
    """How images are to be classified; see `Client.classify`."""

    rule: ExitRule | None
    policy: Policy
    deadline_ms: float
    model: str
    accuracy_target: float | None


class _Work:
    """One `classify`: its images, what has been answered, and the time that is left."""

    def __init__(
        self,
        images: Images,
        rule: ExitRule | None,
        policy: Policy,
        deadline_ms: float,
        model: str,
        accuracy_target: float | None,
    ) -> None:
        self._until_s = time.monotonic() + checked_ms(deadline_ms, "deadline_ms") / 1e3
        self._deadline_ms = deadline_ms
        self._batch = Batch(images)
        self._common = pb.ClassifyRequest(
            model=model,
            rule=messages.rule_to_message(rule) if rule is not None else None,
            policy=messages.policy_to_message(policy),
            accuracy_target=accuracy_target,
        )
        self.has_files = self._batch.has_files
        # An edge takes one image, whoever it is; of more it has to say how many.
        self.needs_served = self.has_files or len(self._batch) > 1
        self.predictions: list[Prediction] = []

    def left_s(self) -> float:
        """Seconds until the deadline; `DeadlineExceeded` if there are none."""
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded(
                f"{len(self.predictions)} of {len(self._batch)} images were answered within {self._deadline_ms:g} ms"
            )
        return left_s

    def requests(self, served: ServedModel | None) -> list[pb.ClassifyRequest]:
        """The images in order, in as many requests as the node's batch asks for; one, if that is not known."""
        images = self._batch.to_array(served)
        return [self._request(part) for part in (parts(images, served.max_batch) if served else [images])]

    def _request(self, images: NDArray[np.uint8]) -> pb.ClassifyRequest:
        request = pb.ClassifyRequest(images=messages.tensor_from_array(images))
        request.MergeFrom(self._common)
        return request

    def take(self, request: pb.ClassifyRequest, reply: pb.ClassifyReply) -> None:
        """Keep the answers in *reply*; `InvalidInput` unless there is one for each image of *request*."""
        predictions = messages.predictions_from_reply(reply)
        if len(predictions) != request.images.shape[0]:
            raise InvalidInput(f"{len(predictions)} answers came for {request.images.shape[0]} images")
        self.predictions += predictions


class Client(Connection):
    """A connection to the edge node at *target* (`host:port`) for code without an event loop.

    Use it as `with Client("localhost:8001") as client:`, from as many threads as you like. Calls raise the errors of
    `branchynet.errors`; on a closed client they raise `Cancelled`.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._channel = open_blocking_channel(target, MAX_MESSAGE_BYTES)
        self._edge = pb_grpc.EdgeStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls still running in other threads raise `Cancelled`."""
        self._closed = True
        self._channel.close()

    def describe(self, *, timeout_ms: float = DESCRIBE_TIMEOUT_MS) -> ServedModel:
        """What the edge serves now; waits for the edge to start, and raises `Unavailable` after *timeout_ms*.

        Class names are its `labels`: `client.describe().labels[prediction.label]`.
        """
        with self.starting(timeout_ms) as timeout_s:
            return self._remember(self._call(self._edge.Describe, pb.DescribeRequest(), timeout_s, wait=True))

    def classify(
        self,
        images: Images,
        *,
        rule: ExitRule | None = None,
        policy: Policy = Policy.SPLIT,
        deadline_ms: float = DEADLINE_MS,
        model: str = "",
        accuracy_target: float | None = None,
    ) -> list[Prediction]:
        """One prediction for each of *images*, in their order.

        *images*: one uint8 array [B, C, H, W], or a sequence of images in any mixture: uint8 arrays [C, H, W] or
        [H, W] (grey), PIL images, paths of image files. Arrays are sent as they are; image files are turned upright,
        made grey or RGB and resized as the artifact's preprocessing says. A batch larger than the edge takes goes in
        several requests. What the edge serves and takes is asked by the first call with an image file or more than one
        image, and anew after answers of another version of the model.
        *rule* and *policy* replace the node's own for this request; *model* must be what it serves, if given.
        *accuracy_target*, in place of a rule: the cheapest thresholds with at least this accuracy (0..1) on the
        artifact's calibration split, which is an estimate and no guarantee.
        All answers come within *deadline_ms*, those that the cloud would give too late from the edge.

        Raises `InvalidInput` for images, rule, target or deadline that cannot be right, `TooLarge` for an image that no
        message holds, `UnknownModel`, `DeadlineExceeded` when not all answers came in time, `Unavailable` when there is
        no edge.
        """
        work = _Work(images, rule, policy, deadline_ms, model, accuracy_target)
        served = self._served
        if served is None and work.needs_served:
            served = self._remember(self._call(self._edge.Describe, pb.DescribeRequest(), work.left_s()))
        for request in work.requests(served):
            reply = self._call(self._edge.Classify, request, work.left_s())
            self._note_version(reply.content_hash)
            work.take(request, reply)
        return work.predictions

    def classify_one(self, image: Image, **options: Unpack[Options]) -> Prediction:
        """The prediction for one image: an array [C, H, W] or [H, W], a PIL image, a path; the rest as `classify`."""
        return self.classify([image], **options)[0]

    def _call(self, method: Any, request: Message, timeout_s: float, *, wait: bool = False) -> Any:
        with self.our_errors():
            return method(request, timeout=timeout_s, wait_for_ready=wait)


class AsyncClient(AsyncConnection):
    """A connection to the edge node at *target* (`host:port`) for code in an event loop.

    Use it as `async with AsyncClient("localhost:8001") as client:`. It may be made outside of an event loop, and is
    used in one. Calls raise the errors of `branchynet.errors`; on a closed client they raise `Cancelled`, and in
    another event loop than that of the first call `InvalidInput`.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target, pb_grpc.EdgeStub)

    async def describe(self, *, timeout_ms: float = DESCRIBE_TIMEOUT_MS) -> ServedModel:
        """See `Client.describe`."""
        with self.starting(timeout_ms) as timeout_s:
            return self._remember(await self._call(self._node.Describe, pb.DescribeRequest(), timeout_s, wait=True))

    async def classify(
        self,
        images: Images,
        *,
        rule: ExitRule | None = None,
        policy: Policy = Policy.SPLIT,
        deadline_ms: float = DEADLINE_MS,
        model: str = "",
        accuracy_target: float | None = None,
    ) -> list[Prediction]:
        """See `Client.classify`. Image files are read on a thread, so that the event loop goes on."""
        work = _Work(images, rule, policy, deadline_ms, model, accuracy_target)
        served = self._served
        if served is None and work.needs_served:
            served = self._remember(await self._call(self._node.Describe, pb.DescribeRequest(), work.left_s()))
        requests = await asyncio.to_thread(work.requests, served) if work.has_files else work.requests(served)
        for request in requests:
            reply = await self._call(self._node.Classify, request, work.left_s())
            self._note_version(reply.content_hash)
            work.take(request, reply)
        return work.predictions

    async def classify_one(self, image: Image, **options: Unpack[Options]) -> Prediction:
        """See `Client.classify_one`."""
        return (await self.classify([image], **options))[0]
