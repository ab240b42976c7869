"""What plans are chosen from: the outcomes of each codec at each cut on held-out images; and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.manifest import Manifest
from branchynet.artifact.profile_file import check_profile
from branchynet.data.datasets import Dataset
from branchynet.errors import InvalidInput
from branchynet.evaluation.codec_study import outcomes_through
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.outcomes import OutcomeTable
from branchynet.network.runner import Runner
from branchynet.placement.candidates import Candidates
from branchynet.placement.optimise import MEASURES, Constraints, EnergyModel, Measures, best, evaluate
from branchynet.placement.plan import Plan, plain_codec
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile
from branchynet.rpc.message_sizes import codec_cost

__all__ = ["BASELINES", "PlanInputs", "PlanObjective", "best_over_links"]

# Plans that need no choice.
BASELINES = ("edge only", "cloud only", "today")


@dataclass(frozen=True)
class PlanObjective:
    """What a plan is chosen by: the least of a *measure* (the most, for accuracy) within *constraints*.

    Joules are by *energy*; an offload waits *cloud_queue_ms* for a worker of the cloud. Raises `InvalidInput` for what
    is no measure, and for joules without a model of energy.
    """

    measure: str
    constraints: Constraints
    energy: EnergyModel | None = None
    cloud_queue_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise InvalidInput(f"objective is {self.measure!r}; it must be one of {', '.join(MEASURES)}")
        if self.energy is None and (self.measure == "joules" or self.constraints.max_joules is not None):
            raise InvalidInput("joules are asked for and what they go by is not given: so many a ms, so many a byte")

    def measures(self, candidates: Candidates, profile: ServingProfile, link: Link) -> Measures:
        """See `branchynet.placement.optimise.evaluate`."""
        return evaluate(candidates, profile, link, self.energy, cloud_queue_ms=self.cloud_queue_ms)

    def best(self, measures: Measures) -> int:
        """See `branchynet.placement.optimise.best`."""
        return best(measures, self.measure, self.constraints)


@dataclass(frozen=True, eq=False)
class PlanInputs:
    """The outcomes of labelled samples, plain (*table*) and through each codec at each cut, and the devices' *profile*.

    Of a lossless codec they are the very *table*. The codecs' message sizes in *profile* are those of these samples.
    """

    manifest: Manifest
    table: OutcomeTable
    coded: dict[tuple[int, str], OutcomeTable]
    profile: ServingProfile

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        network: Runner,
        dataset: Dataset,
        profile: ServingProfile,
        codecs: Sequence[str] | None = None,
        on_image: Callable[[int], None] = lambda _: None,
    ) -> PlanInputs:
        """*network* on *dataset*, with those *codecs* that *profile* knows, or all of them.

        *on_image* receives how many images are done: the data set once, and again for each cut that has codecs. Raises
        `InvalidInput` for a profile of another network, and for a codec that is not in it.
        """
        check_profile(profile, network)
        known = _codecs_of(profile, codecs)
        manifest = artifact.manifest
        table = measure_outcomes(network, manifest.cost, dataset, on_image)
        leaving = table.exit_of(manifest.rule)
        coded, costs = {}, []
        for number, cut in enumerate(sorted({cost.cut for cost in known}), 1):
            named = {cost.codec: cost for cost in known if cost.cut == cut}
            codecs_here = artifact.codecs_at(cut, named)
            tried = outcomes_through(network, table, dataset, cut, codecs_here, _from(number * len(dataset), on_image))
            offloaded = leaving >= network.exits_before(cut)
            for through in tried:
                name = through.codec.name
                coded[cut, name] = table if through.codec.lossless else through.table
                sizes = through.payload_bytes[offloaded] if offloaded.any() else through.payload_bytes
                costs.append(codec_cost(manifest, network, replace(named[name], message_bytes=float(sizes.mean()))))
        return cls(manifest, table, coded, replace(profile, codecs=tuple(costs)))

    def floor(self, drop: float) -> float:
        """The accuracy *drop* percentage points below the final exit's, and 0 at least."""
        # Both are decimals, which their difference may miss by rounding.
        return max(float(self.table.correct[-1].mean()) - drop / 100 - 1e-9, 0.0)

    def outcomes(self, plan: Plan) -> OutcomeTable:
        """Those that *plan*'s codec at its cut makes."""
        return self.coded.get((plan.cut, plan.codec), self.table)

    def candidates(self) -> Candidates:
        """All plans worth considering, with the kind of the artifact's rule."""
        return Candidates.of(self.table, self.manifest.rule, self.profile, self.coded)

    def baselines(self) -> Candidates:
        """`BASELINES`: the artifact's own rule on the edge only, on raw images in the cloud, and at its own cut."""
        rule, held = self.manifest.rule, self.profile.held
        deepest = sum(stage < held for stage in self.profile.exit_stages) - 1
        always = (rule.criterion.always,) * (len(rule.thresholds) - deepest)
        # Edge only, whoever is left leaves at its deepest exit, and runs nothing behind it.
        alone = rule.with_thresholds((*rule.thresholds[:deepest], *always))
        plans = [Plan(held, alone, edge_only=True), Plan(0, rule), Plan(self.manifest.cut, rule)]
        return Candidates.given(plans, self.table, self.profile)


def _from(done: int, on_image: Callable[[int], None]) -> Callable[[int], None]:
    return lambda more: on_image(done + more)


def _codecs_of(profile: ServingProfile, names: Sequence[str] | None) -> list[CodecCost]:
    """Those of the profile's codecs that are for a cut at which its edge may offload, and among *names* if given."""
    first, last = profile.exit_stages[0] + 1, min(profile.held, profile.exit_stages[-1])
    usable = [cost for cost in profile.codecs if cost.cut in (0, *range(first, last + 1))]
    if names is None:
        return usable
    known = {cost.codec for cost in usable} | {plain_codec(0), plain_codec(1)}
    for name in names:
        if name not in known:
            raise InvalidInput(
                f"codec {name!r} was not measured at a cut of this edge; the profile has {', '.join(sorted(known))}, "
                "and `branchynet profile --codecs` measures others"
            )
    return [cost for cost in usable if cost.codec in names]


def best_over_links(
    candidates: Candidates,
    profile: ServingProfile,
    objective: PlanObjective,
    uplinks_mbps: NDArray[np.float64],
    rtts_ms: NDArray[np.float64],
) -> NDArray[np.int64]:
    """The best candidate on every link: int64 [R, U], one row a round trip; -1 where none keeps to the limits."""
    found = np.full((len(rtts_ms), len(uplinks_mbps)), -1, dtype=np.int64)
    for row, rtt_ms in enumerate(rtts_ms):
        for column, uplink_mbps in enumerate(uplinks_mbps):
            measures = objective.measures(candidates, profile, Link(float(uplink_mbps), rtt_ms=float(rtt_ms)))
            try:
                found[row, column] = objective.best(measures)
            except InvalidInput:  # no plan is good enough on this link
                continue
    return found
