"""What the cloud does with a batch of feature maps: decode it, run the rest. Knows no protobuf and no gRPC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.codecs import Payload
from branchynet.exits.rules import ExitRule, History
from branchynet.rpc.deployment import Deployment
from branchynet.serving.prediction import ServedModel
from branchynet.serving.stage_timer import Prober
from branchynet.serving.versions import Versions
from branchynet.serving.worker import Worker
from cloud_node.version import CloudVersion

__all__ = ["CloudNode", "Resumed"]


@dataclass(frozen=True, slots=True)
class Resumed:
    """Answers for a batch: the exit of each sample int64 [B], its logits float32 [B, C], and the time it took."""

    exits: NDArray[np.int64]
    logits: NDArray[np.float32]
    queue_ms: float
    compute_ms: float


class CloudNode:
    """The *version* of a network that is served, and those to come, on one compute thread.

    Each request says by its content hash which of them it is for. Computing takes *slowdown* times as long as it takes
    this machine.
    """

    def __init__(self, version: CloudVersion, slowdown: float = 1.0) -> None:
        self.versions = Versions(version)
        # How others are loaded; None: they are not. Set by who opened this one, and knows where artifacts lie.
        self.deployment: Deployment[CloudVersion] | None = None
        self._worker = Worker("cloud-compute", slowdown)

    @property
    def served(self) -> ServedModel:
        """What is described to whoever asks."""
        return self.versions.current.served

    @property
    def shapes(self) -> dict[int, tuple[int, ...]]:
        """Shape of one sample's tensor at each cut where this node can resume."""
        return self.versions.current.shapes

    async def resume(
        self,
        content_hash: str,
        cut: int,
        sent: NDArray[np.generic] | Payload,
        rule: ExitRule | None,
        history: History | None = None,
    ) -> Resumed:
        """Run stages [*cut*, n) on what was *sent* [B, …]; *rule* is the artifact's own if None.

        *sent*: uint8 images at cut 0, float32 maps otherwise, or what a codec made of them. *history*: int32 [B, 2],
        see `Runner.resume`. Raises `ArtifactMismatch`, `InvalidInput` or `TooLarge` before any layer runs.
        """
        version = self.versions.of_hash(content_hash)
        with version.in_use():
            rule = version.rule_at(cut, rule)
            if isinstance(sent, Payload):
                # Decoding takes as long as a small layer, which the event loop should not wait for either.
                done = await self._worker.run(version.decode_and_run, cut, sent, rule, history)
            else:
                version.check(cut, sent, rule, history)
                features = sent.copy()  # the message's buffer is read-only and not aligned, which torch does not take
                done = await self._worker.run(version.run, cut, features, rule, history)
        return Resumed(done.value.exits, done.value.logits, done.queue_ms, done.compute_ms)

    async def warm_up(self, version: CloudVersion) -> None:
        """Run all stages of *version*, which is not served yet, so that buffers are there before the first request."""
        cut, shape = next(iter(version.shapes.items()))
        empty = np.zeros((1, *shape), np.uint8 if cut == 0 else np.float32)
        # Only a rule without memory knows what to do with a map that has no history.
        await self._worker.run(version.run, cut, empty, ExitRule.never(version.network.exits), None)

    def prober(self) -> Prober:
        """What times the stages and codecs of the version that is served, between its requests."""
        return self.versions.current.prober(self._worker)

    def close(self) -> None:
        """End the compute thread after the call that runs."""
        self._worker.close()
