"""A scenario: nodes, links, plan, load, faults. One value for real nodes, wherever they run, and for simulated ones.

It is written as a TOML file, with a table for each part; `example.toml` here has every key:

    artifact = "lenet-fashion"
    edges = 12
    clouds = 2                     # edge i asks cloud i mod 2

    [workload]
    rate_per_s = 5.0               # at each edge
    requests = 100                 # at each edge

    [link]
    uplink_mbps = 10.0             # or {trace = "file"}, or {states = [1, 20], mean_stay_s = [2, 5]}
    rtt_ms = 40.0

Edges that differ come in groups, `[[groups]]` in place of `edges`; what a group does not say is said by these tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from branchynet.data.text_files import read_toml
from branchynet.errors import InvalidInput
from branchynet.network.runner import Engine
from simulations.link.capacity import Capacity
from simulations.model.scenario_parts import (
    Arrivals,
    CloudModel,
    Count,
    EdgeGroup,
    EdgeModel,
    Fault,
    Limits,
    LinkModel,
    Markov,
    Part,
    PlanModel,
    Trace,
    Workload,
)

__all__ = [
    "Arrivals",
    "CloudModel",
    "EdgeGroup",
    "EdgeModel",
    "Fault",
    "Limits",
    "LinkModel",
    "Markov",
    "PlanModel",
    "Scenario",
    "Trace",
    "Workload",
    "read_scenario",
    "with_changes",
]


class Scenario(Part):
    """All of it. Edge *i* asks cloud *i* mod *clouds*.

    Edges are alike, *edges* of them by *workload*, *link*, *plan* and *edge*; or they come in *groups*, one after the
    other. *engine*: what runs the layers of real nodes, `eager` or `onnx`; the artifact's own unless given.
    """

    name: str = "scenario"
    artifact: str = "lenet-fashion"
    engine: Engine | None = None
    edges: Count = 1
    clouds: Count = 1
    seed: Annotated[int, Field(ge=0)] = 0
    workload: Workload = Workload()
    link: LinkModel = LinkModel()
    plan: PlanModel = PlanModel()
    edge: EdgeModel = EdgeModel()
    cloud: CloudModel = CloudModel()
    limits: Limits = Limits()
    groups: tuple[EdgeGroup, ...] = ()
    faults: tuple[Fault, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _groups_inherit(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("groups"), list | tuple) or not values["groups"]:
            return values
        groups = [_inherited(values, group) for group in values["groups"]]
        counts = [group.get("count", 1) if isinstance(group, dict) else getattr(group, "count", 1) for group in groups]
        if not all(isinstance(count, int) for count in counts):  # which is refused where it stands
            return {**values, "groups": groups}
        total = sum(counts)
        if values.get("edges", total) != total:
            raise ValueError(f"edges is {values['edges']}, but the groups have {total}; leave edges out")
        return {**values, "groups": groups, "edges": total}

    @model_validator(mode="after")
    def _parts_are_there(self) -> Scenario:
        if self.clouds > self.edges:
            raise ValueError(f"{self.clouds} clouds for {self.edges} edges; at most one for each edge")
        for fault in self.faults:
            count = self.clouds if fault.part.startswith("cloud-") else self.edges
            if fault.number >= count:
                raise ValueError(f"a fault is of {fault.part}, the last of its kind is number {count - 1}")
        return self

    def edge_groups(self) -> Iterator[tuple[range, EdgeGroup]]:
        """The numbers of edges that are alike, with what they are."""
        alike = EdgeGroup(count=self.edges, **dict(self.edge), workload=self.workload, link=self.link, plan=self.plan)
        first = 0
        for group in self.groups or (alike,):
            yield range(first, first + group.count), group
            first += group.count

    def edges_of(self, cloud: int, among: range | None = None) -> range:
        """The numbers of the edges that ask *cloud*, of all or *among* these."""
        among = range(self.edges) if among is None else among
        return range(among.start + (cloud - among.start) % self.clouds, among.stop, self.clouds)

    def uplinks(self) -> list[Capacity]:
        """What the uplinks of each group can carry; `InvalidInput` for a trace that is none."""
        return [group.link.capacity(self.seed) for _, group in self.edge_groups()]

    def replaced(self, **parts: Any) -> Scenario:
        """The same with other *parts* (`link`, `plan`, …), which all groups then share."""
        of_groups = {name: part for name, part in parts.items() if name in EdgeGroup.model_fields}
        groups = tuple(group.model_copy(update=of_groups) for group in self.groups)
        return self.model_copy(update={**parts, "groups": groups})

    @property
    def requests(self) -> int:
        """How many requests all edges are asked."""
        return sum(len(numbers) * group.workload.requests for numbers, group in self.edge_groups())

    @property
    def length_s(self) -> float:
        """How long requests come for, on average."""
        return max(math.ceil(group.workload.requests / group.workload.rate_per_s) for _, group in self.edge_groups())


def _inherited(values: dict[str, Any], group: Any) -> Any:
    """The table *group* with what the scenario's own tables say beside it."""
    if not isinstance(group, dict):
        return group
    merged = {**_table(values.get("edge")), **group}
    for part in ("workload", "link", "plan"):
        given = group.get(part, {})
        merged[part] = {**_table(values.get(part)), **given} if isinstance(given, dict) else given
    return merged


def _table(part: Any) -> dict[str, Any]:
    """*part* of a scenario as a table; what is none is refused where it stands."""
    if isinstance(part, BaseModel):
        return dict(part)
    return part if isinstance(part, dict) else {}


def read_scenario(path: Path) -> Scenario:
    """The scenario in the TOML file at *path*; relative paths in it start at the file's folder.

    Raises `InvalidInput`, naming the key and its value.
    """
    try:
        document = read_toml(path)
    except ValueError as error:
        raise InvalidInput(f"{path} is not TOML: {error}") from None
    try:
        return Scenario.model_validate({"name": path.stem, **_from_folder(document, path.parent)})
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_problems(error)}") from None


def _from_folder(part: Any, folder: Path) -> Any:
    """*part* of a document, with its files (keys `trace` and `adapt`) found from *folder*."""
    if isinstance(part, list):
        return [_from_folder(one, folder) for one in part]
    if not isinstance(part, dict):
        return part
    return {
        key: folder / value if key in ("trace", "adapt") and isinstance(value, str) else _from_folder(value, folder)
        for key, value in part.items()
    }


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
    for part in (values, *values["groups"]):
        part["workload"].update({name: value for name, value in load.items() if value is not None})
    try:
        return Scenario.model_validate(values)
    except ValidationError as error:
        raise InvalidInput(f"{scenario.name}: {_problems(error)}") from None


def _problems(error: ValidationError) -> str:
    return "; ".join(map(_problem, error.errors()))


def _problem(problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # about several values at once, which the message names
        return message
    return f"{'.'.join(map(str, problem['loc']))}: {message} (given: {problem['input']!r})"
