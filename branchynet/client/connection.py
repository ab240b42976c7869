"""What the clients of nodes have in common: our errors for gRPC's, and what the node serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from branchynet.errors import (
    ArtifactMismatch,
    BranchyNetError,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    TooLarge,
    Unavailable,
)
from branchynet.rpc import messages
from branchynet.rpc.channel import error_from_rpc, open_channel
from branchynet.rpc.message_limits import MAX_MESSAGE_BYTES, MESSAGE_OVERHEAD_BYTES
from branchynet.serving.address import Address
from branchynet.serving.prediction import ServedModel
from protos import split_inference_pb2 as pb

__all__ = ["DESCRIBE_TIMEOUT_MS", "AsyncConnection", "Connection", "checked_ms", "parts"]

MAX_WAIT_MS = 86_400_000.0
DESCRIBE_TIMEOUT_MS = 5_000.0


class Connection:
    """What every client knows of its node, and how calls fail. Raises `InvalidInput` for a *target* that is none."""

    def __init__(self, target: str) -> None:
        self._target = str(Address.parse(target))
        self._served: ServedModel | None = None
        self._closed = False

    def _remember(self, reply: pb.DescribeReply) -> ServedModel:
        self._served = messages.served_from_reply(reply)
        return self._served

    def _note_version(self, content_hash: str) -> None:
        """An answer is of the version with *content_hash*; if another one was described, the next call asks anew."""
        if self._served is not None and content_hash != self._served.content_hash:
            self._served = None

    @contextlib.contextmanager
    def our_errors(self) -> Iterator[None]:
        """Around one call: raises ours for gRPC's errors, and `Cancelled` on a closed client."""
        closed = self._closed_error()
        if self._closed:
            raise closed
        try:
            yield
        except asyncio.CancelledError:
            # Closing an aio channel ends its calls as if their tasks had been cancelled.
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            raise closed from None
        except grpc.RpcError as failure:
            error = error_from_rpc(failure)
            if isinstance(error, InvalidInput | TooLarge | ArtifactMismatch):
                self._served = None  # it may describe a version of before: the next call asks anew
            raise closed if self._closed else self._named(error) from None
        except (grpc.aio.UsageError, ValueError):
            # How the two kinds of channel refuse a call that comes just after they were closed.
            if not self._closed:
                raise
            raise closed from None

    def _closed_error(self) -> Cancelled:
        return Cancelled(f"the client of {self._target} is closed")

    def _named(self, error: BranchyNetError) -> BranchyNetError:
        """*error*, with the node's address if it is about the way there."""
        return type(error)(f"{self._target}: {error}") if isinstance(error, DeadlineExceeded | Unavailable) else error

    @contextlib.contextmanager
    def starting(self, timeout_ms: float) -> Iterator[float]:
        """Around a call that waits for the node to start; gives its timeout in seconds."""
        try:
            yield checked_ms(timeout_ms, "timeout_ms") / 1e3
        except DeadlineExceeded:
            raise Unavailable(f"no node answers at {self._target} within {timeout_ms / 1e3:g} s") from None


class AsyncConnection(Connection):
    """A `Connection` for code in an event loop; use it as `async with`.

    It is opened by the first call, in whose event loop it stays: it may be made anywhere, and used in one
    `asyncio.run`. *stub* makes the methods that are called of a channel.
    """

    def __init__(self, target: str, stub: Callable[[Any], Any]) -> None:
        super().__init__(target)
        self._make_stub = stub
        self._opened: tuple[asyncio.AbstractEventLoop, grpc.aio.Channel, Any] | None = None

    async def __aenter__(self) -> Self:
        self._check_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls still running raise `Cancelled`.

        Raises `InvalidInput` in another event loop than that of the calls, if that still runs.
        """
        if not self._closed and self._opened is not None and not self._opened[0].is_closed():
            self._check_loop()
            self._closed = True
            await self._opened[1].close()
        self._closed = True

    @property
    def _node(self) -> Any:
        """The node's methods. Raises `InvalidInput` in another event loop than that of the first call."""
        if self._closed:
            raise self._closed_error()
        self._check_loop()
        if self._opened is None:
            channel = open_channel(self._target, MAX_MESSAGE_BYTES)
            self._opened = (asyncio.get_running_loop(), channel, self._make_stub(channel))
        return self._opened[2]

    def _check_loop(self) -> None:
        if not self._closed and self._opened is not None and self._opened[0] is not asyncio.get_running_loop():
            raise InvalidInput(
                f"the client of {self._target} belongs to another event loop, that of its first call; make one in each "
                "asyncio.run, or use `Client`, which needs none"
            )

    async def _call(self, method: Any, request: Message, timeout_s: float, *, wait: bool = False) -> Any:
        with self.our_errors():
            return await method(request, timeout=timeout_s, wait_for_ready=wait)


def parts(images: NDArray[np.uint8], max_batch: int) -> list[NDArray[np.uint8]]:
    """*images*, uint8 [B, …], in order and as few parts as *max_batch* images and what a message holds allow."""
    fitting = (MAX_MESSAGE_BYTES - MESSAGE_OVERHEAD_BYTES) // max(images[:1].nbytes, 1)
    most = max(min(max_batch, fitting), 1)
    return [images[start : start + most] for start in range(0, len(images), most)]


def checked_ms(value: float, what: str) -> float:
    """*value*, a wait in milliseconds; `InvalidInput`, naming *what*, unless it is above 0 and at most a day."""
    # gRPC takes a wait of centuries for one that is over.
    if not 0 < value <= MAX_WAIT_MS:
        raise InvalidInput(f"{what} is {value}, it must be above 0 and at most {MAX_WAIT_MS:.0f}, a day")
    return value
