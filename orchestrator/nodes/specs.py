"""What a scenario's nodes and links are started by, as values that travel to whoever starts them, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from branchynet.artifact.artifact import Artifact
from branchynet.errors import InvalidInput
from branchynet.placement.plan import Plan
from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings
from simulations.link.capacity import Capacity, PiecewiseRate
from simulations.link.proxy import LinkSettings
from simulations.link.traces import write_trace
from simulations.model.scenario import EdgeGroup, Scenario, Trace
from simulations.model.workload import link_offsets_s

__all__ = ["CloudSpec", "EdgeSpec", "Spec", "check_real", "specs_of"]

# A node that is to stop gives running requests this long.
GRACE_S = 2.0


@dataclass(frozen=True)
class CloudSpec:
    """A cloud node; port 0 takes a free one."""

    number: int
    settings: CloudSettings

    @property
    def name(self) -> str:
        """Its name."""
        return f"cloud-{self.number}"


@dataclass(frozen=True)
class EdgeSpec:
    """An edge node, and its link to the cloud number *cloud*.

    *plan*: by which it serves, unless its settings let it choose. The link listens on *link_port* (0 takes a free one)
    and leads to *cloud_port*. *course*: the recorded link that its uplink follows, from *offset_s* on, once the run
    begins; until then its rate is constant, as it is without.
    """

    number: int
    settings: EdgeSettings
    plan: Plan | None
    link: LinkSettings
    cloud: int
    course: Path | None = None
    offset_s: float = 0.0
    cloud_port: int = 0
    link_port: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return f"edge-{self.number}"


Spec = CloudSpec | EdgeSpec


def specs_of(scenario: Scenario, folder: Path) -> tuple[list[CloudSpec], list[EdgeSpec]]:
    """The clouds and edges of *scenario*, all ports still 0; links that jump have their course written to *folder*.

    Raises as `check_real` does.
    """
    artifact = check_real(scenario)
    manifest = artifact.manifest
    common: dict[str, Any] = {
        "artifact": scenario.artifact,
        "engine": scenario.engine or artifact.default_engine,
        "port": 0,
        "grace_s": GRACE_S,
        "control": True,
    }
    settings = CloudSettings.model_construct(**common, slowdown=scenario.cloud.slowdown)
    clouds = [CloudSpec(number, settings) for number in range(scenario.clouds)]
    edges = []
    for place, ((numbers, group), uplink) in enumerate(zip(scenario.edge_groups(), scenario.uplinks(), strict=True)):
        course = _course(group, uplink, folder / f"uplink-{place}.txt")
        offsets_s = {
            edge: offset_s
            for cloud in range(scenario.clouds)
            for edge, offset_s in zip(
                scenario.edges_of(cloud, numbers),
                link_offsets_s(scenario, cloud, uplink.period_s, place).tolist(),
                strict=True,
            )
        }
        plan = None if group.plan.adapt else group.plan.plan(manifest.cut, manifest.rule)
        held = group.held or (None if plan is None else max(plan.cut, manifest.cut))
        edge_settings = EdgeSettings.model_construct(
            **common,
            cut=held,
            adapt=group.plan.adapt,
            slowdown=group.slowdown,
            offload_timeout_ms=scenario.limits.offload_timeout_ms,
            reserve_ms=scenario.limits.reserve_ms,
        )
        down_mbps, rtt_ms = group.link.downlink_mbps, group.link.rtt_ms
        for number in numbers:
            link = LinkSettings.symmetric_delay(uplink.mean_mbps, down_mbps, rtt_ms, seed=scenario.seed + number)
            cloud = number % scenario.clouds
            edges.append(EdgeSpec(number, edge_settings, plan, link, cloud, course, offsets_s[number]))
    return clouds, edges


def check_real(scenario: Scenario) -> Artifact:
    """The artifact of *scenario*. Raises `InvalidInput` for what real nodes cannot do, and `UnknownModel`."""
    for name, value in (("workers", scenario.cloud.workers), ("max_batch", scenario.cloud.max_batch)):
        if value != 1:
            raise InvalidInput(f"cloud.{name} is {value}; a real cloud has one worker that takes one message at a time")
    slowdowns = {"cloud": scenario.cloud.slowdown}
    artifact = Artifact.open(scenario.artifact)
    manifest, costs = artifact.manifest, artifact.manifest.cost
    for numbers, group in scenario.edge_groups():
        slowdowns[f"edge {numbers.start}"] = group.slowdown
        if group.plan.adapt is not None:
            continue
        plan = group.plan.plan(manifest.cut, manifest.rule)
        plan.rule.check_exits(costs.exits)
        if max(plan.cut, group.held or 0) > len(costs.stages):
            cut = max(plan.cut, group.held or 0)
            raise InvalidInput(f"cut is {cut}; {scenario.artifact} has cuts 0 to {len(costs.stages)}")
    for name, slowdown in slowdowns.items():
        if slowdown < 1:
            raise InvalidInput(f"slowdown of {name} is {slowdown:g}; nothing makes real nodes faster than this machine")
    return artifact


def _course(group: EdgeGroup, uplink: Capacity, path: Path) -> Path | None:
    """The file with what *uplink* carries if that varies, which is written to *path* if there is none."""
    if isinstance(group.link.uplink_mbps, Trace):
        return group.link.uplink_mbps.file_for_links(path)
    if not isinstance(uplink, PiecewiseRate):
        return None
    write_trace(path, uplink)
    return path.resolve()
