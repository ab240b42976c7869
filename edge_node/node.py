"""The life of a batch at the edge. Knows no protobuf and no gRPC: the cloud is whatever keeps the `Uplink` promise.

1. Run the edge's stages; after each exit the confident samples leave.
2. Encode whoever is left and send them to the cloud, in one message, with the time that is left.
3. Join the answers in the order of the images. Where the cloud did not answer, the edge's deepest exit does.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from branchynet.artifact.artifact import Artifact
from branchynet.codecs import Codec
from branchynet.codecs.payload import Sendable
from branchynet.errors import BranchyNetError, InvalidInput
from branchynet.exits.operating_points import point_for
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Array, Progress, Runner
from branchynet.placement.offload_deadline import OffloadLimits
from branchynet.placement.plan import Plan, plain_codec
from branchynet.placement.replanner import Replanner
from branchynet.serving.logging import Event, logger
from branchynet.serving.prediction import Policy, Prediction
from branchynet.serving.stage_timer import Prober
from branchynet.serving.validation import check_batch
from branchynet.serving.worker import Timed, Worker
from edge_node.answers import edge_answers, fall_back, join
from edge_node.drift_watcher import Watcher
from edge_node.offloading import Offloads
from edge_node.uplink import Uplink

__all__ = ["EdgeNode"]


class EdgeNode:
    """Stages [0, cut) of an artifact on one compute thread, and the way to the cloud (None: there is none).

    Requests are served by a `plan`, which `adopt` replaces between two of them; at first all of these stages run here
    and what is left goes as it is. *image_codec* is how images go that a request wants in the cloud, unless the plan
    says how. Computing takes *slowdown* times as long as it takes this machine. What its offloads took tells
    the edge whether the cloud's answer can be expected in time; if not, it is not asked.
    """

    def __init__(
        self,
        artifact: Artifact,
        network: Runner,
        uplink: Uplink | None,
        limits: OffloadLimits,
        max_batch: int,
        clock_s: Callable[[], float] = time.perf_counter,
        image_codec: str = "raw",
        slowdown: float = 1.0,
    ) -> None:
        if network.first != 0:
            raise InvalidInput(f"an edge half must start at stage 0, this one starts at {network.first}")
        if all(number is None for number in network.exit_of_stage[: network.last]):
            raise InvalidInput(f"an edge half needs an exit, there is none before cut {network.last}")
        self.served = artifact.manifest.served((0, network.last), max_batch)
        self._network = network
        self._offloads = Offloads(network, uplink, limits, clock_s)
        self._clock_s = clock_s
        self._watcher: Watcher | None = None
        self._codec, self._codecs_at = artifact.codec, artifact.codecs_at
        self._image_codec = self._codec(image_codec, 0)
        self._replanner: Replanner | None = None
        self._rule, self._points = artifact.manifest.rule, artifact.operating_points
        self._probes: set[asyncio.Task[None]] = set()
        self.adopt(Plan(network.last, artifact.manifest.rule))
        self._worker = Worker("edge-compute", slowdown)

    @property
    def plan(self) -> Plan:
        """Where the work of the next request is done."""
        return self._plan

    def adopt(self, plan: Plan) -> None:
        """Serve the requests that come from now on by *plan*; those that run go on as they began.

        Raises `InvalidInput` for a cut that is not held or has no exit before it, a rule or a codec that does not fit.
        """
        if not 0 <= plan.cut <= self._network.last:
            raise InvalidInput(f"the plan's cut is {plan.cut}; this edge holds stages [0, {self._network.last})")
        if plan.cut > 0 and not self._network.exits_before(plan.cut):
            raise InvalidInput(f"the plan's cut is {plan.cut}; there is no exit before it to answer at")
        plan.rule.check_exits(self._network.exits, self._network.classes)
        self._feature_codec = self._codec(plan.codec, plan.cut)
        self._plan = plan
        self.served = replace(self.served, rule=plan.rule)

    def set_plan(self, plan: Plan) -> None:
        """As `adopt`, on an operator's word, and with a line in the log.

        Raises `InvalidInput` also where the next request would replace *plan*: the edge follows a replanner, or a
        watcher moves its rule.
        """
        if self._replanner is not None:
            raise InvalidInput("this edge chooses its plan by --adapt; one that is set would be replaced")
        if self._watcher is not None and self._watcher.moves:
            raise InvalidInput("this edge moves its thresholds by --keep-exit-share; a plan's would be replaced")
        before = self._plan
        self.adopt(plan)
        logger().info(Event.REPLANNED, old=str(before), new=str(plan))

    def watch(self, watcher: Watcher) -> None:
        """Let *watcher* see every batch whose request brought no rule; it may move the rule of the next ones."""
        self._watcher = watcher

    def follow(self, replanner: Replanner) -> None:
        """Report every offload to *replanner*, and serve each request by the plan it decides on.

        Raises `InvalidInput` for a first plan that `adopt` refuses, or if a watcher moves the rule already.
        """
        if self._watcher is not None and self._watcher.moves:
            raise InvalidInput("a watcher keeps this edge's exit share; the rule cannot follow a replanner as well")
        self.adopt(replanner.plan)
        self._replanner = replanner
        self._offloads.report_to(replanner)

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
        arrived_s = self._clock_s()
        check_batch(images, np.dtype(np.uint8), self.served.input_shape, self.served.max_batch, "images")
        if accuracy_target is not None:
            rule = self._rule_for(accuracy_target, rule, policy)
        judged_by_plan = rule is None
        if self._replanner is not None:
            self._replan(self._replanner, arrived_s)
        plan, codec = self._plan_for(policy)
        if accuracy_target is not None and policy is Policy.SPLIT:  # the edge's exits by themselves do not reach it
            plan = replace(plan, edge_only=False)
        rule = rule or plan.rule
        rule.check_exits(self._network.exits, self._network.classes)
        batch = images.copy()  # the message's buffer is read-only and not aligned, which torch does not take
        self._send_along(batch, arrived_s)
        cut = self._network.last if plan.edge_only else plan.cut
        done = await self._run(batch, 0, cut, rule)
        progress = done.value
        if judged_by_plan and cut > 0 and self._watcher is not None:
            self._watch(self._watcher, progress, rule)
        if not len(progress.remaining) or plan.edge_only:
            return edge_answers(done, rule)
        asked_s = self._clock_s()
        try:
            coded = await self._encode(cut, codec, progress.features)
            done = Timed(progress, done.queue_ms + coded.queue_ms, done.compute_ms + coded.compute_ms)
            asked_s = self._clock_s()
            left_ms = remaining_ms - 1e3 * (asked_s - arrived_s)
            cloud = await self._offloads.ask(cut, coded.value, progress, rule, left_ms)
        except BranchyNetError as error:
            waited_ms = 1e3 * (self._clock_s() - asked_s)
            self._offloads.note_failure(error, waited_ms)
            unanswered = progress.remaining
            if cut == 0:  # no exit has looked at them yet
                done = await self._run(batch, 0, self._network.last, rule)
            return fall_back(edge_answers(done, rule), unanswered, error, waited_ms)
        return join(edge_answers(done, rule), progress.remaining, cloud, rule)

    def prober(self) -> Prober:
        """What times this node's stages and codecs between its requests."""
        served = self.served
        return Prober(served, self._network, self._worker, self._codecs_at, served.input_shape)

    def close(self) -> None:
        """End the compute thread after the call that runs, and probes that are on their way."""
        for probe in self._probes:
            probe.cancel()
        self._worker.close()

    def _replan(self, replanner: Replanner, now_s: float) -> None:
        """Adopt the plan that *replanner* decides on; a change is logged with what it believes of link and cloud."""
        before, plan = self._plan, replanner.decide(now_s)
        if plan is before:
            return
        self.adopt(plan)
        link = replanner.link(now_s)
        logger().info(
            Event.REPLANNED,
            old=str(before),
            new=str(plan),
            uplink_mbps=round(link.uplink_mbps, 3),
            rtt_ms=round(link.rtt_ms, 1),
            cloud_queue_ms=round(replanner.cloud_queue_ms(now_s), 1),
            risk=round(replanner.risk(now_s), 3),
        )

    async def _run(self, batch: Array, first: int, last: int, rule: ExitRule) -> Timed[Progress]:
        if first == last:  # nothing to compute: do not wait for the thread
            return Timed(self._network.resume(batch, first, last, rule), 0.0, 0.0)
        return await self._worker.run(self._network.resume, batch, first, last, rule)

    def _plan_for(self, policy: Policy) -> tuple[Plan, Codec]:
        """What a request with *policy* is served by, and how what it offloads is sent."""
        if policy is Policy.CLOUD_ONLY:
            own = self._plan.cut == 0 and self._plan.codec != plain_codec(0)
            return Plan(0, self._plan.rule), self._feature_codec if own else self._image_codec
        if policy is Policy.EDGE_ONLY:
            return replace(self._plan, edge_only=True), self._feature_codec
        return self._plan, self._feature_codec

    def _rule_for(self, accuracy_target: float, rule: ExitRule | None, policy: Policy) -> ExitRule:
        """The artifact's rule with the thresholds that *accuracy_target* asks for."""
        if rule is not None:
            raise InvalidInput(
                f"accuracy_target is {accuracy_target} and a rule came too; a request brings one of them"
            )
        if policy is Policy.EDGE_ONLY and self._network.last < self.served.total_stages:
            raise InvalidInput(
                f"accuracy_target is {accuracy_target} with policy {policy.value}; the operating points are those of "
                f"the whole network, this edge has its stages [0, {self._network.last})"
            )
        if not self._points:
            raise InvalidInput(
                f"accuracy_target is {accuracy_target}, but {self.served.model} has no operating points; "
                "`branchynet calibrate --keep-rule` records them"
            )
        return self._rule.with_thresholds(point_for(self._points, accuracy_target).thresholds)

    def _watch(self, watcher: Watcher, progress: Progress, rule: ExitRule) -> None:
        before = watcher.rule
        if replace(rule, thresholds=before.thresholds) != before:
            return  # a plan whose rule scores by another criterion has nothing to be compared with
        watcher.note(progress, rule)
        if watcher.rule is not before:
            self.adopt(replace(self._plan, rule=watcher.rule))

    async def _encode(self, cut: int, codec: Codec, features: Array) -> Timed[Sendable]:
        if codec.name == plain_codec(cut):  # every cloud understands the tensor itself
            return Timed(features, 0.0, 0.0)
        return await self._worker.run(codec.encode, features)

    def _send_along(self, batch: Array, now_s: float) -> None:
        """Have a copy of the first of *batch* sent as a probe, if it is time for one; nobody waits for it."""
        probe = None if self._replanner is None or not self._offloads.possible else self._replanner.probe(now_s)
        if probe is not None:
            task = asyncio.create_task(self._send_probe(probe, batch[:1].copy()))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    async def _send_probe(self, plan: Plan, image: Array) -> None:
        """Offload *image* as *plan* would if no exit were sure, so that the replanner learns what that takes."""
        nobody = plan.rule.with_thresholds((plan.rule.criterion.never,) * len(plan.rule.thresholds))
        done = await self._run(image, 0, plan.cut, nobody)
        asked_s = self._clock_s()
        try:
            sent = await self._encode(plan.cut, self._codec(plan.codec, plan.cut), done.value.features)
            asked_s = self._clock_s()
            await self._offloads.ask(plan.cut, sent.value, done.value, plan.rule, math.inf, probing=True)
        except BranchyNetError as error:
            self._offloads.note_failure(error, 1e3 * (self._clock_s() - asked_s))
