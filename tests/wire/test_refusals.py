"""What a node refuses: with which status, naming which value, and without troubling anybody else."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from running_nodes import CLEAR, SHIPPED, serving_cloud, serving_edge, streaming

from branchynet.artifact.artifact import Artifact
from branchynet.codecs import named_codec
from branchynet.data.datasets import Dataset
from branchynet.errors import ArtifactMismatch, BranchyNetError, InvalidInput, UnknownModel
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.rpc import messages
from branchynet.rpc.channel import error_from_rpc, open_channel
from branchynet.serving.prediction import Policy, Prediction
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc
from simulations.link.proxy import LinkProxy

MAX_BATCH = 8
Change = Callable[[Any], None]


@dataclass(frozen=True)
class Bad:
    """How a good request is spoilt, and what the refusal must say."""

    change: Change
    status: str
    words: tuple[str, ...]


def tensor(array: np.ndarray[Any, Any]) -> pb.Tensor:
    return messages.tensor_from_array(array)


def put(field: str, value: Any) -> Change:
    def change(request: Any) -> None:
        getattr(request, field).CopyFrom(value)

    return change


def assign(path: str, value: Any) -> Change:
    *parents, last = path.split(".")

    def change(request: Any) -> None:
        for parent in parents:
            request = getattr(request, parent)
        setattr(request, last, value)

    return change


def shape(field: str, *sides: int) -> Change:
    def change(request: Any) -> None:
        getattr(request, field).shape[:] = sides

    return change


def with_value(value: float) -> np.ndarray[Any, Any]:
    maps = np.zeros((2, 5, 15, 15), dtype=np.float32)
    maps[1, 2, 3, 4] = value
    return maps


def rule(criterion: str, *thresholds: float) -> pb.ExitRule:
    return pb.ExitRule(criterion=criterion, thresholds=thresholds)


INVALID, TOO_LARGE = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
SMALL = np.zeros((2, 1, 28, 28), dtype=np.uint8)

# The same mistakes can be made with the images of Classify and the tensor of Resume.
TENSOR_MISTAKES: dict[str, Callable[[str], Bad]] = {
    "unknown dtype code": lambda field: Bad(assign(f"{field}.dtype", 77), INVALID, ("dtype 77",)),
    "no dtype": lambda field: Bad(assign(f"{field}.dtype", 0), INVALID, ("dtype 0",)),
    "bytes missing": lambda field: Bad(assign(f"{field}.data", bytes(10)), INVALID, ("holds 10",)),
    "no bytes": lambda field: Bad(assign(f"{field}.data", b""), INVALID, ("holds 0",)),
    "no shape": lambda field: Bad(shape(field), INVALID, ("shape ()",)),
    "negative side": lambda field: Bad(shape(field, -1, 1, 28, 28), INVALID, ("(-1, 1, 28, 28)",)),
    "empty batch": lambda field: Bad(shape(field, 0, 1, 28, 28), INVALID, ("(0, 1, 28, 28)",)),
    "product overflows": lambda field: Bad(shape(field, 2**32, 2**32), INVALID, (f"({2**32}, {2**32})",)),
    "largest sides": lambda field: Bad(shape(field, *[2**63 - 1] * 8), INVALID, (str(2**63 - 1),)),
    "nine sides": lambda field: Bad(shape(field, *[1] * 9), INVALID, ("1 to 8",)),
    "endless sides": lambda field: Bad(shape(field, *[1] * 20_000), INVALID, ("shape",)),
    "no tensor": lambda field: Bad(lambda request: request.ClearField(field), INVALID, ("dtype 0",)),
}
RULE_MISTAKES = {
    "unknown criterion": Bad(put("rule", rule("luck", 0.5)), INVALID, ("'luck'", "entropy")),
    "endless criterion": Bad(put("rule", rule("x" * 20_000, 0.5)), INVALID, ("criterion", "xxx")),
    "no criterion": Bad(put("rule", rule("", 0.5)), INVALID, ("''",)),
    "NaN threshold": Bad(put("rule", rule("entropy", float("nan"))), INVALID, ("exit 0", "nan")),
    "infinite threshold": Bad(put("rule", rule("entropy", float("inf"))), INVALID, ("exit 0", "inf")),
    "too many thresholds": Bad(put("rule", rule("entropy", 1, 2, 3)), INVALID, ("3 thresholds", "needs 1")),
    "no thresholds": Bad(put("rule", rule("entropy")), INVALID, ("0 thresholds", "needs 1")),
}
EDGE_MISTAKES = {
    **{name: make("images") for name, make in TENSOR_MISTAKES.items()},
    **RULE_MISTAKES,
    "float images": Bad(put("images", tensor(SMALL.astype(np.float32))), INVALID, ("float32", "uint8")),
    "wrong height": Bad(put("images", tensor(SMALL[:, :, :27])), INVALID, ("(2, 1, 27, 28)", "(batch, 1, 28, 28)")),
    "wrong channels": Bad(put("images", tensor(np.repeat(SMALL, 3, 1))), INVALID, ("(2, 3, 28, 28)",)),
    "an image without its batch": Bad(put("images", tensor(SMALL[0])), INVALID, ("(1, 28, 28)",)),
    "over max_batch": Bad(put("images", tensor(np.repeat(SMALL, 5, 0))), TOO_LARGE, ("10", f"at most {MAX_BATCH}")),
    "unknown policy": Bad(assign("policy", 9), INVALID, ("policy 9",)),
    "unknown model": Bad(assign("model", "resnet-5000"), "NOT_FOUND", ("'resnet-5000'", f"'{SHIPPED}'")),
    "endless model": Bad(assign("model", "m" * 20_000), "NOT_FOUND", ("mmm",)),
}
CLOUD_MISTAKES = {
    **{name: make("tensor") for name, make in TENSOR_MISTAKES.items()},
    **RULE_MISTAKES,
    "other weights": Bad(assign("content_hash", "ab" * 32), "FAILED_PRECONDITION", ("ab" * 32,)),
    "endless hash": Bad(assign("content_hash", "a" * 20_000), "FAILED_PRECONDITION", ("aaa",)),
    "no hash": Bad(assign("content_hash", ""), "FAILED_PRECONDITION", ("''",)),
    "cut behind the last stage": Bad(assign("cut", 2), INVALID, ("cut is 2", "0 to 1")),
    "negative cut": Bad(assign("cut", -1), INVALID, ("cut is -1", "0 to 1")),
    "images at a deeper cut": Bad(put("tensor", tensor(SMALL)), INVALID, ("uint8", "float32")),
    "maps at cut 0": Bad(assign("cut", 0), INVALID, ("float32", "uint8")),
    "map of another cut": Bad(
        put("tensor", tensor(SMALL.astype(np.float32))), INVALID, ("(2, 1, 28, 28)", "(batch, 5, 15, 15)")
    ),
    "NaN": Bad(put("tensor", tensor(with_value(np.nan))), INVALID, ("(1, 2, 3, 4)", "nan")),
    "infinity": Bad(put("tensor", tensor(with_value(-np.inf))), INVALID, ("(1, 2, 3, 4)", "-inf")),
    "over max_batch": Bad(
        put("tensor", tensor(np.zeros((9, 5, 15, 15), np.float32))), TOO_LARGE, ("9", f"at most {MAX_BATCH}")
    ),
}


def encoded(**changes: Any) -> Change:
    """The good request's map by a codec, with *changes* to its message."""
    payload = named_codec("uint8").encode(np.ones((2, 5, 15, 15), dtype=np.float32))
    message = messages.payload_to_message(dataclasses.replace(payload, **changes))
    return lambda request: request.encoded.CopyFrom(message)


CLOUD_MISTAKES |= {
    "unknown codec": Bad(encoded(codec="gzip"), INVALID, ("'gzip'", "uint8")),
    "endless codec": Bad(encoded(codec="z" * 20_000), INVALID, ("zzz",)),
    "no codec": Bad(encoded(codec=""), INVALID, ("''",)),
    "a codec for images": Bad(encoded(codec="raw"), INVALID, ("raw", "cut 1", "float32")),
    "another version": Bad(encoded(version=7), INVALID, ("version 7",)),
    "encoded without a shape": Bad(encoded(shape=()), INVALID, ("shape ()",)),
    "encoded shape of another cut": Bad(encoded(shape=(2, 1, 28, 28)), INVALID, ("(2, 1, 28, 28)",)),
    "encoded shape without end": Bad(encoded(shape=(2**62, 5, 15, 15)), TOO_LARGE, (str(2**62),)),
    "encoded bytes missing": Bad(encoded(data=b"\0" * 9), INVALID, ("9 came",)),
    "no encoded bytes": Bad(encoded(data=b""), INVALID, ("b''",)),
    "nothing sent": Bad(lambda request: request.ClearField("tensor"), INVALID, ("dtype 0",)),
}


@dataclass(frozen=True)
class Service:
    """A node behind a link, its one channel, and a good request to it."""

    call: Callable[..., Any]
    good: Callable[[], Any]
    link: LinkProxy
    channel: grpc.aio.Channel


@pytest_asyncio.fixture
async def edge(sample: Dataset) -> AsyncIterator[Service]:
    async with (
        serving_edge(max_batch=MAX_BATCH) as running,
        LinkProxy("127.0.0.1", running.port, CLEAR) as link,
        open_channel(f"127.0.0.1:{link.port}", 2**28) as channel,
    ):
        images = tensor(sample.images[:4])
        good = lambda: pb.ClassifyRequest(images=images, policy=pb.POLICY_EDGE_ONLY)  # noqa: E731
        yield Service(pb_grpc.EdgeStub(channel).Classify, good, link, channel)


@pytest_asyncio.fixture
async def cloud() -> AsyncIterator[Service]:
    content_hash = Artifact.open(SHIPPED).manifest.content_hash
    async with (
        serving_cloud(max_batch=MAX_BATCH) as running,
        LinkProxy("127.0.0.1", running.port, CLEAR) as link,
        open_channel(f"127.0.0.1:{link.port}", 2**28) as channel,
    ):
        maps = tensor(np.ones((2, 5, 15, 15), dtype=np.float32))
        good = lambda: pb.ResumeRequest(content_hash=content_hash, cut=1, tensor=maps)  # noqa: E731
        yield Service(pb_grpc.CloudStub(channel).Resume, good, link, channel)


async def refuse_all(service: Service, mistakes: dict[str, Bad]) -> None:
    """Send every bad request while good ones go on, over one connection."""

    async def good_call() -> Any:
        reply = await service.call(service.good(), timeout=20)
        return reply.SerializePartialToString()

    first = await service.call(service.good(), timeout=20)
    wrong = []
    async with streaming(good_call) as stream:
        for name, bad in mistakes.items():
            request = service.good()
            bad.change(request)
            try:
                await service.call(request, timeout=20)
                wrong.append(f"{name}: accepted")
            except grpc.aio.AioRpcError as error:
                details = error.details() or ""
                if error.code().name != bad.status or not all(word in details for word in bad.words):
                    wrong.append(f"{name}: {error.code().name} {details[:200]}, must be {bad.status} {bad.words}")
                if len(details) > 1_000:
                    wrong.append(f"{name}: details of {len(details)} characters")
            await stream.goes_on()
    assert not wrong, "\n".join(wrong)
    assert len(stream.answers) > 2 * len(mistakes)
    last = await service.call(service.good(), timeout=20)
    assert shown(last) == shown(first)
    assert service.link.stats().connections == 1, "a refusal cost the connection"


def shown(reply: Any) -> Any:
    """A reply without its times."""
    if isinstance(reply, pb.ResumeReply):
        return list(reply.exits), reply.logits
    return [(answer.label, answer.exit, answer.place) for answer in reply.answers], reply.probabilities


async def test_the_edge_refuses_bad_requests_by_name_while_good_ones_go_on(edge: Service) -> None:
    await refuse_all(edge, EDGE_MISTAKES)


async def test_the_cloud_refuses_bad_requests_by_name_while_good_ones_go_on(cloud: Service) -> None:
    await refuse_all(cloud, CLOUD_MISTAKES)


async def test_bytes_that_are_no_message_do_not_reach_the_node(edge: Service) -> None:
    raw = edge.channel.unary_unary("/branchynet.v1.Edge/Classify")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await raw(b"\xff\xff\xff\xff garbage", timeout=20)
    # gRPC itself answers this one, before any of our code runs.
    assert "Error parsing message" in str(refusal.value.details())
    reply = await edge.call(edge.good(), timeout=20)
    assert len(reply.answers) == 4


async def test_the_python_client_raises_our_errors(sample: Dataset) -> None:
    images = sample.images[:2]
    wrong: list[tuple[type[BranchyNetError], str, dict[str, Any]]] = [
        (InvalidInput, r"\(2, 1, 28, 27\)", {"images": images[..., 1:]}),
        (InvalidInput, "float32", {"images": images.astype(np.float32)}),
        (UnknownModel, "'other'", {"images": images, "model": "other"}),
        (InvalidInput, "2 thresholds", {"images": images, "rule": ExitRule(Criterion.ENTROPY, (1.0, 1.0))}),
    ]
    async with serving_edge(max_batch=MAX_BATCH) as edge:

        async def good_call() -> list[Prediction]:
            return await edge.client.classify(images, policy=Policy.EDGE_ONLY)

        async with streaming(good_call):
            for error, words, arguments in wrong:
                with pytest.raises(error, match=words):
                    await edge.client.classify(**arguments)


async def test_the_cloud_names_both_hashes_when_the_halves_differ(cloud: Service) -> None:
    request = cloud.good()
    request.content_hash, ours = "f" * 64, request.content_hash
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await cloud.call(request, timeout=20)
    error = error_from_rpc(refusal.value)
    assert isinstance(error, ArtifactMismatch)
    assert "f" * 64 in str(error)
    assert ours in str(error)


async def test_a_cloud_without_the_early_stages_says_where_it_can_resume(sample: Dataset) -> None:
    async with (
        serving_cloud(first_stage=1) as running,
        open_channel(running.target, 2**28) as channel,
    ):
        content_hash = running.node.served.content_hash
        request = pb.ResumeRequest(content_hash=content_hash, cut=0, tensor=tensor(sample.images[:1]))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await pb_grpc.CloudStub(channel).Resume(request, timeout=20)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "cut is 0" in str(refusal.value.details())
    assert "1 to 1" in str(refusal.value.details())
