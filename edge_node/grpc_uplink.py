"""The way to the cloud over gRPC: one channel, one call for what is left of a batch."""

from __future__ import annotations

import copy
import time

import grpc
import numpy as np

from branchynet.codecs.payload import Sendable
from branchynet.errors import BranchyNetError, InvalidInput, Unavailable
from branchynet.exits.rules import ExitRule, History
from branchynet.rpc import messages
from branchynet.rpc.channel import error_from_rpc, open_channel
from branchynet.rpc.messages import resume_request
from branchynet.serving.logging import Event, logger
from edge_node.uplink import CloudAnswers, OffloadFailed
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

__all__ = ["GrpcUplink"]


class GrpcUplink:
    """Calls the cloud node at *target* (`host:port`) for the artifact with *content_hash*."""

    def __init__(self, target: str, content_hash: str, max_message_bytes: int) -> None:
        self._channel = open_channel(target, max_message_bytes)
        self._cloud = pb_grpc.CloudStub(self._channel)  # type: ignore[no-untyped-call]
        self._content_hash = content_hash
        self._log = logger(cloud=target)
        self._answering = True

    def for_artifact(self, content_hash: str) -> GrpcUplink:
        """The same way, over the same connection, for another version of the network; closing either closes both."""
        other = copy.copy(self)
        other._content_hash = content_hash
        return other

    async def resume(
        self, cut: int, sent: Sendable, rule: ExitRule | None, timeout_ms: float, history: History | None = None
    ) -> CloudAnswers:
        """See `edge_node.uplink.Uplink`. Fails at once while the cloud is known to be away."""
        request = resume_request(self._content_hash, cut, sent, rule, history)
        size, started_s = request.ByteSize(), time.perf_counter()
        try:
            reply = await self._cloud.Resume(request, timeout=timeout_ms / 1e3)
            answers = _answers(reply, size, 1e3 * (time.perf_counter() - started_s))
        except grpc.aio.AioRpcError as failure:
            raise self._failed(error_from_rpc(failure), size) from None
        except InvalidInput as error:
            raise self._failed(error, size) from None
        self._note(None)
        return answers

    async def close(self) -> None:
        """Close the channel; calls still running are cancelled."""
        await self._channel.close()

    def _failed(self, error: BranchyNetError, size: int) -> OffloadFailed:
        """*error* with the bytes it cost: none if there was no connection to write them to."""
        self._note(error)
        return OffloadFailed(error, 0 if isinstance(error, Unavailable) else size)

    def _note(self, error: BranchyNetError | None) -> None:
        """Log changes between answering and not, not every request."""
        if error is None and not self._answering:
            self._log.info(Event.CLOUD_BACK)
        if error is not None and self._answering:
            self._log.warning(Event.CLOUD_LOST, status=error.grpc_status, details=str(error))
        self._answering = error is None


def _answers(reply: pb.ResumeReply, sent_bytes: int, round_trip_ms: float) -> CloudAnswers:
    """The answers in *reply*; `InvalidInput` if its tensor does not add up."""
    logits = messages.array_from_tensor(reply.logits, "the cloud's logits")
    if logits.dtype != np.float32:
        raise InvalidInput(f"the cloud's logits are {logits.dtype}, they must be float32")
    return CloudAnswers(
        exits=np.array(reply.exits, dtype=np.int64),
        logits=logits.astype(np.float32),
        cloud_ms=reply.queue_ms + reply.compute_ms,
        round_trip_ms=round_trip_ms,
        sent_bytes=sent_bytes,
        queue_ms=reply.queue_ms,
    )
