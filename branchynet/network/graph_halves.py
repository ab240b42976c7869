"""A bottleneck's encoder and decoder as ONNX graphs: what sends and receives by it without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from branchynet.codecs.bottleneck import BottleneckShape
from branchynet.network.onnx_runner import INPUT, open_session

__all__ = ["GraphHalves"]


class GraphHalves:
    """Encoder and decoder of one *shape* in ONNX Runtime; see `Halves`."""

    def __init__(self, shape: BottleneckShape, encoder: bytes, decoder: bytes) -> None:
        self._shape = shape
        self._encoder, self._decoder = open_session(encoder, "encoder"), open_session(decoder, "decoder")

    def levels(self, features: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See `Halves`."""
        codes = self._encoder.run(None, {INPUT: features[None]})[0]
        # Finite values may still overflow inside; whatever level that is, it is one.
        rounded = np.nan_to_num(np.rint(codes)).clip(0, self._shape.levels - 1)
        levels: NDArray[np.uint8] = rounded.astype(np.uint8).reshape(-1)
        return levels

    def features(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Halves`."""
        shaped = levels.astype(np.float32).reshape(1, *self._shape.code_shape)
        features: NDArray[np.float32] = self._decoder.run(None, {INPUT: shaped})[0][0]
        return features
