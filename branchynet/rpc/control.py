"""The service `branchynet.v1.Control`: what whoever runs a node may ask of it, over gRPC; and how to ask."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import numpy as np
from numpy.typing import NDArray

from branchynet.errors import BranchyNetError, DeadlineExceeded, InvalidInput, Unavailable
from branchynet.probe import CodecTimes, NodeProfile, Prober, Spread
from branchynet.rpc import messages
from branchynet.rpc.channel import error_from_rpc, open_channel
from branchynet.settings import NodeSettings
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

__all__ = ["ControlService", "ask_profile"]

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
TIMEOUT_S = 300.0


class ControlService(pb_grpc.ControlServicer):
    """Lets callers have the profile of a node with *settings*, made by its *prober*."""

    def __init__(self, prober: Prober, settings: NodeSettings) -> None:
        self._prober = prober
        self._settings = settings

    def register(self, server: grpc.aio.Server) -> str:
        """Add this service to *server*; its full name."""
        pb_grpc.add_ControlServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        return pb.DESCRIPTOR.services_by_name["Control"].full_name

    async def Profile(
        self, request: pb.ProfileRequest, context: grpc.aio.ServicerContext[pb.ProfileRequest, pb.ProfileReply]
    ) -> pb.ProfileReply:
        """See `split_inference.proto`."""
        found = await self._prober.profile(
            messages.array_from_tensor(request.images, "images to profile on"),
            tuple(request.batches) or (1,),
            request.rounds,
            list(request.codecs),
            engine=str(self._settings.engine),
            threads=self._settings.threads,
        )
        return profile_to_reply(found)


async def ask_profile(
    target: str,
    images: NDArray[np.uint8],
    batches: Sequence[int],
    rounds: int,
    codecs: Sequence[str] = (),
    timeout_s: float = TIMEOUT_S,
) -> NodeProfile:
    """The profile of the node at *target* (`host:port`), timed there on *images*, uint8 [N, C, H, W].

    Raises what the node refuses, and `Unavailable`, with the address, if it is away, busy or without that service.
    """
    request = pb.ProfileRequest(
        images=messages.tensor_from_array(images), batches=batches, rounds=rounds, codecs=codecs
    )
    async with open_channel(target, MAX_MESSAGE_BYTES) as channel:
        control = pb_grpc.ControlStub(channel)  # type: ignore[no-untyped-call]
        try:
            reply = await control.Profile(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as failure:
            raise _named(target, failure) from None
    return profile_from_reply(reply)


def profile_to_reply(found: NodeProfile) -> pb.ProfileReply:
    """*found* as the reply that carries it."""
    first = found.stages[0]
    return pb.ProfileReply(
        model=found.model,
        content_hash=found.content_hash,
        first_stage=first,
        last_stage=found.stages[1],
        stages=[
            pb.StageTime(stage=stage, batch=batch, ms=_quartiles(spread))
            for stage, row in enumerate(found.stage_ms, first)
            for batch, spread in zip(found.batches, row, strict=True)
        ],
        codecs=[
            pb.CodecTime(
                cut=timed.cut,
                codec=timed.codec,
                encode_ms=_quartiles(timed.encode_ms),
                decode_ms=_quartiles(timed.decode_ms),
            )
            for timed in found.codecs
        ],
        engine=found.engine,
        threads=found.threads,
        cores=found.cores,
        rss_bytes=found.rss_bytes,
        peak_rss_bytes=found.peak_rss_bytes,
    )


def profile_from_reply(reply: pb.ProfileReply) -> NodeProfile:
    """The profile in *reply*; `InvalidInput` unless it has every stage of the node at the same batch sizes."""
    stages = (reply.first_stage, reply.last_stage)
    batches = tuple(time.batch for time in reply.stages if time.stage == stages[0])
    wanted = [(stage, batch) for stage in range(*stages) for batch in batches]
    if not wanted or [(time.stage, time.batch) for time in reply.stages] != wanted:
        raise InvalidInput(f"a profile came with {len(reply.stages)} times of stages {stages}, not one for each")
    times = [_spread(time.ms) for time in reply.stages]
    rows = [tuple(times[start : start + len(batches)]) for start in range(0, len(times), len(batches))]
    return NodeProfile(
        model=reply.model,
        content_hash=reply.content_hash,
        stages=stages,
        batches=batches,
        stage_ms=tuple(rows),
        codecs=tuple(
            CodecTimes(time.cut, time.codec, _spread(time.encode_ms), _spread(time.decode_ms)) for time in reply.codecs
        ),
        engine=reply.engine,
        threads=reply.threads,
        cores=reply.cores,
        rss_bytes=reply.rss_bytes,
        peak_rss_bytes=reply.peak_rss_bytes,
    )


def _quartiles(spread: Spread) -> pb.Quartiles:
    return pb.Quartiles(low=spread.low, median=spread.median, high=spread.high)


def _spread(quartiles: pb.Quartiles) -> Spread:
    spread = Spread(quartiles.low, quartiles.median, quartiles.high)
    if not 0 <= spread.low <= spread.median <= spread.high < float("inf"):
        raise InvalidInput(f"a profile came with quartiles {spread}; they must ascend from 0 or more")
    return spread


def _named(target: str, failure: grpc.aio.AioRpcError) -> BranchyNetError:
    """Our error for *failure*, with the node's address and, if it has no such service, what to do."""
    if failure.code() is grpc.StatusCode.UNIMPLEMENTED:
        return Unavailable(f"the node at {target} offers no profile; start it with --control")
    error = error_from_rpc(failure)
    return type(error)(f"{target}: {error}") if isinstance(error, DeadlineExceeded | Unavailable) else error
