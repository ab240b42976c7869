"""An edge that chooses its plan anew: from a plan file, with a word in the log for each change."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from branchynet.decisions.adaptation import Replanner
from branchynet.decisions.plans import Plan
from branchynet.decisions.timing import ServingProfile
from branchynet.engine import Array, Runner
from branchynet.errors import InvalidInput
from branchynet.manifest import Manifest
from branchynet.plan_file import PlanFile, read_plan_file
from branchynet.telemetry import Event, logger

__all__ = ["PacedRunner", "ToldReplanner", "plans_for"]


def plans_for(manifest: Manifest, path: Path, cut: int | None) -> PlanFile:
    """The plans in the file at *path* for an edge with the artifact of *manifest*, told to hold stages [0, *cut*).

    Raises `DamagedData`, and `InvalidInput` for plans of another artifact, or of an edge that holds other stages.
    """
    plans = read_plan_file(path)
    plans.check_artifact(manifest.name, manifest.content_hash)
    if cut not in (None, plans.profile.held):
        raise InvalidInput(
            f"cut is {cut}, but the plans in {path} are for an edge that holds stages [0, {plans.profile.held}); "
            "leave it out, or write plans with `branchynet plan --held`"
        )
    return plans


class ToldReplanner(Replanner):
    """A `Replanner` that logs each change, with what it believes of the link."""

    def __init__(self, plans: PlanFile, now_s: float) -> None:
        super().__init__(plans.candidates, plans.profile, plans.guessed, plans.adaptation, now_s)
        self._log = logger()

    def decide(self, now_s: float) -> Plan:
        """See `Replanner`."""
        before = self.plan
        plan = super().decide(now_s)
        if plan is not before:
            link = self.link(now_s)
            self._log.info(
                Event.REPLANNED,
                old=_words(before),
                new=_words(plan),
                uplink_mbps=round(link.uplink_mbps, 3),
                rtt_ms=round(link.rtt_ms, 1),
                cloud_queue_ms=round(self.cloud_queue_ms(now_s), 1),
                risk=round(self.risk(now_s), 3),
            )
        return plan


class PacedRunner(Runner):
    """*runner* on a device that takes as long for each stage as the edge of *profile*, and no less."""

    def __init__(self, runner: Runner, profile: ServingProfile) -> None:
        super().__init__(
            input_shape=runner.input_shape,
            classes=runner.classes,
            exit_of_stage=runner.exit_of_stage,
            first=runner.first,
            last=runner.last,
        )
        self._runner, self._profile = runner, profile

    def run(self, index: int, x: Array) -> tuple[Array, NDArray[np.float32] | None]:
        """See `Runner`."""
        until_s = time.perf_counter() + self._profile.edge.stage_ms(index, len(x)) / 1e3
        done = self._runner.run(index, x)
        time.sleep(max(until_s - time.perf_counter(), 0.0))
        return done

    def without_branches(self) -> Runner:
        """See `Runner`."""
        return PacedRunner(self._runner.without_branches(), self._profile)


def _words(plan: Plan) -> str:
    """*plan* on a line of the log."""
    way = "edge only" if plan.local_only else f"cut {plan.cut}, {plan.codec}"
    return f"{way}, {plan.rule.criterion.value} {'/'.join(f'{threshold:.4g}' for threshold in plan.rule.thresholds)}"
