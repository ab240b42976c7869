"""The life of a batch at the edge. Knows no protobuf and no gRPC: the cloud is whatever keeps the `Uplink` promise.

1. Run the edge's stages; after each exit the confident samples leave.
2. Encode whoever is left and send them to the cloud, in one message, with the time that is left.
3. Join the answers in the order of the images. Where the cloud did not answer, the edge's deepest exit does.

All of it by the one `EdgeVersion` that was served when the batch came.
"""

from __future__ import annotations

import asyncio
import math

import numpy as np
from numpy.typing import NDArray

from branchynet.codecs import Codec
from branchynet.codecs.payload import Sendable
from branchynet.errors import BranchyNetError
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Array, Progress
from branchynet.placement.plan import Plan, plain_codec
from branchynet.placement.replanner import Replanner
from branchynet.rpc.deployment import Deployment
from branchynet.serving.prediction import Policy, Prediction, ServedModel
from branchynet.serving.stage_timer import Prober
from branchynet.serving.versions import Versions
from branchynet.serving.worker import Timed, Worker
from edge_node.answers import edge_answers, fall_back, join
from edge_node.drift_watcher import Watcher
from edge_node.version import EdgeVersion, RequestPlan

__all__ = ["EdgeNode"]


class EdgeNode:
    """The *version* of a network that is served, and those to come, on one compute thread.

    Computing takes *slowdown* times as long as it takes this machine. What is said of the node's plan, watcher and
    replanner is said of the version that is served.
    """

    def __init__(self, version: EdgeVersion, slowdown: float = 1.0) -> None:
        self.versions = Versions(version)
        # How others are loaded; None: they are not. Set by who opened this one, and knows where artifacts lie.
        self.deployment: Deployment[EdgeVersion] | None = None
        self._worker = Worker("edge-compute", slowdown)
        self._probes: set[asyncio.Task[None]] = set()

    @property
    def served(self) -> ServedModel:
        """What the next request is served by."""
        return self.versions.current.served

    @property
    def plan(self) -> Plan:
        """Where the work of the next request is done."""
        return self.versions.current.plan

    def adopt(self, plan: Plan) -> None:
        """See `EdgeVersion.adopt`; so for the next three."""
        self.versions.current.adopt(plan)

    def set_plan(self, plan: Plan) -> None:
        """See `EdgeVersion`."""
        self.versions.current.set_plan(plan)

    def watch(self, watcher: Watcher) -> None:
        """See `EdgeVersion`."""
        self.versions.current.watch(watcher)

    def follow(self, replanner: Replanner) -> None:
        """See `EdgeVersion`."""
        self.versions.current.follow(replanner)

    async def classify(
        self,
        images: NDArray[np.generic],
        *,
        rule: ExitRule | None = None,
        policy: Policy = Policy.SPLIT,
        remaining_ms: float = math.inf,
        accuracy_target: float | None = None,
    ) -> list[Prediction]:
        """One prediction for each of *images*, uint8 [B, C, H, W], in their order, whatever the cloud does.

        *remaining_ms*: how long the caller waits. *accuracy_target*: in place of a *rule*, the cheapest operating
        point with at least this accuracy (0..1) on the calibration split. Raises `InvalidInput` or `TooLarge` for a
        batch or rule that does not fit, or a target that cannot be reached.
        """
        version = self.versions.current
        with version.in_use():
            arrived_s = version.clock_s()
            asked = version.plan_request(images, rule, policy, accuracy_target, arrived_s)
            batch = images.copy()  # the message's buffer is read-only and not aligned, which torch does not take
            self._send_along(version, batch, arrived_s)
            return await self._answer(version, asked, batch, arrived_s, remaining_ms)

    async def warm_up(self, version: EdgeVersion) -> None:
        """Send an empty image the whole way of *version*, which is not served yet: through its half and the cloud's.

        So buffers are there before the first request, and a cloud that does not hold the version is found out. Raises
        what the cloud refuses, or that it cannot be reached.
        """
        image, plan = np.zeros((1, *version.served.input_shape), np.uint8), version.plan
        await self._run(version, image, 0, version.network.last, _nobody_leaves(plan))
        if version.offloads.possible and not plan.edge_only and plan.cut < version.network.total_stages:
            progress, sent = await self._prepare(version, plan, image)
            await version.offloads.ask(plan.cut, sent, progress, plan.rule, math.inf, probing=True)

    def prober(self) -> Prober:
        """What times the stages and codecs of the version that is served, between its requests."""
        return self.versions.current.prober(self._worker)

    def close(self) -> None:
        """End the compute thread after the call that runs, and probes that are on their way."""
        for probe in self._probes:
            probe.cancel()
        self._worker.close()

    async def _answer(
        self, version: EdgeVersion, asked: RequestPlan, batch: Array, arrived_s: float, remaining_ms: float
    ) -> list[Prediction]:
        plan, rule = asked.plan, asked.rule
        cut = version.network.last if plan.edge_only else plan.cut
        done = await self._run(version, batch, 0, cut, rule)
        progress = done.value
        if asked.watched and cut > 0:
            version.note(progress, rule)
        if not len(progress.remaining) or plan.edge_only:
            return edge_answers(done, rule)
        asked_s = version.clock_s()
        try:
            coded = await self._encode(cut, asked.codec, progress.features)
            done = Timed(progress, done.queue_ms + coded.queue_ms, done.compute_ms + coded.compute_ms)
            asked_s = version.clock_s()
            left_ms = remaining_ms - 1e3 * (asked_s - arrived_s)
            cloud = await version.offloads.ask(cut, coded.value, progress, rule, left_ms)
        except BranchyNetError as error:
            waited_ms = 1e3 * (version.clock_s() - asked_s)
            version.offloads.note_failure(error, waited_ms)
            unanswered = progress.remaining
            if cut == 0:  # no exit has looked at them yet
                done = await self._run(version, batch, 0, version.network.last, rule)
            return fall_back(edge_answers(done, rule), unanswered, error, waited_ms)
        return join(edge_answers(done, rule), progress.remaining, cloud, rule)

    async def _run(self, version: EdgeVersion, batch: Array, first: int, last: int, rule: ExitRule) -> Timed[Progress]:
        resume = version.network.resume
        if first == last:  # nothing to compute: do not wait for the thread
            return Timed(resume(batch, first, last, rule), 0.0, 0.0)
        return await self._worker.run(resume, batch, first, last, rule)

    async def _encode(self, cut: int, codec: Codec, features: Array) -> Timed[Sendable]:
        if codec.name == plain_codec(cut):  # every cloud understands the tensor itself
            return Timed(features, 0.0, 0.0)
        return await self._worker.run(codec.encode, features)

    def _send_along(self, version: EdgeVersion, batch: Array, now_s: float) -> None:
        """Have a copy of the first of *batch* sent as a probe, if it is time for one; nobody waits for it."""
        plan = version.probe(now_s)
        if plan is not None:
            task = asyncio.create_task(self._send_probe(version, plan, batch[:1].copy()))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    async def _send_probe(self, version: EdgeVersion, plan: Plan, image: Array) -> None:
        """Offload *image*, so that the replanner learns what that takes."""
        with version.in_use():
            asked_s = version.clock_s()
            try:
                progress, sent = await self._prepare(version, plan, image)
                asked_s = version.clock_s()
                await version.offloads.ask(plan.cut, sent, progress, plan.rule, math.inf, probing=True)
            except BranchyNetError as error:
                version.offloads.note_failure(error, 1e3 * (version.clock_s() - asked_s))

    async def _prepare(self, version: EdgeVersion, plan: Plan, image: Array) -> tuple[Progress, Sendable]:
        """How far *image* comes by *plan* if no exit is sure of it, and what is then sent."""
        done = await self._run(version, image, 0, plan.cut, _nobody_leaves(plan))
        return done.value, (await self._encode(plan.cut, version.codec(plan), done.value.features)).value


def _nobody_leaves(plan: Plan) -> ExitRule:
    return plan.rule.with_thresholds((plan.rule.criterion.never,) * len(plan.rule.thresholds))
