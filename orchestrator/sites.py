"""Which node of a scenario is hosted where, as values that travel to the hosts and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from branchynet import artifact
from branchynet.decisions.plans import Plan
from branchynet.errors import InvalidInput
from branchynet.models import zoo
from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings
from simulations.capacity import Capacity
from simulations.link_proxy import LinkSettings
from simulations.scenarios import Scenario
from simulations.workload import Requests

__all__ = ["CloudSite", "EdgeSite", "HostSite", "plan_of", "sites_of"]

# A node that is told to stop gives running requests this long.
GRACE_S = 2.0


@dataclass(frozen=True)
class CloudSite:
    """A cloud node to be hosted; port 0 takes a free one."""

    number: int
    settings: CloudSettings


@dataclass(frozen=True)
class EdgeSite:
    """An edge node to be hosted, and its link.

    The link listens on *link_port* (0 takes a free one) and leads to *cloud_port*. If it varies, it starts *offset_s*
    into its course.
    """

    number: int
    settings: EdgeSettings
    link: LinkSettings
    cloud_port: int = 0
    link_port: int = 0
    offset_s: float = 0.0


@dataclass(frozen=True)
class HostSite:
    """All that a host hosts; *uplink* is what the uplinks carry if that varies, from *zero_s* (`time.monotonic`) on."""

    clouds: tuple[CloudSite, ...] = ()
    edges: tuple[EdgeSite, ...] = ()
    uplink: Capacity | None = None
    zero_s: float | None = None

    @property
    def names(self) -> list[str]:
        """The names of its nodes."""
        return [f"cloud-{site.number}" for site in self.clouds] + [f"edge-{site.number}" for site in self.edges]


def plan_of(scenario: Scenario) -> Plan:
    """The plan that real nodes carry out. Raises `InvalidInput` for what they cannot do, and `UnknownModel`."""
    for name, value in (
        ("edge.slowdown", scenario.edge.slowdown),
        ("cloud.slowdown", scenario.cloud.slowdown),
        ("cloud.workers", scenario.cloud.workers),
        ("cloud.max_batch", scenario.cloud.max_batch),
    ):
        if value != 1:
            raise InvalidInput(f"{name} is {value}; real nodes work as they do on this machine, so it must be 1")
    manifest = artifact.read_manifest(zoo.find(scenario.artifact))
    plan = scenario.plan.plan(manifest.cut, manifest.rule)
    costs = manifest.cost
    plan.rule.check_exits(costs.exits)
    if plan.cut > len(costs.stages):
        raise InvalidInput(f"cut is {plan.cut}; {scenario.artifact} has cuts 0 to {len(costs.stages)}")
    return plan


def sites_of(
    scenario: Scenario, cut: int, capacity: Capacity, requests: Sequence[Requests], edge_hosts: int
) -> tuple[list[HostSite], list[HostSite]]:
    """A site for each cloud, and up to *edge_hosts* that share the edges; all ports are still 0.

    *capacity* is what each uplink can carry, and *requests*, those of each cloud, say where in its course it starts.
    """
    link = scenario.link
    offsets_s = {
        edge: offset_s
        for part in requests
        for edge, offset_s in zip(part.edges.tolist(), part.offset_s.tolist(), strict=True)
    }
    engine = artifact.read_manifest(zoo.find(scenario.artifact)).own_engine
    edge_settings = EdgeSettings.model_construct(
        artifact=scenario.artifact,
        engine=engine,
        port=0,
        cut=cut or None,
        offload_timeout_ms=scenario.limits.offload_timeout_ms,
        reserve_ms=scenario.limits.reserve_ms,
        grace_s=GRACE_S,
    )
    edges = [
        EdgeSite(
            number=number,
            settings=edge_settings,
            link=LinkSettings.symmetric_delay(
                capacity.mean_mbps, link.downlink_mbps, link.rtt_ms, seed=scenario.seed + number
            ),
            offset_s=offsets_s[number],
        )
        for number in range(scenario.edges)
    ]
    cloud_settings = CloudSettings.model_construct(artifact=scenario.artifact, engine=engine, port=0, grace_s=GRACE_S)
    clouds = [HostSite(clouds=(CloudSite(number, cloud_settings),)) for number in range(scenario.clouds)]
    count = min(edge_hosts, scenario.edges)
    uplink = capacity if capacity.period_s else None
    return clouds, [HostSite(edges=tuple(edges[number::count]), uplink=uplink) for number in range(count)]
