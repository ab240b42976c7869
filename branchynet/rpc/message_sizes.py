"""The sizes of messages, reckoned without sending one: what a profile must know of the wire."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from branchynet.artifact.manifest import Manifest
from branchynet.codecs import Payload
from branchynet.codecs.payload import Sendable
from branchynet.network.runner import Runner
from branchynet.placement.serving_profile import CodecCost
from branchynet.rpc import messages
from branchynet.rpc.messages import resume_request
from protos import split_inference_pb2 as pb

__all__ = ["codec_cost", "message_bytes", "reply_bytes"]


def codec_cost(manifest: Manifest, network: Runner, cost: CodecCost) -> CodecCost:
    """*cost*, whose `message_bytes` are those of the payload only, with the other fields of the message added."""
    payload = Payload(cost.codec, 1, (1, *manifest.cut_shapes[cost.cut]), bytes(round(cost.message_bytes)))
    beside = message_bytes(manifest, network, cost.cut, payload) - len(payload.data)
    return replace(cost, message_bytes=cost.message_bytes + beside)


def reply_bytes(classes: int) -> int:
    """Size of the message that answers one sample."""
    logits = messages.tensor_from_array(np.zeros((1, classes), np.float32))
    return pb.ResumeReply(exits=[1], logits=logits, queue_ms=1.0, compute_ms=1.0).ByteSize()


def message_bytes(manifest: Manifest, network: Runner, cut: int, sent: Sendable) -> int:
    """Size of the message that offloads one sample, *sent*, at *cut*."""
    remembers = manifest.rule.remembers and network.exits_before(cut) > 0
    history = np.array([[0, 1]], dtype=np.int32) if remembers else None
    rule = manifest.rule if manifest.rule.remembers or not network.is_decided(cut) else None
    return resume_request(manifest.content_hash, cut, sent, rule, history).ByteSize()
