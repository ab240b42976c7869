"""Predictions for a batch: the edge's own, joined with the cloud's, or marked where the cloud did not answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import BranchyNetError
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Progress
from branchynet.serving.prediction import Place, Prediction
from branchynet.serving.worker import Timed
from edge_node.uplink import CloudAnswers, OffloadFailed

__all__ = ["edge_answers", "fall_back", "join", "shares"]


def edge_answers(done: Timed[Progress], rule: ExitRule) -> list[Prediction]:
    """The edge's own answer to each sample: that of the last exit that scored it."""
    probabilities = rule.probabilities(done.value.exits, done.value.logits)
    edge_ms = done.queue_ms + done.compute_ms
    return [
        Prediction(int(row.argmax()), row, int(number), Place.EDGE, edge_ms, edge_queue_ms=done.queue_ms)
        for row, number in zip(probabilities, done.value.exits, strict=True)
    ]


def join(answers: list[Prediction], sent: NDArray[np.int64], cloud: CloudAnswers, rule: ExitRule) -> list[Prediction]:
    """*answers* with those at the positions *sent* replaced by the cloud's."""
    joined = list(answers)
    probabilities = rule.probabilities(cloud.exits, cloud.logits)
    uplink_bytes = shares(cloud.sent_bytes, len(sent))
    for row, position in enumerate(sent):
        joined[position] = replace(
            answers[position],
            label=int(probabilities[row].argmax()),
            probabilities=probabilities[row],
            exit=int(cloud.exits[row]),
            place=Place.CLOUD,
            network_ms=cloud.network_ms,
            cloud_ms=cloud.cloud_ms,
            uplink_bytes=uplink_bytes[row],
        )
    return joined


def fall_back(
    answers: list[Prediction], unanswered: NDArray[np.int64], error: BranchyNetError, waited_ms: float
) -> list[Prediction]:
    """*answers* with those at the positions *unanswered* marked: the cloud did not answer within *waited_ms*."""
    marked = list(answers)
    uplink_bytes = shares(error.sent_bytes if isinstance(error, OffloadFailed) else 0, len(unanswered))
    for share, position in zip(uplink_bytes, unanswered, strict=True):
        marked[position] = replace(
            answers[position],
            place=Place.FALLBACK,
            network_ms=waited_ms,
            uplink_bytes=share,
            fallback_reason=f"{error.grpc_status}: {error}",
        )
    return marked


def shares(total: int, parts: int) -> list[int]:
    """*total* bytes over *parts* samples as evenly as whole bytes go; they add up."""
    share, rest = divmod(total, parts)
    return [share + (part < rest) for part in range(parts)]
