"""A scenario: which nodes, which links, which load. One value for real fleets, virtual fleets and single simulations.

It is written as a TOML file, with a table for each part:

    artifact = "lenet-fashion"
    edges = 12
    clouds = 2                     # edge i asks cloud i mod 2

    [workload]
    arrivals = "poisson"           # or "periodic"
    rate_per_s = 5.0               # at each edge
    requests = 100                 # at each edge

    [link]
    uplink = 10.0                  # Mbit/s, or the path of a trace, or {mbps = [1, 20], mean_stay_s = [2, 5]}
    downlink_mbps = 50.0
    rtt_ms = 40.0
"""

from __future__ import annotations

import math
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from branchynet.decisions.deadlines import OffloadLimits
from branchynet.decisions.exits import Criterion, ExitRule
from branchynet.decisions.plans import Plan
from branchynet.errors import InvalidInput
from simulations.capacity import Capacity, ConstantRate, markov_rate
from simulations.traces import read_trace

__all__ = [
    "Arrivals",
    "CloudModel",
    "LinkModel",
    "Markov",
    "PlanModel",
    "Scenario",
    "Workload",
    "read_scenario",
    "with_changes",
]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arrivals(StrEnum):
    """When requests come: at random, or at even intervals from a random phase on."""

    POISSON = "poisson"
    PERIODIC = "periodic"


class Workload(_Part):
    """What each edge is asked: *requests* single images at *rate_per_s*."""

    arrivals: Arrivals = Arrivals.POISSON
    rate_per_s: Positive = 5.0
    requests: Count = 100


class Markov(_Part):
    """An uplink that jumps between the rates *mbps*, staying in each for *mean_stay_s* on average."""

    mbps: tuple[NotNegative, ...]
    mean_stay_s: tuple[Positive, ...]

    @model_validator(mode="after")
    def _two_states_or_more(self) -> Markov:
        if len(self.mbps) < 2 or len(self.mbps) != len(self.mean_stay_s):
            raise ValueError(f"{len(self.mbps)} rates with {len(self.mean_stay_s)} stays; two or more of both")
        if not any(self.mbps):
            raise ValueError("the rates of a link must not all be 0")
        return self


class LinkModel(_Part):
    """Each edge's way to its cloud, half of *rtt_ms* each way.

    *uplink*: a constant rate in Mbit/s, a `Markov`, or the path of a recorded trace (see `simulations.traces`). On a
    link that varies, each edge is at a point of its own of the same course.
    """

    uplink: Positive | Markov | Path = 10.0
    downlink_mbps: Positive = 50.0
    rtt_ms: NotNegative = 40.0

    def capacity(self, seed: int) -> Capacity:
        """What the uplink can carry; *seed* is for a `Markov`. Raises `InvalidInput` for a trace that is none."""
        if isinstance(self.uplink, Markov):
            states = self.uplink
            length_s = 1_000 * max(states.mean_stay_s)
            return markov_rate(states.mbps, states.mean_stay_s, length_s, np.random.default_rng([seed, 1]))
        if isinstance(self.uplink, Path):
            return read_trace(self.uplink)
        return ConstantRate(self.uplink)


class PlanModel(_Part):
    """Where the work is done; what is not given is the artifact's own. See `branchynet.decisions.plans.Plan`."""

    cut: Annotated[int, Field(ge=0)] | None = None
    criterion: Criterion | None = None
    thresholds: tuple[float, ...] | None = None
    local_only: bool = False

    @model_validator(mode="after")
    def _criterion_needs_thresholds(self) -> PlanModel:
        if self.criterion is not None and self.thresholds is None:
            raise ValueError(f"criterion {self.criterion.value!r} needs thresholds")
        return self

    def plan(self, cut: int, rule: ExitRule) -> Plan:
        """The plan for an artifact with this *cut* and *rule* of its own."""
        if self.thresholds is not None:
            rule = rule.with_thresholds(self.thresholds, self.criterion)
        return Plan(cut if self.cut is None else self.cut, rule, self.local_only)


class CloudModel(_Part):
    """How a cloud node works: *workers* at a time, each on up to *max_batch* samples, *slowdown* times as slow."""

    workers: Count = 1
    max_batch: Count = 1
    slowdown: Positive = 1.0


class EdgeModel(_Part):
    """How an edge node works: *slowdown* times as slow as the one that was profiled."""

    slowdown: Positive = 1.0


class Limits(_Part):
    """Deadline of each request as its caller sees it, and what the edge makes of it."""

    deadline_ms: Positive = 10_000.0
    offload_timeout_ms: Positive = 2_000.0
    reserve_ms: NotNegative = 20.0

    @property
    def offload(self) -> OffloadLimits:
        """The same as the edge's value."""
        return OffloadLimits(self.offload_timeout_ms, self.reserve_ms)


class Scenario(_Part):
    """All of it. Edge *i* asks cloud *i* mod *clouds*."""

    name: str = "scenario"
    artifact: str = "lenet-fashion"
    edges: Count = 1
    clouds: Count = 1
    seed: Annotated[int, Field(ge=0)] = 0
    workload: Workload = Workload()
    link: LinkModel = LinkModel()
    plan: PlanModel = PlanModel()
    edge: EdgeModel = EdgeModel()
    cloud: CloudModel = CloudModel()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _every_cloud_has_an_edge(self) -> Scenario:
        if self.clouds > self.edges:
            raise ValueError(f"{self.clouds} clouds for {self.edges} edges; at most one for each edge")
        return self

    def edges_of(self, cloud: int) -> range:
        """The numbers of the edges that ask *cloud*."""
        return range(cloud, self.edges, self.clouds)

    @property
    def length_s(self) -> float:
        """How long requests come for, on average."""
        return math.ceil(self.workload.requests / self.workload.rate_per_s)


def read_scenario(path: Path) -> Scenario:
    """The scenario in the TOML file at *path*; a trace's relative path starts at the file's folder.

    Raises `InvalidInput`, naming the key and its value.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        scenario = Scenario.model_validate({"name": path.stem, **document})
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_problems(error)}") from None
    if isinstance(scenario.link.uplink, Path):
        link = scenario.link.model_copy(update={"uplink": path.parent / scenario.link.uplink})
        return scenario.model_copy(update={"link": link})
    return scenario


def with_changes(
    scenario: Scenario,
    *,
    artifact: str | None = None,
    edges: int | None = None,
    clouds: int | None = None,
    requests: int | None = None,
    rate_per_s: float | None = None,
    seed: int | None = None,
) -> Scenario:
    """*scenario* with what is given in place of its own; *requests* and *rate_per_s* are those at each edge.

    Raises `InvalidInput` for a value that no scenario can have.
    """
    values = scenario.model_dump()
    given = {"artifact": artifact, "edges": edges, "clouds": clouds, "seed": seed}
    values.update({name: value for name, value in given.items() if value is not None})
    load = {"requests": requests, "rate_per_s": rate_per_s}
    values["workload"].update({name: value for name, value in load.items() if value is not None})
    try:
        return Scenario.model_validate(values)
    except ValidationError as error:
        raise InvalidInput(f"{scenario.name}: {_problems(error)}") from None


def _problems(error: ValidationError) -> str:
    return "; ".join(map(_problem, error.errors()))


def _problem(problem: ErrorDetails) -> str:
    told = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # about several values at once, which the message names
        return told
    return f"{'.'.join(map(str, problem['loc']))}: {told} (given: {problem['input']!r})"
