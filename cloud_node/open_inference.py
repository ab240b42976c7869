"""What the cloud offers under the Open Inference Protocol: the whole network, or the rest of it. Knows no protobuf."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.rpc.open_inference.values import (
    INTEGER,
    RULE_PARAMETERS,
    Answers,
    Inference,
    Kinds,
    Parameter,
    TensorSpec,
    image_spec,
    rule_from_parameters,
)
from branchynet.serving.prediction import Place, ServedModel
from cloud_node.node import CloudNode

__all__ = ["CloudModel"]


class CloudModel:
    """A `CloudNode` as a `branchynet.rpc.open_inference.values.Model`."""

    def __init__(self, node: CloudNode) -> None:
        self._node = node
        self.server = "branchynet-cloud"
        self.parameters: Mapping[str, Kinds] = {**RULE_PARAMETERS, "cut": INTEGER}

    @property
    def served(self) -> ServedModel:
        """What the node serves now; the version changes."""
        return self._node.served

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Images, feature maps, or both, as the cuts of the served network have it."""
        shapes = self._node.shapes
        deeper = [shape for cut, shape in shapes.items() if cut > 0]
        images = (image_spec(self.served),) if 0 in shapes else ()
        return (*images, TensorSpec("features", "FP32", (-1, *_common(deeper)))) if deeper else images

    @property
    def settings(self) -> Mapping[str, str]:
        """The shapes by their cuts."""
        return {"cut_shapes": json.dumps(self._node.shapes)}

    async def infer(self, inference: Inference) -> Answers:
        """The answers to a batch of images or feature maps; raises `InvalidInput` or `TooLarge`."""
        cut, served = _cut(inference.name, inference.parameters), self.served
        rule = rule_from_parameters(inference.parameters, served.rule) or served.rule
        resumed = await self._node.resume(
            served.content_hash,
            cut,
            self._of_cut(inference.tensor, cut),
            rule,
        )
        probabilities = rule.probabilities(resumed.exits, resumed.logits)
        return Answers(
            labels=probabilities.argmax(axis=1).astype(np.int64),
            probabilities=probabilities,
            exits=resumed.exits.astype(np.int32),
            places=np.full(len(probabilities), Place.CLOUD.value),
            parameters={"cloud_ms": resumed.queue_ms + resumed.compute_ms},
            queue_ms=resumed.queue_ms,
        )

    def _of_cut(self, tensor: NDArray[np.generic], cut: int) -> NDArray[np.generic]:
        """*tensor* as the network takes it at *cut*, if it was sent flat; see `_common`."""
        shape = self._node.shapes.get(cut, ())
        flat = tensor.ndim == 2 and tensor.shape[1] == math.prod(shape)
        return tensor.reshape(len(tensor), *shape) if flat else tensor


def _cut(name: str, parameters: Mapping[str, Parameter]) -> int:
    """Where the network goes on: at 0 for images; for features the caller has to say."""
    cut = parameters.get("cut")
    if name == "image":
        if cut not in (None, 0):
            raise InvalidInput(f"cut is {cut} and the input is 'image'; an image goes in at cut 0")
        return 0
    if cut is None:
        raise InvalidInput("input 'features' came without parameter 'cut'; only the sender knows where it was taken")
    return int(cut)


def _common(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The sides that all of *shapes* have in common, -1 where they differ; flat if not even their number is the same.

    The protocol has one rank for an input, and a network cut at places of different rank takes its features flat.
    """
    if len({len(shape) for shape in shapes}) > 1:
        return (-1,)
    return tuple(sides[0] if len(set(sides)) == 1 else -1 for sides in zip(*shapes, strict=True))
