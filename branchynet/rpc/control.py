"""The service `branchynet.v1.Control`: what whoever runs a node may ask of it, over gRPC; and how to ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.placement.plan import Plan
from branchynet.rpc import messages
from branchynet.rpc.control_channel import NO_PLAN, control_of
from branchynet.rpc.deployment import Deployment
from branchynet.rpc.versions import versions_to_reply
from branchynet.serving.prediction import ServedModel
from branchynet.serving.settings import NodeSettings
from branchynet.serving.stage_timer import CodecTimes, NodeProfile, Prober, Spread
from branchynet.serving.validation import check_hash
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

__all__ = ["ControlService", "Planned", "ask_profile", "get_plan", "set_plan"]

TIMEOUT_S = 300.0
PLAN_TIMEOUT_S = 5.0


class Planned(Protocol):
    """A node that serves by a plan: an edge."""

    @property
    def served(self) -> ServedModel:
        """What it serves."""
        ...

    @property
    def plan(self) -> Plan:
        """Where the work of the next request is done."""
        ...

    def set_plan(self, plan: Plan) -> None:
        """Serve the requests that come from now on by *plan*; `InvalidInput`, and no change, if it cannot."""
        ...


class ControlService(pb_grpc.ControlServicer):
    """Lets callers order a node with *settings* about: profiles of its *prober*, plans if it has any, versions.

    *prober* gives that of the version that is served. *deployment* is None for a node that stays with one version.
    """

    # A service of its own, so that a node may leave it out, but on the node's port: a second one would take more
    # firewall rules, for callers who reach the first anyway.

    def __init__(
        self,
        prober: Callable[[], Prober],
        settings: NodeSettings,
        planned: Planned | None = None,
        deployment: Deployment[Any] | None = None,
    ) -> None:
        self._prober = prober
        self._settings = settings
        self._planned = planned
        self._deployment = deployment

    def register(self, server: grpc.aio.Server) -> str:
        """Add this service to *server*; its full name."""
        pb_grpc.add_ControlServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        return pb.DESCRIPTOR.services_by_name["Control"].full_name

    async def Profile(
        self, request: pb.ProfileRequest, context: grpc.aio.ServicerContext[pb.ProfileRequest, pb.ProfileReply]
    ) -> pb.ProfileReply:
        """See `split_inference.proto`."""
        found = await self._prober().profile(
            messages.array_from_tensor(request.images, "images to profile on"),
            tuple(request.batches) or (1,),
            request.rounds,
            list(request.codecs),
            threads=self._settings.threads,
        )
        return profile_to_reply(found)

    async def SetPlan(
        self, request: pb.SetPlanRequest, context: grpc.aio.ServicerContext[pb.SetPlanRequest, pb.PlanReply]
    ) -> pb.PlanReply:
        """See `split_inference.proto`."""
        if self._planned is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_PLAN)
        if request.content_hash:
            check_hash(request.content_hash, self._planned.served.content_hash)
        self._planned.set_plan(messages.plan_from_message(request.plan, self._planned.plan.rule))
        return self._plan_reply(self._planned)

    async def GetPlan(
        self, request: pb.GetPlanRequest, context: grpc.aio.ServicerContext[pb.GetPlanRequest, pb.PlanReply]
    ) -> pb.PlanReply:
        """See `split_inference.proto`."""
        if self._planned is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_PLAN)
        return self._plan_reply(self._planned)

    async def LoadVersion(
        self, request: pb.LoadVersionRequest, context: grpc.aio.ServicerContext[pb.LoadVersionRequest, pb.VersionsReply]
    ) -> pb.VersionsReply:
        """See `split_inference.proto`; so for the next two."""
        version = await self._deployed.load(request.artifact, force=request.force)
        return versions_to_reply(self._deployed.versions, version.id)

    async def SwitchVersion(
        self,
        request: pb.SwitchVersionRequest,
        context: grpc.aio.ServicerContext[pb.SwitchVersionRequest, pb.VersionsReply],
    ) -> pb.VersionsReply:
        """Raises `UnknownModel` for a version that is not held."""
        self._deployed.versions.switch(request.id)
        return versions_to_reply(self._deployed.versions, request.id)

    async def RetireVersion(
        self,
        request: pb.RetireVersionRequest,
        context: grpc.aio.ServicerContext[pb.RetireVersionRequest, pb.VersionsReply],
    ) -> pb.VersionsReply:
        """Raises `Unavailable` while requests need it, `InvalidInput` for the version that is served."""
        self._deployed.versions.retire(request.id, request.unused_s)
        return versions_to_reply(self._deployed.versions, request.id)

    @property
    def _deployed(self) -> Deployment[Any]:
        if self._deployment is None:
            raise InvalidInput("this node stays with the version that it was opened with")
        return self._deployment

    def _plan_reply(self, planned: Planned) -> pb.PlanReply:
        served = planned.served
        return pb.PlanReply(
            model=served.model, content_hash=served.content_hash, plan=messages.plan_to_message(planned.plan)
        )


async def get_plan(target: str, timeout_s: float = PLAN_TIMEOUT_S) -> Plan:
    """The plan that the edge at *target* (`host:port`) serves the next request by.

    Raises `Unavailable`, with the address, if it is away, was started without --control, or is no edge.
    """
    async with control_of(target) as control:
        reply = await control.GetPlan(pb.GetPlanRequest(), timeout=timeout_s)
    return messages.plan_from_message(reply.plan)


async def set_plan(target: str, plan: Plan, content_hash: str = "", timeout_s: float = PLAN_TIMEOUT_S) -> None:
    """Have the edge at *target* (`host:port`) serve the requests that come from now on by *plan*.

    *content_hash*: of the artifact that the plan is for. Raises `InvalidInput` for a plan that the edge cannot carry
    out, `ArtifactMismatch` if it has another artifact, and as `get_plan` does.
    """
    request = pb.SetPlanRequest(plan=messages.plan_to_message(plan), content_hash=content_hash)
    async with control_of(target) as control:
        await control.SetPlan(request, timeout=timeout_s)


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
    async with control_of(target) as control:
        reply = await control.Profile(request, timeout=timeout_s)
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
