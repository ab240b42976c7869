"""The life of a node's gRPC server: limits, health, reflection, readiness, and a stop in two steps.

On SIGTERM, SIGINT or (if asked) the end of standard input the node first reports NOT_SERVING, so that balancers turn
away, then refuses new requests and gives the running ones their grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from branchynet.rpc.statuses import report
from branchynet.serving.listening import cannot_listen, free_addresses
from branchynet.serving.logging import Event, logger
from branchynet.serving.settings import NodeSettings

__all__ = ["running_server", "serve_until_stopped"]

STANDARD_INPUT = 0
# How long a node reports NOT_SERVING before it refuses, so that whoever watches its health stops sending in time.
FAREWELL_S = 0.1

AddService = Callable[[grpc.aio.Server], str]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]]


class ErrorsAsStatuses(grpc.aio.ServerInterceptor):
    """Turns our errors into their gRPC status with the message as details; anything else is INTERNAL and logged."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap unary handlers; others (reflection, health watch) are passed through."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method, behaviour = handler_call_details.method, handler.unary_unary

        async def answer(request: Any, context: Any) -> Any:
            try:
                return await behaviour(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                status, details = report(error, method)
                await context.abort(grpc.StatusCode[status], details)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class DrainingHealth(health_aio.HealthServicer):  # type: ignore[misc]
    """The health service, whose watchers are sent home when the node drains.

    They never hang up by themselves, and a server's stop would wait out its whole grace for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._drained = asyncio.Event()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 (the name in the proto)
        """Report changes until the client hangs up or the node has drained."""
        ends = [asyncio.create_task(super().Watch(request, context)), asyncio.create_task(self._drained.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def drain(self) -> None:
        """Say NOT_SERVING, give watchers a moment to hear it, and end their streams."""
        await self.enter_graceful_shutdown()
        await asyncio.sleep(FAREWELL_S)
        self._drained.set()


@contextlib.asynccontextmanager
async def running_server(
    add_services: Sequence[AddService], settings: NodeSettings, max_message_bytes: int, aliases: Sequence[str] = ()
) -> AsyncIterator[int]:
    """A serving server with health and reflection; yields its port, and drains when the block ends.

    Each of *add_services* registers one service and returns its full name. *aliases* are further names that these
    services answer to: health knows them, reflection has no descriptor for them. Raises `OSError`, with the address and
    who has it, if the port is taken on an address of the host.
    """
    server = grpc.aio.server(
        interceptors=[ErrorsAsStatuses()],
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
            # Two nodes on one port would share the requests by chance; fail instead.
            ("grpc.so_reuseport", 0),
        ],
    )
    health = DrainingHealth()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = [add(server) for add in add_services]
    reflection.enable_server_reflection(
        [*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME], server
    )
    port = await _listen(server, settings)
    await server.start()
    for name in ["", *names, *aliases]:
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield port
    finally:
        await health.drain()
        await server.stop(settings.grace_s)


async def _listen(server: grpc.aio.Server, settings: NodeSettings) -> int:
    """Have *server* listen on all addresses of its host; the port."""
    port = settings.port
    # One by one: of a host with several addresses, gRPC is content with any.
    for address in await free_addresses(settings.host, port):
        try:
            port = server.add_insecure_port(str(address))
        except RuntimeError:  # taken since; the message has the address and no reason
            await server.start()  # before it has started, a stop lets go of nothing
            await server.stop(None)
            raise cannot_listen(address, OSError(errno.EADDRINUSE, "")) from None
    return port


async def serve_until_stopped(
    add_services: Sequence[AddService], settings: NodeSettings, max_message_bytes: int, aliases: Sequence[str] = ()
) -> None:
    """Serve, print one JSON line `{"event": "ready", "port": …}` on standard output, and drain on a signal to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.exit_with_parent:
        _stop_at_end_of_input(loop, stop)
    log = logger(role=settings.role)
    async with running_server(add_services, settings, max_message_bytes, aliases) as port:
        print(json.dumps({"event": "ready", "port": port}), flush=True)
        log.info(Event.READY, host=settings.host, port=port)
        await stop.wait()
        log.info(Event.DRAINING, grace_s=settings.grace_s)
    log.info(Event.STOPPED)


def _stop_at_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The kernel closes a dead parent's pipes, so end of input comes however the parent died."""

    def wait() -> None:
        # Not through sys.stdin: its lock, held by a waiting daemon thread, aborts the interpreter's exit.
        with contextlib.suppress(OSError):
            while os.read(STANDARD_INPUT, 4096):
                pass
        with contextlib.suppress(RuntimeError):  # the loop may have ended by itself
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()
