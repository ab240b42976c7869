"""What is asked of a model with exits: the original's logits, from the whole network and from its halves."""

import numpy as np
import torch
from torch import nn

from branchynet.exits.rules import ExitRule
from branchynet.network.normalisation import Normalisation
from branchynet.surgery.attach import attach

BATCHES = (1, 3)


def coarse_head(shape, classes):
    """Costs nothing to make, for tests in which no exit is taken."""
    width = int(np.prod(shape))
    return nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, width)), nn.AdaptiveAvgPool1d(classes), nn.Flatten())


def grey(channels):
    return Normalisation((0.5,) * channels, (0.25,) * channels)


def attached(model, after, shape, classes, head=coarse_head, **options):
    normalisation = grey(shape[0])
    return attach(model, after, classes, input_shape=shape, normalisation=normalisation, head=head, **options)


def check_split(model, network, cuts=None):
    """At each of *cuts* (by default all), edge half and cloud half give the bits of *model*; so does the whole."""
    stages, never = network.total_stages, ExitRule.never(network.exits)
    for batch in BATCHES:
        images = np.random.default_rng(batch).integers(0, 256, (batch, *network.input_shape), np.uint8)
        with torch.inference_mode():
            expected = model.eval()(network.normalisation(torch.from_numpy(images))).numpy()
        np.testing.assert_array_equal(network.resume(images, 0, stages, never).logits, expected)
        for cut in range(stages) if cuts is None else cuts:
            edge, cloud = network.part(0, cut), network.part(cut, stages)
            features = edge.resume(images, 0, cut, never).features
            # The wire knows rows of numbers, not how they lay in memory.
            received = np.frombuffer(np.ascontiguousarray(features).tobytes(), features.dtype).reshape(features.shape)
            logits = cloud.resume(received.copy(), cut, stages, never).logits
            np.testing.assert_array_equal(logits, expected, err_msg=f"cut {cut}, batch {batch}")
