"""The profile of an edge and a cloud that run: their stages as they time them, and real requests through both.

Each node times its own stages and codecs (`branchynet.rpc.control`). Requests at an easy pace then tell how much
longer stages take between requests than one after the other, and what a request and an offload cost beside them. Codecs
are taken to slow down there as much as stages do, and what an edge does not hold to be as much slower there as what it
holds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.manifest import Manifest
from branchynet.data.datasets import Dataset
from branchynet.errors import ArtifactMismatch, InvalidInput, Unavailable
from branchynet.evaluation.codec_study import maps_at
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Runner, exit_stages_of
from branchynet.placement.plan import Plan
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile, StageTimes
from branchynet.rpc.control import ask_profile
from branchynet.rpc.message_sizes import codec_cost, message_bytes, reply_bytes
from branchynet.serving.address import Address
from branchynet.serving.stage_timer import CodecTimes, NodeProfile
from orchestrator.load.generator import send_interleaved
from orchestrator.load.schedules import RequestClass
from simulations.model.request_records import CLOUD, EDGE, Records

__all__ = [
    "NO_LINK",
    "Asked",
    "Effort",
    "Pair",
    "Profiled",
    "asked_of",
    "classes_to_ask",
    "compared",
    "probe",
    "profile_nodes",
]

AskLink = Callable[[str], Awaitable[dict[str, Any]]]
Average = Callable[[NDArray[np.float64]], float]

NO_LINK = Link(float("inf"))
# What gRPC and HTTP/2 add to a message in a connection that is not new, as the emulated link counts it.
FRAMING_BYTES = 60
# Where requests of each class are to be answered.
PLACES_OF = {"local": EDGE, "raw": CLOUD, "split": CLOUD}
WARM_UP = 6
# Of so many slowest and so many quickest requests nothing is learnt: they met something else. With the plain mean of 72
# requests a device was 2.3 to 12 times as slow from run to run.
TRIMMED = 0.1


@dataclass(frozen=True, slots=True)
class Pair:
    """The addresses (`host:port`) of an edge and its cloud, and the *link* between them as far as it is known.

    Raises `InvalidInput` for what is no address.
    """

    edge: str
    cloud: str
    link: Link = NO_LINK

    def __post_init__(self) -> None:
        for address in (self.edge, self.cloud):
            Address.parse(address)


@dataclass(frozen=True, slots=True)
class Effort:
    """What is timed: stages at *batches*, them and the *codecs* named *rounds* times, *requests* of each class."""

    batches: tuple[int, ...]
    rounds: int
    requests: int
    codecs: Sequence[str] = ()


@dataclass(frozen=True)
class Asked:
    """What requests showed: records of each class, and what one offload's *framing_bytes* and *reply_bytes* are."""

    local: Records
    raw: Records
    split: Records
    framing_bytes: int
    reply_bytes: int


@dataclass(frozen=True, eq=False)
class Profiled:
    """A *profile*, and how it came about: what the nodes timed themselves, and how many times as long that takes them
    between requests (*edge_factor*, *cloud_factor*), which *profile* has in it.
    """

    profile: ServingProfile
    edge: NodeProfile
    cloud: NodeProfile
    edge_factor: float
    cloud_factor: float


async def probe(
    pair: Pair, manifest: Manifest, images: NDArray[np.uint8], effort: Effort
) -> tuple[NodeProfile, NodeProfile]:
    """What the edge and the cloud of *pair* time themselves, one after the other, on *images*.

    Raises `ArtifactMismatch` if they serve another artifact than that of *manifest*, `InvalidInput` if the cloud does
    not hold every stage, and what nodes refuse.
    """
    found = []
    for target in (pair.edge, pair.cloud):
        node = await ask_profile(target, images, effort.batches, effort.rounds, effort.codecs)
        if node.content_hash != manifest.content_hash:
            raise ArtifactMismatch(
                f"the node at {target} serves {node.model} ({node.content_hash[:12]}); "
                f"--artifact is {manifest.name} ({manifest.content_hash[:12]})"
            )
        found.append(node)
    edge, cloud = found
    if cloud.stages != (0, manifest.stages) or edge.stages[0] != 0:
        raise InvalidInput(
            f"the edge at {pair.edge} holds stages {edge.stages} and the cloud at {pair.cloud} {cloud.stages} of "
            f"{manifest.stages}; a profile needs an edge from stage 0 on and a cloud with all"
        )
    return edge, cloud


def classes_to_ask(target: str, manifest: Manifest, held: int, rows: NDArray[np.int64]) -> list[RequestClass]:
    """Requests that stay and run all *held* stages of the edge, that go to the cloud as they are, and behind them."""
    never = ExitRule.never(len(manifest.rule.thresholds) + 1)
    plans = [Plan(held, never, edge_only=True), Plan(0, never), Plan(held, never)]
    return [RequestClass(target, plan, rows) for plan in (plans if held < manifest.stages else plans[:2])]


async def ask(
    target: str, manifest: Manifest, held: int, dataset: Dataset, count: int, ask_link: AskLink | None = None
) -> Asked:
    """*count* requests of each class to the edge at *target*; the link, if it can be asked, says what crossed it."""
    rows = np.random.default_rng(0).integers(len(dataset), size=count + WARM_UP)
    data = (dataset.images, dataset.labels)
    await send_interleaved(classes_to_ask(target, manifest, held, rows[:WARM_UP]), *data)
    if ask_link is not None:
        await ask_link("reset")
    records = await send_interleaved(classes_to_ask(target, manifest, held, rows[WARM_UP:]), *data)
    counted = None if ask_link is None else await ask_link("stats")
    return asked_of(records, manifest, counted)


def asked_of(records: Sequence[Records], manifest: Manifest, counted: dict[str, int] | None = None) -> Asked:
    """The *records* of `classes_to_ask`; *counted*: what crossed the link for them, a usual framing without.

    Raises `Unavailable` if one was not answered where it should.
    """
    local, raw, split = (*records, records[1])[:3]  # an edge that holds all has nothing behind it
    strayed = {name: int((part.place != PLACES_OF[name]).sum()) for name, part in zip(PLACES_OF, records, strict=False)}
    if any(strayed.values()):
        raise Unavailable(
            f"requests were not answered where they should: {strayed} of {len(local)}; does the edge reach its cloud?"
        )
    framing_bytes, answer_bytes = FRAMING_BYTES, FRAMING_BYTES + reply_bytes(len(manifest.labels))
    if counted is not None:
        offloads = sum(len(part) for part in records[1:])
        sent_bytes = sum(int(part.uplink_bytes.sum()) for part in records[1:])
        framing_bytes = max(round((counted["bytes_up"] - sent_bytes) / offloads), 0)
        answer_bytes = round(counted["bytes_down"] / offloads)
    return Asked(local, raw, split, framing_bytes, answer_bytes)


def middle_mean(values: NDArray[np.float64]) -> float:
    """The mean of *values* [N] without the largest and the smallest tenth."""
    out = int(TRIMMED * len(values))
    return float(np.sort(values)[out : len(values) - out].mean())


def compared(
    artifact: Artifact,
    network: Runner,
    nodes: tuple[NodeProfile, NodeProfile],
    asked: Asked,
    images: NDArray[np.uint8],
    link: Link = NO_LINK,
    average: Average = middle_mean,
) -> Profiled:
    """One profile of what the *nodes*, edge and cloud, timed alone, and what they took for what was *asked* of them.

    Sizes of codecs are means over *images*. What *link* takes is no part of the profile.
    """
    manifest = artifact.manifest
    (edge_node, cloud_node), held = nodes, nodes[0].stages[1]
    cloud, edge = _times(cloud_node), _times(edge_node)
    ratio = edge.until_ms[-1] / cloud.until_ms[held]
    edge = replace(edge, ms=(*edge.ms, *cloud.slower(ratio).ms[held:]))
    # One call after the other finds its caches warm, which a node between two requests does not.
    edge_factor = average(np.concatenate([asked.local.edge_ms, *_behind(asked, held, manifest)])) / edge.until_ms[held]
    raw_ms, split_ms = (average(part.cloud_ms) for part in (asked.raw, asked.split))
    behind_ms = cloud.until_ms[-1] - (cloud.until_ms[held] if held < manifest.stages else 0.0)
    cloud_factor = (raw_ms + split_ms) / (cloud.until_ms[-1] + behind_ms)
    request_ms = average(asked.local.latency_ms - asked.local.edge_ms)
    beside_ms = [
        part.latency_ms - part.edge_ms - part.cloud_ms - request_ms - _link_ms(link, part, asked)
        for part in (asked.raw, asked.split)
    ]
    profile = ServingProfile(
        edge=edge,
        cloud=cloud,
        exit_stages=exit_stages_of(network),
        held=held,
        request_ms=max(request_ms, 0.0),
        offload_ms=max(average(np.concatenate(beside_ms)), 0.0),
        message_bytes=tuple(
            message_bytes(manifest, network, cut, np.zeros((1, *shape), np.float32 if cut else np.uint8))
            for cut, shape in enumerate(manifest.cut_shapes)
        ),
        framing_bytes=asked.framing_bytes,
        reply_bytes=asked.reply_bytes,
        codecs=_codecs(artifact, network, images, nodes, ratio),
    )
    return Profiled(profile.slower(edge_factor, cloud_factor), edge_node, cloud_node, edge_factor, cloud_factor)


async def profile_nodes(
    pair: Pair,
    artifact: Artifact,
    network: Runner,
    dataset: Dataset,
    effort: Effort,
    *,
    ask_link: AskLink | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Profiled:
    """The profile of the nodes at *pair*, which serve *artifact*; *network* is all of its stages.

    *dataset*: at least as many images as the largest batch; labels do not matter. *ask_link*: gives the
    emulated link between them an order, if there is one. Raises what `probe` and `asked_of` raise.
    """
    images = dataset.images[: effort.batches[-1]]
    on_step("stages and codecs")
    nodes = await probe(pair, artifact.manifest, images, effort)
    on_step("requests")
    asked = await ask(pair.edge, artifact.manifest, nodes[0].stages[1], dataset, effort.requests, ask_link)
    return compared(artifact, network, nodes, asked, dataset.images, pair.link)


def _times(node: NodeProfile) -> StageTimes:
    return StageTimes(node.batches, tuple(tuple(spread.median for spread in row) for row in node.stage_ms))


def _behind(asked: Asked, held: int, manifest: Manifest) -> list[NDArray[np.float64]]:
    """What requests that go on behind the edge's half took there, if any do."""
    return [asked.split.edge_ms] if held < manifest.stages else []


def _link_ms(link: Link, records: Records, asked: Asked) -> NDArray[np.float64]:
    up_bytes = records.uplink_bytes + asked.framing_bytes
    return link.rtt_ms + 8e-3 * (up_bytes / link.uplink_mbps + asked.reply_bytes / link.downlink_mbps)


def _codecs(
    artifact: Artifact, network: Runner, images: NDArray[np.uint8], nodes: tuple[NodeProfile, NodeProfile], ratio: float
) -> tuple[CodecCost, ...]:
    """Mean sizes over *images*, and each codec encoded at the edge and decoded in the cloud."""
    at_edge, in_cloud = ({(timed.cut, timed.codec): timed for timed in node.codecs} for node in nodes)
    costs = []
    for cut in range(artifact.manifest.stages):
        names = [name for where, name in in_cloud if where == cut]
        if not names:
            continue
        maps = maps_at(network, images, cut)
        for codec in artifact.codecs_at(cut, names):
            here, there = at_edge.get((cut, codec.name)), in_cloud[cut, codec.name]
            size = float(np.mean([len(codec.encode(sample[None]).data) for sample in maps]))
            cost = CodecCost(cut, codec.name, size, _encode_ms(here, there, ratio), there.decode_ms.median)
            costs.append(codec_cost(artifact.manifest, network, cost))
    return tuple(costs)


def _encode_ms(here: CodecTimes | None, there: CodecTimes, ratio: float) -> float:
    return there.encode_ms.median * ratio if here is None else here.encode_ms.median
