"""Ask a cloud node directly, without an edge: images go through its whole network."""

from __future__ import annotations

import contextlib
import time

import numpy as np
from numpy.typing import NDArray

from branchynet.client.connection import DESCRIBE_TIMEOUT_MS, AsyncConnection, checked_ms, parts
from branchynet.errors import ArtifactMismatch, InvalidInput
from branchynet.exits.rules import ExitRule
from branchynet.rpc import messages
from branchynet.serving.prediction import Place, Policy, Prediction, ServedModel
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

__all__ = ["AsyncCloudClient"]


class AsyncCloudClient(AsyncConnection):
    """A connection to the cloud node at *target* (`host:port`), with the calls of `AsyncClient`."""

    def __init__(self, target: str) -> None:
        super().__init__(target, pb_grpc.CloudStub)

    async def describe(self, *, timeout_ms: float = DESCRIBE_TIMEOUT_MS) -> ServedModel:
        """See `Client.describe`."""
        with self.starting(timeout_ms) as timeout_s:
            return self._remember(await self._call(self._node.Describe, pb.DescribeRequest(), timeout_s, wait=True))

    async def classify(
        self,
        images: NDArray[np.uint8],
        *,
        rule: ExitRule | None = None,
        policy: Policy = Policy.CLOUD_ONLY,
        deadline_ms: float = 10_000,
    ) -> list[Prediction]:
        """One prediction for each of *images*, uint8 [B, C, H, W]; asks the node first what it serves.

        A batch larger than it takes goes in several requests, all answered within *deadline_ms*.

        Raises `InvalidInput` for the policy edge-only, and what the node refuses.
        """
        if policy is Policy.EDGE_ONLY:
            raise InvalidInput(f"policy is {policy.value}; {self._target} is a cloud node")
        until_s = time.monotonic() + checked_ms(deadline_ms, "deadline_ms") / 1e3
        if self._served is not None:
            with contextlib.suppress(ArtifactMismatch):  # another version has been deployed since it was described
                return await self._resume(self._served, images, rule, until_s)
        return await self._resume(await self.describe(timeout_ms=deadline_ms), images, rule, until_s)

    async def _resume(
        self, served: ServedModel, images: NDArray[np.uint8], rule: ExitRule | None, until_s: float
    ) -> list[Prediction]:
        """One prediction for each of *images* by the version that is *served*."""
        predictions: list[Prediction] = []
        for part in parts(images, served.max_batch):
            request = messages.resume_request(served.content_hash, 0, part, rule)
            sent_s = time.monotonic()
            reply = await self._call(self._node.Resume, request, max(until_s - sent_s, 1e-3))
            taken_ms = 1e3 * (time.monotonic() - sent_s)
            predictions += _predictions(reply, rule or served.rule, len(part), request.ByteSize(), taken_ms)
        return predictions


def _predictions(
    reply: pb.ResumeReply, rule: ExitRule, count: int, sent_bytes: int, taken_ms: float
) -> list[Prediction]:
    """The answers in *reply* to *count* images; `InvalidInput` unless there is one for each."""
    exits = np.array(reply.exits, np.int64)
    logits = messages.array_from_tensor(reply.logits, "logits").astype(np.float32)
    if not len(exits) == len(logits) == count:
        raise InvalidInput(f"{len(exits)} exits and {len(logits)} rows of logits came for {count} images")
    cloud_ms = reply.queue_ms + reply.compute_ms
    return [
        Prediction(
            label=int(row.argmax()),
            probabilities=row,
            exit=int(number),
            place=Place.CLOUD,
            edge_ms=0.0,
            network_ms=max(taken_ms - cloud_ms, 0.0),
            cloud_ms=cloud_ms,
            uplink_bytes=sent_bytes // count,
        )
        for number, row in zip(exits, rule.probabilities(exits, logits), strict=True)
    ]
