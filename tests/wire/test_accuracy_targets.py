"""An accuracy target by each protocol: the answers of its operating point, and refusals that say what there is."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from running_nodes import SHIPPED, Split, in_process
from triton_calls import aio_client, infer, refused
from tritonclient.utils import InferenceServerException

from branchynet import Client
from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.errors import InvalidInput
from branchynet.exits.operating_points import point_for
from branchynet.exits.rules import ExitRule
from branchynet.serving.prediction import Policy

ARTIFACT = Artifact.open(SHIPPED)
MANIFEST, POINTS = ARTIFACT.manifest, ARTIFACT.operating_points
TARGETS = (0.0, 0.895, 0.9, POINTS[-1].accuracy)
BATCH = 200


def exits_at(sample: Dataset, target: float) -> list[int]:
    """Where the whole network lets the sample's images leave under the point for *target*."""
    rule = MANIFEST.rule.with_thresholds(point_for(POINTS, target).thresholds)
    return in_process(sample.images[:BATCH], rule=rule).exits.tolist()


def test_the_targets_above_ask_for_different_exits(sample: Dataset) -> None:
    assert len({tuple(exits_at(sample, target)) for target in TARGETS}) == len(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
async def test_a_target_gives_its_points_answers_by_either_client(split: Split, sample: Dataset, target: float) -> None:
    images, wanted = sample.images[:BATCH], exits_at(sample, target)
    predictions = await split.client.classify(images, accuracy_target=target)
    assert [answer.exit for answer in predictions] == wanted
    with Client(split.edge.target) as client:
        again = await asyncio.to_thread(client.classify, images, accuracy_target=target)
        one = await asyncio.to_thread(client.classify_one, images[0], accuracy_target=target)
    assert [answer.exit for answer in again] == wanted
    assert one.exit == wanted[0]


async def test_a_target_is_a_parameter_of_the_open_inference_protocol(split: Split, sample: Dataset) -> None:
    async with aio_client(split.edge.target) as client:
        for target in (*TARGETS, 0):
            answers = await infer(client, sample.images[:BATCH], parameters={"accuracy_target": target})
            np.testing.assert_array_equal(answers.as_numpy("exit"), exits_at(sample, target))
        for parameters, words in (
            ({"accuracy_target": 0.999}, ("0.999", str(POINTS[-1].accuracy))),
            ({"accuracy_target": 90}, ("90", "0 to 1")),
            ({"accuracy_target": "high"}, ("'high'", "a double")),
            ({"accuracy_target": 0.9, "threshold": 0.5}, ("one of them",)),
        ):
            with pytest.raises(InferenceServerException) as caught:
                await infer(client, sample.images[:2], parameters=parameters)
            status, message = refused(caught.value)
            assert status == "INVALID_ARGUMENT"
            assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"accuracy_target": 0.999}, rf"0\.999; the best there is .* {POINTS[-1].accuracy}"),
        ({"accuracy_target": -1.0}, "0 to 1"),
        ({"accuracy_target": 0.9, "rule": ExitRule.never(2)}, "one of them"),
        ({"accuracy_target": 0.9, "policy": Policy.EDGE_ONLY}, "edge-only"),
    ],
)
async def test_what_no_point_can_do_is_refused(split: Split, sample: Dataset, options: Any, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        await split.client.classify(sample.images[:2], **options)
    assert len(await split.client.classify(sample.images[:2])) == 2
