"""What a simulation starts from, measured on this machine: the network's outcomes, its stages' times, its messages.

The stages and codecs are timed one by one in this process. Then real nodes answer requests at an easy pace over a link
that is never the bottleneck: what they take, compared with what their stages should have, tells how fast the stages run
there, and what a request and an offload cost beside them. Codecs are taken to slow down there as much as stages do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from branchynet import artifact
from branchynet.codecs import Codec, Payload
from branchynet.decisions.exits import ExitRule
from branchynet.decisions.plans import Plan
from branchynet.decisions.timing import CodecCost, ServingProfile, StageTimes
from branchynet.engine import Engine, Runner
from branchynet.errors import DamagedData, InvalidInput, Unavailable
from branchynet.manifest import Manifest
from branchynet.models import zoo
from branchynet.profile import time_rounds
from branchynet.training.codec_study import codecs_at, maps_at, times_us
from branchynet.training.datasets import Dataset
from branchynet.training.evaluation import measure_outcomes
from edge_node.node import Sendable
from edge_node.offload import resume_request
from orchestrator.live import send_requests
from orchestrator.local import LocalTopology, Topology
from simulations.records import CLOUD, EDGE, Records
from simulations.scenarios import Scenario, Workload
from simulations.simulator import Measured
from simulations.workload import requests_of

__all__ = ["Profiled", "check_profile", "codec_cost", "measure", "profile_here", "read_profile", "write_profile"]

# One gigabit each way and no delay: a message of a few kilobytes takes microseconds.
EASY_MBPS = 1_000.0
PACE_PER_S = 40.0
REQUESTS = 240
# For who waits for nothing but the profile.
FEW_REQUESTS = 72
BATCHES = (1, 4, 16)
ROUNDS = 30
CODEC_PASSES = 3
PLACES_OF = {"local": EDGE, "raw": CLOUD, "split": CLOUD}
STEPS = ("outcomes", "stages", "codecs", "nodes")

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
    if profile is None:
        profile = (await profile_here(artifact_name, dataset, logs, on_step=on_step)).profile
    check_profile(profile, network)
    return Measured(table, profile, own_plan)


def check_profile(profile: ServingProfile, network: Runner) -> None:
    """Raise `InvalidInput` unless *profile* is of a network with the stages and exits of *network*."""
    exit_stages = _exit_stages(network)
    if profile.exit_stages != exit_stages:
        raise InvalidInput(f"the profile is of a network with exits after {profile.exit_stages}, not {exit_stages}")


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
    """What real nodes showed: records of each kind of request, what the link carried for all, who holds how much."""

    local: Records
    raw: Records
    split: Records
    link_bytes: dict[str, int]
    rss_bytes: dict[str, int]


@dataclass(frozen=True, eq=False)
class Profiled:
    """A *profile*, and how it came about.

    *rounds_ms*: float64 [R, S, B], each stage for each batch size, timed R times in this process. *edge_factor*,
    *cloud_factor*: how many times as long stages took in the nodes, which *profile* has in it. *rss_bytes*: what the
    `edge` and the `cloud` process held in memory after their requests of one image each.
    """

    profile: ServingProfile
    rounds_ms: NDArray[np.float64]
    edge_factor: float
    cloud_factor: float
    rss_bytes: dict[str, int]


async def profile_here(
    artifact_name: str,
    dataset: Dataset,
    logs: Path,
    *,
    engine: Engine | None = None,
    codecs: Sequence[str] = (),
    batches: tuple[int, ...] = BATCHES,
    requests: int | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Profiled:
    """The profile of the artifact on this machine and *engine* (its own unless given), with the *codecs* named.

    *dataset*: at least as many images as the largest of *batches*; labels do not matter. *requests* of each kind are
    sent, 40 a second. Raises `UnknownModel`, `InvalidInput` for a name that is no codec, `Unavailable` if a node does
    not start.
    """
    manifest, network = artifact.load_runner(zoo.find(artifact_name), engine=engine)
    by_cut = [codecs_at(manifest, cut, codecs) for cut in range(manifest.stages)]
    on_step("stages")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the nodes have
    try:
        rounds_ms = time_rounds(network, dataset.images, batches, ROUNDS)
        on_step("codecs")
        costs = [_codec_costs(manifest, network, dataset, cut, named) for cut, named in enumerate(by_cut)]
    finally:
        torch.set_num_threads(threads)
    on_step("nodes")
    topology = Topology(
        artifact=artifact_name,
        edges=1,
        uplink_mbps=EASY_MBPS,
        downlink_mbps=EASY_MBPS,
        rtt_ms=0,
        engine=engine or manifest.own_engine,
    )
    nodes = await _ask_nodes(topology, manifest, dataset, logs, requests or REQUESTS)
    alone = StageTimes(batches, tuple(tuple(map(float, row)) for row in np.median(rounds_ms, axis=0)))
    return _compared(manifest, network, alone, sum(costs, ()), nodes, rounds_ms)


def _compared(
    manifest: Manifest,
    network: Runner,
    alone: StageTimes,
    codecs: tuple[CodecCost, ...],
    nodes: _Nodes,
    rounds_ms: NDArray[np.float64],
) -> Profiled:
    """The times of this process, *alone*, and what the *nodes* took, as one profile."""
    held_ms, whole_ms = alone.until_ms[manifest.cut], alone.until_ms[-1]
    edge_factor = float(nodes.local.edge_ms.mean() / held_ms)
    cloud_factor = float(
        (nodes.raw.cloud_ms.sum() + nodes.split.cloud_ms.sum())
        / (len(nodes.raw) * whole_ms + len(nodes.split) * (whole_ms - held_ms))
    )
    request_ms = float((nodes.local.latency_ms - nodes.local.edge_ms).mean())
    beside_ms = [part.latency_ms - part.edge_ms - part.cloud_ms - request_ms for part in (nodes.raw, nodes.split)]
    offloads = len(nodes.raw) + len(nodes.split)
    message_bytes = int(nodes.raw.uplink_bytes.sum() + nodes.split.uplink_bytes.sum())
    profile = ServingProfile(
        edge=alone,
        cloud=alone,
        exit_stages=_exit_stages(network),
        held=manifest.cut,
        request_ms=max(request_ms, 0.0),
        offload_ms=max(float(np.concatenate(beside_ms).mean()), 0.0),
        message_bytes=tuple(
            _message_bytes(manifest, network, cut, np.zeros((1, *shape), np.float32 if cut else np.uint8))
            for cut, shape in enumerate(manifest.cut_shapes)
        ),
        framing_bytes=max(round((nodes.link_bytes["bytes_up"] - message_bytes) / offloads), 0),
        reply_bytes=round(nodes.link_bytes["bytes_down"] / offloads),
        codecs=codecs,
    )
    return Profiled(profile.slower(edge_factor, cloud_factor), rounds_ms, edge_factor, cloud_factor, nodes.rss_bytes)


def _codec_costs(
    manifest: Manifest, network: Runner, dataset: Dataset, cut: int, codecs: Sequence[Codec]
) -> tuple[CodecCost, ...]:
    """Mean size and median times of one of the images through each of *codecs* at *cut*."""
    maps = maps_at(network, dataset.images, cut)
    times = times_us(codecs, maps, CODEC_PASSES)
    return tuple(
        codec_cost(
            manifest,
            network,
            CodecCost(
                cut,
                codec.name,
                float(np.mean([len(codec.encode(sample[None]).data) for sample in maps])),
                times[f"{codec.name}/encode"] / 1e3,
                times[f"{codec.name}/decode"] / 1e3,
            ),
        )
        for codec in codecs
    )


def codec_cost(manifest: Manifest, network: Runner, cost: CodecCost) -> CodecCost:
    """*cost*, whose `message_bytes` are those of the payload alone, with the other fields of the message added."""
    payload = Payload(cost.codec, 1, (1, *manifest.cut_shapes[cost.cut]), bytes(round(cost.message_bytes)))
    beside = _message_bytes(manifest, network, cost.cut, payload) - len(payload.data)
    return replace(cost, message_bytes=cost.message_bytes + beside)


def _exit_stages(network: Runner) -> tuple[int, ...]:
    return tuple(stage for stage, number in enumerate(network.exit_of_stage) if number is not None)


def _message_bytes(manifest: Manifest, network: Runner, cut: int, sent: Sendable) -> int:
    """Size of the message that offloads one sample, *sent*, at *cut*."""
    remembers = manifest.rule.remembers and network.exits_before(cut) > 0
    history = np.array([[0, 1]], dtype=np.int32) if remembers else None
    rule = manifest.rule if manifest.rule.remembers or not network.is_decided(cut) else None
    return resume_request(manifest.content_hash, cut, sent, rule, history).ByteSize()


async def _ask_nodes(topology: Topology, manifest: Manifest, dataset: Dataset, logs: Path, count: int) -> _Nodes:
    """*count* requests each that stay and run the edge's whole half, that go to the cloud as they are, or behind it."""
    never = ExitRule.never(len(manifest.rule.thresholds) + 1)
    plans = {
        "local": Plan(manifest.cut, never, local_only=True),
        "raw": Plan(0, never),
        "split": Plan(manifest.cut, never),
    }
    records: dict[str, Records] = {}
    async with LocalTopology.running(topology, logs) as running:
        targets = {0: f"127.0.0.1:{running.edges[0].port}"}

        async def send(plan: Plan, count: int) -> Records:
            scenario = Scenario(workload=Workload(rate_per_s=PACE_PER_S, requests=count))
            requests = requests_of(scenario, 0, len(dataset))
            data = (dataset.images, dataset.labels)
            return await send_requests(requests, targets, *data, plan, cloud=0, deadline_ms=10_000)

        for plan in plans.values():
            await send(plan, max(count // 6, 1))
        await running.reset_links()
        for name, plan in plans.items():
            records[name] = await send(plan, count)
        link_bytes = await running.links[0].ask("stats")
        parts = {"edge": running.edges[0], "cloud": running.cloud}
        rss_bytes = {name: psutil.Process(part.pid).memory_info().rss for name, part in parts.items()}
    strayed = sum(int((records[name].place != place).sum()) for name, place in PLACES_OF.items())
    if strayed:
        raise Unavailable(f"{strayed} of {3 * count} requests were not answered where they should; see {logs}")
    return _Nodes(records["local"], records["raw"], records["split"], link_bytes, rss_bytes)
