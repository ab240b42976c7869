"""The way to a node's service `branchynet.v1.Control`, and what its refusals mean."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import grpc

from branchynet.errors import BranchyNetError, DeadlineExceeded, Unavailable
from branchynet.rpc.channel import error_from_rpc, open_channel
from protos import split_inference_pb2_grpc as pb_grpc

__all__ = ["NO_PLAN", "control_of"]

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
NO_PLAN = "has no plan: it is a cloud, which takes up each request where its edge left off"


@contextlib.asynccontextmanager
async def control_of(target: str) -> AsyncIterator[pb_grpc.ControlStub]:
    """The control service of the node at *target*; what its calls raise in the block is raised as our error."""
    async with open_channel(target, MAX_MESSAGE_BYTES) as channel:
        try:
            yield pb_grpc.ControlStub(channel)  # type: ignore[no-untyped-call]
        except grpc.aio.AioRpcError as failure:
            raise _named(target, failure) from None


def _named(target: str, failure: grpc.aio.AioRpcError) -> BranchyNetError:
    """Our error for *failure*, with the node's address and, if it has no such service, what to do."""
    if failure.code() is grpc.StatusCode.UNIMPLEMENTED:
        if failure.details() == NO_PLAN:
            return Unavailable(f"the node at {target} {NO_PLAN}")
        return Unavailable(f"the node at {target} takes no orders; start it with --control")
    error = error_from_rpc(failure)
    return type(error)(f"{target}: {error}") if isinstance(error, DeadlineExceeded | Unavailable) else error
