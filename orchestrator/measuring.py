"""What a simulation starts from, measured on this machine: the network's outcomes, its stages' times, its messages.

The stages are timed one by one in this process. Then real nodes answer requests at an easy pace over a link that is
never the bottleneck: what they take, compared with what their stages should have, tells how fast the stages run there,
and what a request and an offload cost beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from branchynet import artifact
from branchynet.decisions.exits import ExitRule
from branchynet.decisions.plans import Plan
from branchynet.decisions.timing import ServingProfile
from branchynet.engine import Runner
from branchynet.errors import DamagedData, InvalidInput, Unavailable
from branchynet.manifest import Manifest
from branchynet.models import zoo
from branchynet.profile import time_stages
from branchynet.training.datasets import Dataset
from branchynet.training.evaluation import measure_outcomes
from edge_node.offload import resume_request
from orchestrator.live import send_requests
from orchestrator.local import LocalTopology, Topology
from simulations.records import CLOUD, EDGE, Records
from simulations.scenarios import Scenario, Workload
from simulations.simulator import Measured
from simulations.workload import requests_of

__all__ = ["measure", "read_profile", "write_profile"]

# One gigabit each way and no delay: a message of a few kilobytes takes microseconds.
EASY_MBPS = 1_000.0
PACE_PER_S = 40.0
REQUESTS = 240
WARM_UP = 40
PLACES_OF = {"local": EDGE, "raw": CLOUD, "split": CLOUD}
STEPS = ("outcomes", "stages", "nodes")

_PROFILE = TypeAdapter(ServingProfile)


async def measure(
    artifact_name: str,
    dataset: Dataset,
    logs: Path,
    *,
    profile: ServingProfile | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Measured:
    """Outcomes of the artifact on *dataset*, and its profile on this machine unless *profile* is given.

    *on_step* is told each of `STEPS` when it begins; the nodes' logs go to *logs*. Takes about ten seconds. Raises
    `UnknownModel`, `InvalidInput` if *profile* is of another network, and `Unavailable` if a node does not start.
    """
    folder = zoo.find(artifact_name)
    manifest, network = artifact.load_runner(folder)
    on_step("outcomes")
    table = measure_outcomes(network, manifest.cost, dataset)
    own_plan = Plan(manifest.cut, manifest.rule)
    exit_stages = tuple(stage for stage, number in enumerate(network.exit_of_stage) if number is not None)
    if profile is None:
        profile = await _profile(artifact_name, manifest, network, exit_stages, dataset, logs, on_step)
    if profile.exit_stages != exit_stages:
        raise InvalidInput(f"the profile is of a network with exits after {profile.exit_stages}, not {exit_stages}")
    return Measured(table, profile, own_plan)


def write_profile(path: Path, profile: ServingProfile) -> None:
    """Write *profile* as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(profile), indent=2) + "\n", encoding="utf-8")


def read_profile(path: Path) -> ServingProfile:
    """The profile in the JSON file at *path*; `DamagedData` if it holds none."""
    try:
        return _PROFILE.validate_json(path.read_bytes())
    except (ValidationError, InvalidInput) as error:
        raise DamagedData(f"{path} holds no profile: {error}") from None


@dataclass(frozen=True)
class _Nodes:
    """What real nodes showed: records of each kind of request, and the bytes that the link carried for all of them."""

    local: Records
    raw: Records
    split: Records
    link_bytes: dict[str, int]


async def _profile(
    artifact_name: str,
    manifest: Manifest,
    network: Runner,
    exit_stages: tuple[int, ...],
    dataset: Dataset,
    logs: Path,
    on_step: Callable[[str], None],
) -> ServingProfile:
    on_step("stages")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the nodes have
    try:
        alone = time_stages(network, dataset.images)
    finally:
        torch.set_num_threads(threads)
    sizes = tuple(_message_bytes(manifest, network, cut, shape) for cut, shape in enumerate(manifest.cut_shapes))
    on_step("nodes")
    nodes = await _ask_nodes(artifact_name, manifest, dataset, logs)
    held_ms, whole_ms = alone.until_ms[manifest.cut], alone.until_ms[-1]
    edge = alone.slower(float(nodes.local.edge_ms.mean() / held_ms))
    cloud = alone.slower(
        float(
            (nodes.raw.cloud_ms.sum() + nodes.split.cloud_ms.sum())
            / (len(nodes.raw) * whole_ms + len(nodes.split) * (whole_ms - held_ms))
        )
    )
    request_ms = float((nodes.local.latency_ms - nodes.local.edge_ms).mean())
    beside_ms = [part.latency_ms - part.edge_ms - part.cloud_ms - request_ms for part in (nodes.raw, nodes.split)]
    offloads = len(nodes.raw) + len(nodes.split)
    message_bytes = int(nodes.raw.uplink_bytes.sum() + nodes.split.uplink_bytes.sum())
    return ServingProfile(
        edge=edge,
        cloud=cloud,
        exit_stages=exit_stages,
        held=manifest.cut,
        request_ms=max(request_ms, 0.0),
        offload_ms=max(float(np.concatenate(beside_ms).mean()), 0.0),
        message_bytes=sizes,
        framing_bytes=max(round((nodes.link_bytes["bytes_up"] - message_bytes) / offloads), 0),
        reply_bytes=round(nodes.link_bytes["bytes_down"] / offloads),
    )


def _message_bytes(manifest: Manifest, network: Runner, cut: int, shape: tuple[int, ...]) -> int:
    """Size of the message that offloads one sample at *cut*."""
    tensor = np.zeros((1, *shape), np.float32 if cut else np.uint8)
    remembers = manifest.rule.remembers and network.exits_before(cut) > 0
    history = np.array([[0, 1]], dtype=np.int32) if remembers else None
    rule = manifest.rule if manifest.rule.remembers or not network.is_decided(cut) else None
    return resume_request(manifest.content_hash, cut, tensor, rule, history).ByteSize()


async def _ask_nodes(artifact_name: str, manifest: Manifest, dataset: Dataset, logs: Path) -> _Nodes:
    """Requests that all run the edge's whole half, that all go to the cloud as they are, and that go there from it."""
    never = ExitRule.never(len(manifest.rule.thresholds) + 1)
    plans = {
        "local": Plan(manifest.cut, never, local_only=True),
        "raw": Plan(0, never),
        "split": Plan(manifest.cut, never),
    }
    topology = Topology(
        artifact=artifact_name,
        edges=1,
        uplink_mbps=EASY_MBPS,
        downlink_mbps=EASY_MBPS,
        rtt_ms=0,
        engine=manifest.own_engine,
    )
    records: dict[str, Records] = {}
    async with LocalTopology.running(topology, logs) as running:
        targets = {0: f"127.0.0.1:{running.edges[0].port}"}

        async def send(plan: Plan, count: int) -> Records:
            scenario = Scenario(workload=Workload(rate_per_s=PACE_PER_S, requests=count))
            requests = requests_of(scenario, 0, len(dataset))
            data = (dataset.images, dataset.labels)
            return await send_requests(requests, targets, *data, plan, cloud=0, deadline_ms=10_000)

        for plan in plans.values():
            await send(plan, WARM_UP)
        await running.reset_links()
        for name, plan in plans.items():
            records[name] = await send(plan, REQUESTS)
        link_bytes = await running.links[0].ask("stats")
    strayed = sum(int((records[name].place != place).sum()) for name, place in PLACES_OF.items())
    if strayed:
        raise Unavailable(f"{strayed} of {3 * REQUESTS} requests were not answered where they should; see {logs}")
    return _Nodes(records["local"], records["raw"], records["split"], link_bytes)
