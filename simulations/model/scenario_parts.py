"""The parts of a scenario: what edges, clouds and links are, what they are asked, and what happens to them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from branchynet.errors import InvalidInput
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.placement.offload_deadline import OffloadLimits
from branchynet.placement.plan import Plan, plain_codec
from simulations.link.capacity import Capacity, ConstantRate, DeliveryLog, PiecewiseRate, markov_rate
from simulations.link.traces import Reading, read_trace, write_trace

__all__ = [
    "Arrivals",
    "CloudModel",
    "Count",
    "EdgeGroup",
    "EdgeModel",
    "Fault",
    "Limits",
    "LinkModel",
    "Markov",
    "Part",
    "PlanModel",
    "Trace",
    "Workload",
]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """What a table of a scenario's file becomes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Arrivals(StrEnum):
    """When requests come: at random, or at even intervals from a random phase on."""

    POISSON = "poisson"
    PERIODIC = "periodic"


class Workload(Part):
    """What each edge is asked: *requests* single images at *rate_per_s*."""

    arrivals: Arrivals = Arrivals.POISSON
    rate_per_s: Positive = 5.0
    requests: Count = 100


class Markov(Part):
    """An uplink that jumps between *states*, rates in Mbit/s, staying in each for *mean_stay_s* on average."""

    states: tuple[NotNegative, ...]
    mean_stay_s: tuple[Positive, ...]

    @model_validator(mode="after")
    def _two_states_or_more(self) -> Markov:
        if len(self.states) < 2 or len(self.states) != len(self.mean_stay_s):
            raise ValueError(f"{len(self.states)} states with {len(self.mean_stay_s)} stays; two or more of both")
        if not any(self.states):
            raise ValueError("the states of a link must not all be 0")
        return self


class Trace(Part):
    """An uplink as recorded in the file *trace* (see `simulations.link.traces`).

    *start_s*: where in it every edge is at the start; unless given, each is at a point of its own. *column*, *unit* and
    *time_unit*: how to read the file where it does not say.
    """

    trace: Path
    start_s: NotNegative | None = None
    column: str | None = None
    unit: str | None = None
    time_unit: str | None = None

    @model_validator(mode="after")
    def _units_are_known(self) -> Trace:
        _ = self.reading
        return self

    @property
    def reading(self) -> Reading:
        """How the file is read."""
        return Reading(self.column, self.unit, self.time_unit)

    def capacity(self) -> PiecewiseRate | DeliveryLog:
        """What the recorded link can carry. Raises `InvalidInput` for a file that is no recording."""
        return read_trace(self.trace, self.reading)

    def file_for_links(self, written: Path) -> Path:
        """The file that a link follows without being told how to read it; made anew at *written* if need be."""
        if self.reading == Reading():
            return self.trace.resolve()
        write_trace(written, self.capacity())
        return written.resolve()


class LinkModel(Part):
    """Each edge's way to its cloud, half of *rtt_ms* each way.

    *uplink_mbps*: a constant rate, or one that varies. Each edge is at a point of its own of the same course.
    """

    uplink_mbps: Positive | Markov | Trace = 10.0
    downlink_mbps: Positive = 50.0
    rtt_ms: NotNegative = 40.0

    def capacity(self, seed: int) -> Capacity:
        """What the uplink can carry; *seed* is for a `Markov`. Raises `InvalidInput` for a trace that is none."""
        if isinstance(self.uplink_mbps, Markov):
            markov = self.uplink_mbps
            length_s = 1_000 * max(markov.mean_stay_s)
            return markov_rate(markov.states, markov.mean_stay_s, length_s, np.random.default_rng([seed, 1]))
        if isinstance(self.uplink_mbps, Trace):
            return self.uplink_mbps.capacity()
        return ConstantRate(self.uplink_mbps)


class PlanModel(Part):
    """Where the work is done; what is not given is the artifact's own. See `branchynet.placement.plan.Plan`.

    *adapt*: a file of `branchynet plan --out`, by which edges choose anew as the link changes, in place of all others.
    """

    cut: Annotated[int, Field(ge=0)] | None = None
    criterion: Criterion | None = None
    thresholds: tuple[float, ...] | None = None
    codec: str | None = None
    edge_only: bool = False
    adapt: Path | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> PlanModel:
        if self.criterion is not None and self.thresholds is None:
            raise ValueError(f"criterion {self.criterion.value!r} needs thresholds")
        beside = self.model_dump(exclude={"adapt"}, exclude_defaults=True)
        if self.adapt is not None and beside:
            raise ValueError(
                f"adapt is {str(self.adapt)!r}, which chooses all that a plan says; leave out {', '.join(beside)}"
            )
        return self

    @classmethod
    def of(cls, plan: Plan) -> PlanModel:
        """*plan*, written out; its rule's temperatures and gates are the artifact's."""
        rule = plan.rule
        return cls(
            cut=plan.cut,
            criterion=rule.criterion,
            thresholds=rule.thresholds,
            codec=None if plan.codec == plain_codec(plan.cut) else plan.codec,
            edge_only=plan.edge_only,
        )

    def plan(self, cut: int, rule: ExitRule) -> Plan:
        """The plan for an artifact with this *cut* and *rule* of its own; `InvalidInput` if there is none."""
        if self.adapt is not None:
            raise InvalidInput(f"adapt is {str(self.adapt)!r}: there is no one plan to carry out")
        if self.thresholds is not None:
            rule = rule.with_thresholds(self.thresholds, self.criterion)
        cut = cut if self.cut is None else self.cut
        return Plan(cut, rule, self.edge_only, self.codec or plain_codec(cut))


class CloudModel(Part):
    """How a cloud node works: *workers* at a time, each on up to *max_batch* samples, *slowdown* times as slow."""

    workers: Count = 1
    max_batch: Count = 1
    slowdown: Positive = 1.0


class EdgeModel(Part):
    """How an edge node works: *slowdown* times as slow as the one that was profiled, or as this machine is.

    It holds stages [0, *held*), by default as many as its plan and the artifact's own cut need.
    """

    slowdown: Positive = 1.0
    held: Count | None = None


class EdgeGroup(EdgeModel):
    """*count* edges that are alike."""

    count: Count = 1
    workload: Workload = Workload()
    link: LinkModel = LinkModel()
    plan: PlanModel = PlanModel()


class Fault(Part):
    """What happens to a *part* at *at_s*, for *for_s* seconds.

    A node (`edge-0`, `cloud-1`) is killed and started again, or freezes; a link (`link-0`, that of edge 0) is cut, so
    that connections break, or freezes, so that nothing moves.
    """

    part: Annotated[str, Field(pattern=r"^(edge|cloud|link)-\d+$")]
    kind: Literal["kill", "freeze", "cut"]
    at_s: NotNegative
    for_s: NotNegative

    @model_validator(mode="after")
    def _can_happen(self) -> Fault:
        if self.kind == ("kill" if self.is_link else "cut"):
            raise ValueError(f"{self.part} cannot be {self.kind}; links are cut, nodes are killed, both freeze")
        return self

    @property
    def is_link(self) -> bool:
        """Whether it happens to a link."""
        return self.part.startswith("link-")

    @property
    def number(self) -> int:
        """The part's number."""
        return int(self.part.rpartition("-")[2])


class Limits(Part):
    """Deadline of each request as its caller sees it, and what the edge makes of it."""

    deadline_ms: Positive = 10_000.0
    offload_timeout_ms: Positive = 2_000.0
    reserve_ms: NotNegative = 20.0

    @property
    def offload(self) -> OffloadLimits:
        """The same as the edge's value."""
        return OffloadLimits(self.offload_timeout_ms, self.reserve_ms)
