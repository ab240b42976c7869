"""What a node offers and what comes out: one prediction for each image, saying who answered and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from branchynet.data.preprocessing import Preprocessing
from branchynet.exits.rules import ExitRule

__all__ = ["Place", "Policy", "Prediction", "ServedModel"]


class Policy(StrEnum):
    """Where a request may be worked on."""

    SPLIT = "split"
    EDGE_ONLY = "edge-only"
    CLOUD_ONLY = "cloud-only"


class Place(StrEnum):
    """Who answered. `FALLBACK` is the edge, because the cloud could not answer in time."""

    EDGE = "edge"
    CLOUD = "cloud"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one image.

    *label*: class number. *probabilities*: float32 [C]. *exit*: number of the exit that answered, counted over the
    whole network. *edge_ms*, *network_ms*, *cloud_ms*: the batch's time in the edge's stages, on the network and in
    the cloud (queueing included); the last two are 0 for a sample that never left the edge, and a fallback's wait in
    vain counts as network time. *uplink_bytes*: this sample's share of the message to the cloud, answered or not.
    *fallback_reason*: why the cloud did not answer. *edge_queue_ms*: the part of *edge_ms* spent waiting for the
    edge's compute thread; only the edge itself knows it, a client sees 0.
    """

    label: int
    probabilities: NDArray[np.float32]
    exit: int
    place: Place
    edge_ms: float
    network_ms: float = 0.0
    cloud_ms: float = 0.0
    uplink_bytes: int = 0
    fallback_reason: str = ""
    edge_queue_ms: float = 0.0

    @property
    def probability(self) -> float:
        """Probability of *label*."""
        return float(self.probabilities[self.label])


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a node serves: its artifact, the *stages* [first, last) it holds, and what it takes.

    *input_shape*: channels, height, width of one image. *max_batch*: most images in one request. *preprocessing*: how
    a client brings image files to that shape.
    """

    model: str
    content_hash: str
    stages: tuple[int, int]
    total_stages: int
    input_shape: tuple[int, ...]
    labels: tuple[str, ...]
    rule: ExitRule
    max_batch: int
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
