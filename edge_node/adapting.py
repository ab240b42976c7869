"""An edge that chooses its plan anew: from a plan file, with a word in the log for each change."""

from __future__ import annotations

from pathlib import Path

from branchynet.decisions.adaptation import Replanner
from branchynet.decisions.plans import Plan
from branchynet.errors import InvalidInput
from branchynet.manifest import Manifest
from branchynet.plan_file import PlanFile, read_plan_file
from branchynet.telemetry import Event, logger

__all__ = ["ToldReplanner", "plans_for"]


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


def _words(plan: Plan) -> str:
    """*plan* on a line of the log."""
    way = "edge only" if plan.local_only else f"cut {plan.cut}, {plan.codec}"
    return f"{way}, {plan.rule.criterion.value} {'/'.join(f'{threshold:.4g}' for threshold in plan.rule.thresholds)}"
