"""Measured times and sizes of a network on an edge and a cloud: what planning and simulation reckon with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput

__all__ = ["ServingProfile", "StageTimes"]


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
    def until_ms(self) -> NDArray[np.float64]:
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


@dataclass(frozen=True)
class ServingProfile:
    """A network served by an edge and a cloud.

    *exit_stages*: the stage that each exit follows. *held*: the edge has stages [0, held). *request_ms*: a request's
    time at the edge outside its stages (the client's call, checks, the reply). *offload_ms*: an offload's time outside
    the link and the cloud's stages (both ends' work on the message). *message_bytes*: size of one sample's message at
    each cut 0 … S - 1. *framing_bytes*: what gRPC and HTTP/2 add to it on the link. *reply_bytes*: what comes back
    over the link, framing included.
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

    def ms_by_exit(self, cut: int, uplink_mbps: float, rtt_ms: float) -> NDArray[np.float64]:
        """Time of a sample that leaves at each exit, with nobody else in its way: float64 [E].

        Who passes *cut* goes over an uplink of *uplink_mbps* with a round trip of *rtt_ms*; behind the last stage
        nobody does. The reply is small and its own time on the link is left out. Raises `InvalidInput` for a cut that
        there is not, an uplink without a rate, or a round trip below 0.
        """
        stages = self.edge.stages
        if not 0 <= cut <= stages or not uplink_mbps > 0 or not rtt_ms >= 0:
            raise InvalidInput(
                f"cut {cut}, uplink {uplink_mbps} Mbit/s, round trip {rtt_ms} ms: the cut must be 0 to {stages}, "
                "the rate above 0 and the round trip 0 or more"
            )
        ends = np.array(self.exit_stages) + 1
        times = self.request_ms + self.edge.until_ms[np.minimum(ends, cut)]
        if cut < stages:
            link_ms = rtt_ms + 8 * (self.message_bytes[cut] + self.framing_bytes) / (1e3 * uplink_mbps)
            beyond_ms = self.offload_ms + link_ms + self.cloud.until_ms[ends] - self.cloud.until_ms[cut]
            times = times + np.where(ends > cut, beyond_ms, 0.0)
        return np.asarray(times)
