"""What the cloud does with a batch of feature maps: decode it, run the rest. Knows no protobuf and no gRPC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.artifact.artifact import Artifact
from branchynet.codecs import Payload
from branchynet.errors import InvalidInput
from branchynet.exits.rules import ExitRule, History
from branchynet.network.runner import Progress, Runner
from branchynet.serving.stage_timer import Prober
from branchynet.serving.validation import check_batch, check_hash
from branchynet.serving.worker import Worker

__all__ = ["CloudNode", "Resumed"]


@dataclass(frozen=True, slots=True)
class Resumed:
    """Answers for a batch: the exit of each sample int64 [B], its logits float32 [B, C], and the time it took."""

    exits: NDArray[np.int64]
    logits: NDArray[np.float32]
    queue_ms: float
    compute_ms: float


class CloudNode:
    """Stages [first, n) of an artifact, run on one compute thread, *slowdown* times as slow as this machine is."""

    def __init__(self, artifact: Artifact, network: Runner, max_batch: int, slowdown: float = 1.0) -> None:
        if network.last != network.total_stages:
            raise InvalidInput(f"a cloud half must reach the last stage, this one ends at {network.last}")
        self.served = artifact.manifest.served((network.first, network.last), max_batch)
        self._network = network
        self._shapes = artifact.manifest.cut_shapes
        self._codec, self._codecs_at = artifact.codec, artifact.codecs_at
        self._worker = Worker("cloud-compute", slowdown)

    @property
    def shapes(self) -> dict[int, tuple[int, ...]]:
        """Shape of one sample's tensor at each cut where this node can resume."""
        return {cut: self._shapes[cut] for cut in range(self._network.first, self._network.total_stages)}

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
        check_hash(content_hash, self.served.content_hash)
        self._check_cut(cut)
        rule = rule or self._own_rule(cut)
        rule.check_exits(self._network.exits, self._network.classes)
        if isinstance(sent, Payload):
            # Decoding takes as long as a small layer, which the event loop should not wait for either.
            done = await self._worker.run(self._decode_and_run, cut, sent, rule, history)
        else:
            self._check(cut, sent, rule, history)
            features = sent.copy()  # the message's buffer is read-only and not aligned, which torch does not take
            done = await self._worker.run(self._run, cut, features, rule, history)
        return Resumed(done.value.exits, done.value.logits, done.queue_ms, done.compute_ms)

    def prober(self) -> Prober:
        """What times this node's stages and codecs between its requests."""
        shape = self._shapes[self._network.first]
        return Prober(self.served, self._network, self._worker, self._codecs_at, shape)

    def close(self) -> None:
        """End the compute thread after the call that runs."""
        self._worker.close()

    def _own_rule(self, cut: int) -> ExitRule:
        """The artifact's rule, and none with a memory where there is nothing left to decide."""
        return ExitRule.never(self._network.exits) if self._network.is_decided(cut) else self.served.rule

    def _decode_and_run(self, cut: int, payload: Payload, rule: ExitRule, history: History | None) -> Progress:
        codec = self._codec(payload.codec, cut)
        features = codec.decode(payload, self._shapes[cut], self.served.max_batch)
        self._check(cut, features, rule, history)
        return self._run(cut, features if features.flags.writeable else features.copy(), rule, history)

    def _run(self, cut: int, features: NDArray[np.generic], rule: ExitRule, history: History | None) -> Progress:
        return self._network.resume(features, cut, self._network.total_stages, rule, history)

    def _check(self, cut: int, tensor: NDArray[np.generic], rule: ExitRule, history: History | None) -> None:
        dtype = np.dtype(np.uint8 if cut == 0 else np.float32)
        check_batch(tensor, dtype, self._shapes[cut], self.served.max_batch, f"tensor at cut {cut}")
        rule.check_history(history, len(tensor), self._network.classes, self._network.exits_before(cut))

    def _check_cut(self, cut: int) -> None:
        first, last = self._network.first, self._network.total_stages - 1
        if not first <= cut <= last:
            raise InvalidInput(f"cut is {cut}; this node can resume at {first} to {last}")
