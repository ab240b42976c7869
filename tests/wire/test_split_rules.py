"""Rules with a memory, with gates and with temperatures, between an edge and a cloud that speak gRPC."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from running_nodes import CLEAR, serving_cloud, serving_edge, serving_split

from branchynet.artifact.artifact import Artifact
from branchynet.errors import InvalidInput
from branchynet.evaluation.fit import fit_rule
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.network.stages import BranchyNet
from branchynet.rpc.channel import error_from_rpc, open_channel
from branchynet.rpc.messages import resume_request, rule_from_message
from branchynet.serving.prediction import Place, Policy
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

NAME = "alexnet-cifar10"
PATIENT = ExitRule(Criterion.PATIENCE, (1, 1))


@pytest.fixture(scope="module")
def network() -> BranchyNet:
    """Three exits behind three stages."""
    return Artifact.open(NAME).network()


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """Coloured tiles, on whose labels the exits sometimes agree."""
    tiles = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 4), dtype=np.uint8)
    return tiles.repeat(8, axis=2).repeat(8, axis=3)


def some_rules(network: BranchyNet, pixels: NDArray[np.uint8]) -> list[ExitRule]:
    """A rule of each new kind under which some leave at every exit that the kind can use."""
    with torch.inference_mode():
        logits = torch.stack(network(network.normalisation(torch.from_numpy(pixels)))).numpy()
    labels = logits[np.arange(len(pixels)) % 3, np.arange(len(pixels))].argmax(axis=1)
    table = OutcomeTable(logits, labels, np.ones(network.exits))
    gated = fit_rule(table, Criterion.GATE, tempered=True)
    tempered = ExitRule(Criterion.MARGIN, (0.5, 0.5), (0.5, 2.0, 3.0))
    rules = [PATIENT]
    for rule in (gated, tempered):
        first, second, _ = table.scores(rule)
        rules.append(rule.with_thresholds((float(np.quantile(first, 0.8)), float(np.median(second)))))
    return rules


@pytest.mark.parametrize("cut", [1, 2])
async def test_edge_and_cloud_answer_like_the_whole_network(
    network: BranchyNet, pixels: NDArray[np.uint8], cut: int
) -> None:
    async with serving_split(CLEAR, NAME, cut=cut) as split:
        for rule in some_rules(network, pixels):
            expected = network.resume(pixels, 0, 3, rule)
            assert len(set(expected.exits.tolist())) == (2 if rule is PATIENT else 3)
            for policy in (Policy.SPLIT, Policy.CLOUD_ONLY):
                answers = await split.client.classify(pixels, rule=rule, policy=policy)
                assert [answer.exit for answer in answers] == expected.exits.tolist()
                assert [answer.label for answer in answers] == expected.logits.argmax(axis=1).tolist()
                probabilities = np.stack([answer.probabilities for answer in answers])
                np.testing.assert_array_equal(probabilities, rule.probabilities(expected.exits, expected.logits))
                assert Place.CLOUD in {answer.place for answer in answers}
                assert Place.FALLBACK not in {answer.place for answer in answers}


async def test_an_artifacts_own_rule_reaches_its_clients_and_serves_their_requests(
    network: BranchyNet, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    for number, rule in enumerate(some_rules(network, pixels)):
        artifact = Artifact.open(NAME)
        folder = tmp_path / str(number)
        artifact.with_rule(rule, {}).save(folder)
        async with serving_edge("", folder, cut=3) as edge:
            assert (await edge.client.describe()).rule == rule
            answers = await edge.client.classify(pixels)
        expected = network.resume(pixels, 0, 3, rule)
        assert [answer.exit for answer in answers] == expected.exits.tolist()


@pytest.mark.parametrize(
    ("cut", "rule", "history", "words"),
    [
        (1, PATIENT, None, "'patience' needs the history of the 1 exits passed"),
        (1, PATIENT, pb.History(labels=[0], runs=[1]), r"shape is \(1, 2\); it must be \(2, 2\)"),
        (1, PATIENT, pb.History(labels=[0, 0], runs=[1]), "2 labels came with 1 runs"),
        (1, PATIENT, pb.History(labels=[0, 10], runs=[1, 1]), r"sample 1 is \[10, 1\]"),
        (1, PATIENT, pb.History(labels=[0, 0], runs=[2, 1]), "run of 1 to 1"),
        (1, PATIENT, pb.History(labels=[2**32 - 1, 0], runs=[1, 1]), "holds 4294967295"),
        (1, ExitRule.never(3), pb.History(labels=[0, 0], runs=[1, 1]), "'entropy' after 1 exits needs none"),
    ],
)
async def test_a_history_that_does_not_fit_is_refused(
    network: BranchyNet, cut: int, rule: ExitRule, history: pb.History | None, words: str
) -> None:
    manifest = Artifact.open(NAME).manifest
    images = np.zeros((2, *network.input_shape), dtype=np.uint8)
    features = network.resume(images, 0, cut, ExitRule.never(3)).features
    request = resume_request(manifest.content_hash, cut, features, rule)
    if history is not None:
        request.history.CopyFrom(history)
    async with serving_cloud(NAME) as cloud, open_channel(cloud.target, 2**24) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await pb_grpc.CloudStub(channel).Resume(request, timeout=20)  # type: ignore[no-untyped-call]
    error = error_from_rpc(failed.value)
    assert isinstance(error, InvalidInput)
    with pytest.raises(InvalidInput, match=words):
        raise error


async def test_gates_for_another_number_of_classes_are_refused(pixels: NDArray[np.uint8]) -> None:
    message = pb.ExitRule(criterion="gate", thresholds=[0.5, 0.5], gates=[pb.Gate(weights=[1.0]), pb.Gate()])
    async with serving_edge("", NAME) as edge, open_channel(edge.target, 2**24) as channel:
        with pytest.raises(InvalidInput, match="gate of exit 0 has 1 weights; for 10 classes there must be 13"):
            await edge.client.classify(pixels[:1], rule=rule_from_message(message))
        stub = pb_grpc.EdgeStub(channel)  # type: ignore[no-untyped-call]
        assert (await stub.Describe(pb.DescribeRequest(), timeout=20)).max_batch == 256, "it still serves"
