"""Measured times and sizes of a network on an edge and a cloud: what planning and simulation reckon with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.placement.plan import plain_codec

__all__ = ["CodecCost", "ExitCosts", "Link", "ServingProfile", "StageTimes"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds of each stage, its exit and rule included, on one device.

    *batches*: B ascending batch sizes, the first one 1. *ms*: S rows, one a stage, of B times.
    """

    batches: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.batches or self.batches[0] != 1 or list(self.batches) != sorted(set(self.batches)):
            raise InvalidInput(f"batches are {self.batches}; they must ascend from 1")
        if not self.ms or any(len(row) != len(self.batches) or min(row) < 0 for row in self.ms):
            raise InvalidInput(f"ms must hold a row of {len(self.batches)} times, 0 or more, for each stage")

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.ms)

    @cached_property
    def until_ms(self) -> Floats:
        """Time of stages [0, x) for one sample: float64 [S + 1]."""
        return np.concatenate([[0.0], np.cumsum([row[0] for row in self.ms])])

    def stage_ms(self, stage: int, batch: int) -> float:
        """Time of *stage* for a batch of *batch* samples, linear between the measured sizes and beyond the last."""
        batches, times = self.batches, self.ms[stage]
        if batch > batches[-1] and len(batches) > 1:
            slope = (times[-1] - times[-2]) / (batches[-1] - batches[-2])
            return times[-1] + max(slope, 0.0) * (batch - batches[-1])
        if batch > batches[-1]:  # one size is known: no gain from batching is claimed
            return times[0] * batch
        return float(np.interp(batch, batches, times))

    def slower(self, factor: float) -> StageTimes:
        """A device that takes *factor* times as long."""
        return replace(self, ms=tuple(tuple(factor * ms for ms in row) for row in self.ms))


@dataclass(frozen=True, slots=True)
class Link:
    """The way between an edge and its cloud; half of *rtt_ms* each way.

    Raises `InvalidInput` for a rate that is not above 0, or a round trip that is not a number of 0 or more.
    """

    uplink_mbps: float
    downlink_mbps: float = math.inf
    rtt_ms: float = 0.0

    def __post_init__(self) -> None:
        if not (self.uplink_mbps > 0 and self.downlink_mbps > 0 and 0 <= self.rtt_ms < math.inf):
            raise InvalidInput(
                f"uplink {self.uplink_mbps} Mbit/s, downlink {self.downlink_mbps} Mbit/s, round trip {self.rtt_ms} ms: "
                "the rates must be above 0 and the round trip 0 or more"
            )


@dataclass(frozen=True, slots=True)
class CodecCost:
    """What one sample costs with *codec* at *cut*: its message, and the two devices' time for coding it.

    Where sizes differ by sample these are means, and plans are judged as if every rule sent the same samples.
    Raises `InvalidInput` for a message without a size or a time below 0.
    """

    cut: int
    codec: str
    message_bytes: float
    encode_ms: float
    decode_ms: float

    def __post_init__(self) -> None:
        if not (
            0 < self.message_bytes < math.inf and 0 <= self.encode_ms < math.inf and 0 <= self.decode_ms < math.inf
        ):
            raise InvalidInput(
                f"{self}: a message has a size above 0, and coding takes a finite number of milliseconds, 0 or more"
            )


@dataclass(frozen=True, slots=True)
class ExitCosts:
    """What a sample takes that leaves at each exit, with nobody else in its way: float64 [E] each.

    *busy_ms*: the edge is at work on it. *waiting_ms*: the edge waits for link and cloud. *cloud_ms*: the cloud is at
    work on it. *uplink_bytes*: what crosses the uplink, framing included. None falls from one exit to the next.
    """

    busy_ms: Floats
    waiting_ms: Floats
    cloud_ms: Floats
    uplink_bytes: Floats


@dataclass(frozen=True)
class ServingProfile:
    """A network served by an edge and a cloud.

    *exit_stages*: the stage that each exit follows. *held*: the edge has stages [0, held). *request_ms*: a request's
    time at the edge outside its stages (the client's call, checks, the reply). *offload_ms*: an offload's time outside
    the link and the cloud's stages (both ends' work on the message). *message_bytes*: size of one sample's message at
    each cut 0 … S - 1, coded plainly. *framing_bytes*: what gRPC and HTTP/2 add to it on the link. *reply_bytes*: what
    comes back over the link, framing included. *codecs*: what else a message may be coded with, at which cut.
    """

    edge: StageTimes
    cloud: StageTimes
    exit_stages: tuple[int, ...]
    held: int
    request_ms: float
    offload_ms: float
    message_bytes: tuple[int, ...]
    framing_bytes: int
    reply_bytes: int
    codecs: tuple[CodecCost, ...] = ()

    def __post_init__(self) -> None:
        stages = self.edge.stages
        if self.cloud.stages != stages or self.exit_stages[-1] != stages - 1 or len(self.message_bytes) != stages:
            raise InvalidInput(
                f"the edge has {stages} stages; the cloud {self.cloud.stages}, the last exit follows stage "
                f"{self.exit_stages[-1]}, and {len(self.message_bytes)} message sizes are given"
            )
        if min(self.request_ms, self.offload_ms, self.framing_bytes, self.reply_bytes) < 0:
            raise InvalidInput("times and sizes must be 0 or more")
        if min(self.message_bytes) <= 0:
            raise InvalidInput(f"message_bytes are {self.message_bytes}; every message has a size above 0")
        named = [(cost.cut, cost.codec) for cost in self.codecs]
        if len({*named, *self._plain}) < len(named) + stages or not {cut for cut, _ in named} <= set(range(stages)):
            raise InvalidInput(f"codecs are {named}; each must be for a cut of 0 to {stages - 1}, once, and not plain")

    def slower(self, edge: float = 1.0, cloud: float = 1.0) -> ServingProfile:
        """Devices that take *edge* and *cloud* times as long for stages and coding; `InvalidInput` unless above 0.

        What a request and an offload take beside that stays, as it does in simulations.
        """
        if not (0 < edge < math.inf and 0 < cloud < math.inf):
            raise InvalidInput(f"the edge is {edge} and the cloud {cloud} times as slow; both must be above 0")
        codecs = tuple(
            replace(cost, encode_ms=edge * cost.encode_ms, decode_ms=cloud * cost.decode_ms) for cost in self.codecs
        )
        return replace(self, edge=self.edge.slower(edge), cloud=self.cloud.slower(cloud), codecs=codecs)

    def ms_by_exit(self, cut: int, uplink_mbps: float, rtt_ms: float) -> Floats:
        """Time of a sample that leaves at each exit, plainly coded, with nobody else in its way: float64 [E].

        Who passes *cut* goes over an uplink of *uplink_mbps* with a round trip of *rtt_ms*; behind the last stage
        nobody does. The reply is small and its own time on the link is left out. Raises `InvalidInput` as
        `costs_by_exit` and `Link` do.
        """
        costs = self.costs_by_exit(cut, plain_codec(cut), Link(uplink_mbps, rtt_ms=rtt_ms))
        return costs.busy_ms + costs.waiting_ms

    def costs_by_exit(
        self, cut: int, codec: str, link: Link, *, edge_only: bool = False, cloud_queue_ms: float = 0.0
    ) -> ExitCosts:
        """What a sample takes that leaves at each exit, if the edge offloads with *codec* at *cut* over *link*.

        An offload waits *cloud_queue_ms* for a worker of the cloud. Its time outside link and stages, `offload_ms`, is
        not known by device; all of it counts as the edge's. With *edge_only*, or behind the last stage, nothing is
        sent. Raises `InvalidInput` for a cut or a codec that there is not, or a queue below 0.
        """
        stages = self.edge.stages
        if not 0 <= cut <= stages:
            raise InvalidInput(f"cut is {cut}; the cut must be 0 to {stages}")
        if not 0 <= cloud_queue_ms < math.inf:
            raise InvalidInput(f"cloud_queue_ms is {cloud_queue_ms}; it must be a number of 0 or more")
        ends = np.array(self.exit_stages) + 1
        here = max(self.held, cut) if edge_only else cut
        busy_ms = self.request_ms + self.edge.until_ms[np.minimum(ends, here)]
        offloaded = (ends > cut) & (not edge_only)
        if not offloaded.any():
            nothing = np.zeros(len(ends))
            return ExitCosts(busy_ms, nothing, nothing, nothing)
        cost = self.cost_of(cut, codec)
        sent_bytes = cost.message_bytes + self.framing_bytes
        link_ms = link.rtt_ms + 8e-3 * (sent_bytes / link.uplink_mbps + self.reply_bytes / link.downlink_mbps)
        cloud_ms = np.where(offloaded, cost.decode_ms + self.cloud.until_ms[ends] - self.cloud.until_ms[cut], 0.0)
        return ExitCosts(
            busy_ms=busy_ms + np.where(offloaded, self.offload_ms + cost.encode_ms, 0.0),
            waiting_ms=np.where(offloaded, link_ms + cloud_queue_ms, 0.0) + cloud_ms,
            cloud_ms=cloud_ms,
            uplink_bytes=np.where(offloaded, float(sent_bytes), 0.0),
        )

    def cost_of(self, cut: int, codec: str) -> CodecCost:
        """What coding one sample costs with *codec* at *cut*, nothing if it goes plainly; `InvalidInput` if unknown."""
        if codec == plain_codec(cut):
            return CodecCost(cut, codec, self.message_bytes[cut], 0.0, 0.0)
        known = {cost.codec: cost for cost in self.codecs if cost.cut == cut}
        if codec not in known:
            raise InvalidInput(f"no codec {codec!r} was measured at cut {cut}; {[plain_codec(cut), *known]} are known")
        return known[codec]

    @property
    def _plain(self) -> list[tuple[int, str]]:
        return [(cut, plain_codec(cut)) for cut in range(self.edge.stages)]
