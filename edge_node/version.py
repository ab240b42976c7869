"""One version of the network at an edge: all that a request holds from its beginning to its end, and its decisions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from branchynet.artifact.artifact import Artifact
from branchynet.codecs import Codec
from branchynet.errors import InvalidInput
from branchynet.exits.operating_points import point_for
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Progress, Runner
from branchynet.placement.offload_deadline import OffloadLimits
from branchynet.placement.plan import Plan, plain_codec
from branchynet.placement.replanner import Replanner
from branchynet.rpc.deployment import Deployable
from branchynet.serving.logging import Event, logger
from branchynet.serving.prediction import Policy
from branchynet.serving.stage_timer import Prober
from branchynet.serving.validation import check_batch
from branchynet.serving.worker import Worker
from edge_node.drift_watcher import Watcher
from edge_node.offloading import Offloads
from edge_node.uplink import Uplink

__all__ = ["EdgeVersion", "RequestPlan"]


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """How one request is served: by *plan*, what it offloads packed by *codec*, under *rule*.

    *watched*: the rule is the plan's and not the request's own, so the watcher may learn from it.
    """

    plan: Plan
    codec: Codec
    rule: ExitRule
    watched: bool


class EdgeVersion(Deployable):
    """Stages [0, cut) of an artifact, the way to the cloud's other stages (None: there is none), and the plan.

    Requests are served by a `plan`, which `adopt` replaces between two of them; at first all of these stages run here
    and what is left goes as it is. *image_codec* is how images go that a request wants in the cloud, unless the plan
    says how. What its offloads took tells whether the cloud's answer can be expected in time; if not, it is not asked.
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
    ) -> None:
        if network.first != 0:
            raise InvalidInput(f"an edge half must start at stage 0, this one starts at {network.first}")
        if all(number is None for number in network.exit_of_stage[: network.last]):
            raise InvalidInput(f"an edge half needs an exit, there is none before cut {network.last}")
        super().__init__(artifact, artifact.manifest.served((0, network.last), max_batch))
        self.network = network
        self.offloads = Offloads(network, uplink, limits, clock_s)
        self.clock_s = clock_s
        self.watcher: Watcher | None = None
        self.replanner: Replanner | None = None
        self._image_codec = artifact.codec(image_codec, 0)
        self._rule, self._points = artifact.manifest.rule, artifact.operating_points
        self._prober: Prober | None = None
        self.adopt(Plan(network.last, artifact.manifest.rule))

    @property
    def plan(self) -> Plan:
        """Where the work of the next request is done."""
        return self._plan

    def adopt(self, plan: Plan) -> None:
        """Serve the requests that come from now on by *plan*; those that run go on as they began.

        Raises `InvalidInput` for a cut that is not held or has no exit before it, a rule or a codec that does not fit.
        """
        if not 0 <= plan.cut <= self.network.last:
            raise InvalidInput(f"the plan's cut is {plan.cut}; this edge holds stages [0, {self.network.last})")
        if plan.cut > 0 and not self.network.exits_before(plan.cut):
            raise InvalidInput(f"the plan's cut is {plan.cut}; there is no exit before it to answer at")
        plan.rule.check_exits(self.network.exits, self.network.classes)
        self._feature_codec = self.codec(plan)
        self._plan = plan
        self.served = replace(self.served, rule=plan.rule)

    def set_plan(self, plan: Plan) -> None:
        """As `adopt`, on an operator's word, and with a line in the log.

        Raises `InvalidInput` also where the next request would replace *plan*: the edge follows a replanner, or a
        watcher moves its rule.
        """
        if self.replanner is not None:
            raise InvalidInput("this edge chooses its plan by --adapt; one that is set would be replaced")
        if self.watcher is not None and self.watcher.moves:
            raise InvalidInput("this edge moves its thresholds by --keep-exit-share; a plan's would be replaced")
        before = self._plan
        self.adopt(plan)
        logger().info(Event.REPLANNED, old=str(before), new=str(plan))

    def watch(self, watcher: Watcher) -> None:
        """Let *watcher* see every batch whose request brought no rule; it may move the rule of the next ones."""
        self.watcher = watcher

    def follow(self, replanner: Replanner) -> None:
        """Report every offload to *replanner*, and serve each request by the plan it decides on.

        Raises `InvalidInput` for a first plan that `adopt` refuses, or if a watcher moves the rule already.
        """
        if self.watcher is not None and self.watcher.moves:
            raise InvalidInput("a watcher keeps this edge's exit share; the rule cannot follow a replanner as well")
        self.adopt(replanner.plan)
        self.replanner = replanner
        self.offloads.report_to(replanner)

    def plan_request(
        self,
        images: NDArray[np.generic],
        rule: ExitRule | None,
        policy: Policy,
        accuracy_target: float | None,
        arrived_s: float,
    ) -> RequestPlan:
        """How the request that *arrived_s* with *images* is served; raises what `EdgeNode.classify` does."""
        check_batch(images, np.dtype(np.uint8), self.served.input_shape, self.served.max_batch, "images")
        if accuracy_target is not None:
            rule = self._rule_for(accuracy_target, rule, policy)
        watched = rule is None
        self._replan(arrived_s)
        plan, codec = self._plan_for(policy)
        if accuracy_target is not None and policy is Policy.SPLIT:  # the edge's exits by themselves do not reach it
            plan = replace(plan, edge_only=False)
        rule = rule or plan.rule
        rule.check_exits(self.network.exits, self.network.classes)
        return RequestPlan(plan, codec, rule, watched)

    def note(self, progress: Progress, rule: ExitRule) -> None:
        """Have the watcher see a batch that ran under *rule*, a plan's; it may move the rule of the next ones."""
        if self.watcher is None:
            return
        before = self.watcher.rule
        if replace(rule, thresholds=before.thresholds) != before:
            return  # a plan whose rule scores by another criterion has nothing to be compared with
        self.watcher.note(progress, rule)
        if self.watcher.rule is not before:
            self.adopt(replace(self._plan, rule=self.watcher.rule))

    def probe(self, now_s: float) -> Plan | None:
        """What a copy of an input is to be sent by now, so that the link stays known; None if it is not time for it."""
        return None if self.replanner is None or not self.offloads.possible else self.replanner.probe(now_s)

    def codec(self, plan: Plan) -> Codec:
        """What packs an offload of *plan*; `InvalidInput` for one that does not fit."""
        return self.artifact.codec(plan.codec, plan.cut)

    def prober(self, worker: Worker) -> Prober:
        """What times these stages and codecs on *worker*; one for all who ask."""
        if self._prober is None:
            served = self.served
            self._prober = Prober(served, self.network, worker, self.artifact.codecs_at, served.input_shape)
        return self._prober

    def _replan(self, now_s: float) -> None:
        """Adopt the plan that the replanner decides on; a change is logged with what it believes of link and cloud."""
        replanner = self.replanner
        if replanner is None:
            return
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
        if policy is Policy.EDGE_ONLY and self.network.last < self.served.total_stages:
            raise InvalidInput(
                f"accuracy_target is {accuracy_target} with policy {policy.value}; the operating points are those of "
                f"the whole network, this edge has its stages [0, {self.network.last})"
            )
        if not self._points:
            raise InvalidInput(
                f"accuracy_target is {accuracy_target}, but {self.served.model} has no operating points; "
                "`branchynet calibrate --keep-rule` records them"
            )
        return self._rule.with_thresholds(point_for(self._points, accuracy_target).thresholds)
