"""One version of the network in a cloud: what runs a batch of feature maps, and what it may look like."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from branchynet.artifact.artifact import Artifact
from branchynet.codecs import Payload
from branchynet.errors import InvalidInput
from branchynet.exits.rules import ExitRule, History
from branchynet.network.runner import Progress, Runner
from branchynet.rpc.deployment import Deployable
from branchynet.serving.stage_timer import Prober
from branchynet.serving.validation import check_batch
from branchynet.serving.worker import Worker

__all__ = ["CloudVersion"]


class CloudVersion(Deployable):
    """Stages [first, n) of an artifact, which take up requests at any cut from *first* on."""

    def __init__(self, artifact: Artifact, network: Runner, max_batch: int) -> None:
        if network.last != network.total_stages:
            raise InvalidInput(f"a cloud half must reach the last stage, this one ends at {network.last}")
        super().__init__(artifact, artifact.manifest.served((network.first, network.last), max_batch))
        self.network = network
        self._shapes = artifact.manifest.cut_shapes
        self._prober: Prober | None = None

    @property
    def shapes(self) -> dict[int, tuple[int, ...]]:
        """Shape of one sample's tensor at each cut where it can resume."""
        return {cut: self._shapes[cut] for cut in range(self.network.first, self.network.total_stages)}

    def rule_at(self, cut: int, rule: ExitRule | None) -> ExitRule:
        """*rule*, or if None the artifact's own, and none with a memory where there is nothing left to decide.

        Raises `InvalidInput` for a cut where it cannot resume, or a rule that does not fit.
        """
        first, last = self.network.first, self.network.total_stages - 1
        if not first <= cut <= last:
            raise InvalidInput(f"cut is {cut}; this node can resume at {first} to {last}")
        own = ExitRule.never(self.network.exits) if self.network.is_decided(cut) else self.served.rule
        rule = rule or own
        rule.check_exits(self.network.exits, self.network.classes)
        return rule

    def check(self, cut: int, tensor: NDArray[np.generic], rule: ExitRule, history: History | None) -> None:
        """Raise `InvalidInput` or `TooLarge` unless *tensor* and *history* are what stages [*cut*, n) take."""
        dtype = np.dtype(np.uint8 if cut == 0 else np.float32)
        check_batch(tensor, dtype, self._shapes[cut], self.served.max_batch, f"tensor at cut {cut}")
        rule.check_history(history, len(tensor), self.network.classes, self.network.exits_before(cut))

    def run(self, cut: int, features: NDArray[np.generic], rule: ExitRule, history: History | None) -> Progress:
        """Stages [*cut*, n) on *features*, which have been checked."""
        return self.network.resume(features, cut, self.network.total_stages, rule, history)

    def decode_and_run(self, cut: int, payload: Payload, rule: ExitRule, history: History | None) -> Progress:
        """The same on what is in *payload*; raises as `check`."""
        codec = self.artifact.codec(payload.codec, cut)
        features = codec.decode(payload, self._shapes[cut], self.served.max_batch)
        self.check(cut, features, rule, history)
        return self.run(cut, features if features.flags.writeable else features.copy(), rule, history)

    def prober(self, worker: Worker) -> Prober:
        """What times these stages and codecs on *worker*; one for all who ask."""
        if self._prober is None:
            shape = self._shapes[self.network.first]
            self._prober = Prober(self.served, self.network, worker, self.artifact.codecs_at, shape)
        return self._prober
