"""Ask an edge node from Python."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import grpc
import numpy as np
from numpy.typing import NDArray

from branchynet.decisions.exits import ExitRule
from branchynet.errors import Unavailable
from branchynet.prediction import Policy, Prediction, ServedModel
from branchynet.rpc import messages
from branchynet.rpc.channel import error_from_rpc, open_channel
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

__all__ = ["AsyncClient"]

MAX_MESSAGE_BYTES = 256 * 1024 * 1024


class AsyncClient:
    """A connection to the edge node at *target* (`host:port`).

    Use it as `async with AsyncClient("localhost:8001") as client:`. Calls raise the errors of `branchynet.errors`.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._channel = open_channel(target, MAX_MESSAGE_BYTES)
        self._edge = pb_grpc.EdgeStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls still running are cancelled."""
        await self._channel.close()

    async def describe(self, *, timeout_ms: float = 5_000) -> ServedModel:
        """What the edge serves; waits for the edge to start, and raises `Unavailable` after *timeout_ms*."""
        try:
            reply = await self._edge.Describe(pb.DescribeRequest(), timeout=timeout_ms / 1e3, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Unavailable(f"no edge answers at {self._target} within {timeout_ms / 1e3:g} s") from None
            raise error_from_rpc(error) from None
        return messages.served_from_reply(reply)

    async def classify(
        self,
        images: NDArray[np.uint8],
        *,
        rule: ExitRule | None = None,
        policy: Policy = Policy.SPLIT,
        deadline_ms: float = 10_000,
        model: str = "",
    ) -> list[Prediction]:
        """One prediction for each of *images*, uint8 [B, C, H, W], in their order.

        *rule* and *policy* replace the node's own for this request; the answers come within *deadline_ms*, those that
        the cloud would give too late from the edge. Raises what the node refuses, for instance `InvalidInput`.
        """
        request = pb.ClassifyRequest(
            model=model,
            images=messages.tensor_from_array(images),
            rule=messages.rule_to_message(rule) if rule is not None else None,
            policy=messages.policy_to_message(policy),
        )
        try:
            reply = await self._edge.Classify(request, timeout=deadline_ms / 1e3)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None
        return messages.predictions_from_reply(reply)
