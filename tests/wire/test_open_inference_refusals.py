"""What the Open Inference Protocol's service refuses: with which status, naming what, without troubling others.

Requests are made with the standard's own stubs (tritonclient's), since tritonclient itself cannot make most mistakes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from running_nodes import CLEAR, SHIPPED, serving_cloud, serving_edge, streaming
from triton_calls import VERSION, aio_client, infer, refused
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from branchynet.data.datasets import Dataset
from branchynet.rpc.channel import open_channel
from simulations.link.proxy import LinkProxy

MAX_BATCH = 8
Change = Callable[[Any], None]
IMAGE_BYTES = 28 * 28


@dataclass(frozen=True)
class Bad:
    """How a good request is spoilt, and what the refusal must say."""

    change: Change
    words: tuple[str, ...]
    status: str = "INVALID_ARGUMENT"


def parameter(name: str, value: Any, kind: str = "string") -> Change:
    return lambda request: setattr(request.parameters[name], f"{kind}_param", value)


def tensor(**fields: Any) -> Change:
    """Other values for fields of the input; its bytes stay."""

    def change(request: Any) -> None:
        for name, value in fields.items():
            if name == "shape":
                request.inputs[0].shape[:] = value
            else:
                setattr(request.inputs[0], name, value)

    return change


def raw(*contents: bytes) -> Change:
    def change(request: Any) -> None:
        request.raw_input_contents[:] = contents

    return change


def typed(**fields: Any) -> Change:
    """Typed values instead of the bytes."""

    def change(request: Any) -> None:
        request.ClearField("raw_input_contents")
        for name, values in fields.items():
            getattr(request.inputs[0].contents, name).extend(values)

    return change


def send(array: np.ndarray[Any, Any], datatype: str, name: str) -> Change:
    def change(request: Any) -> None:
        request.ClearField("inputs")
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents[:] = [array.tobytes()]

    return change


def add_input(name: str) -> Change:
    return lambda request: request.inputs.add(name=name, datatype="UINT8", shape=[1])


def outputs(*names: str) -> Change:
    return lambda request: [request.outputs.add(name=name) for name in names]


def both(*changes: Change) -> Change:
    return lambda request: [change(request) for change in changes]


NAMES = ("label", "probabilities", "exit", "where")
MISTAKES = {
    "unknown model": Bad(lambda r: setattr(r, "model_name", "other"), ("'other'", SHIPPED), "NOT_FOUND"),
    "endless model": Bad(lambda r: setattr(r, "model_name", "m" * 20_000), ("mmm",), "NOT_FOUND"),
    "unknown version": Bad(lambda r: setattr(r, "model_version", "1"), ("'1'", VERSION), "NOT_FOUND"),
    "part of the version": Bad(lambda r: setattr(r, "model_version", VERSION[:8]), (VERSION[:8],), "NOT_FOUND"),
    "no input": Bad(lambda r: r.ClearField("inputs"), ("inputs are []",)),
    "unknown input": Bad(tensor(name="picture"), ("picture",)),
    "two inputs": Bad(add_input("second"), ("second", "exactly one")),
    "the same twice": Bad(add_input("image"), ("exactly one",)),
    "unknown output": Bad(outputs("label", "mood"), ("'mood'", *NAMES)),
    "an output twice": Bad(outputs("label", "label"), ("'label'", "2 times")),
    "classification": Bad(
        lambda r: setattr(r.outputs.add(name="label").parameters["classification"], "int64_param", 3),
        ("'label'", "classification"),
    ),
    "shared memory": Bad(
        lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "x"),
        ("shared_memory_region",),
    ),
    "unknown parameter": Bad(parameter("luck", 1, "int64"), ("'luck'", "threshold", "criterion")),
    "empty parameter": Bad(lambda r: r.parameters["threshold"].SetInParent(), ("'threshold'", "without a value")),
    "boolean threshold": Bad(parameter("threshold", True, "bool"), ("'threshold'", "True", "a double")),
    "threshold in words": Bad(parameter("threshold", "high"), ("'high'", "commas")),
    "empty threshold": Bad(parameter("threshold", ""), ("''",)),
    "too many thresholds": Bad(parameter("threshold", "1,2,3"), ("3 thresholds", "needs 1")),
    "NaN threshold": Bad(parameter("threshold", float("nan"), "double"), ("nan",)),
    "infinite threshold": Bad(parameter("threshold", "1e999"), ("inf",)),
    "number as criterion": Bad(parameter("criterion", 3, "int64"), ("'criterion'", "3", "a string")),
    "unknown criterion": Bad(parameter("criterion", "luck"), ("'luck'", "entropy, max-probability, margin")),
    "another criterion without thresholds": Bad(parameter("criterion", "margin"), ("'margin'", "'threshold'")),
    "unknown datatype": Bad(tensor(datatype="FP8"), ("'FP8'", "must be")),
    "no datatype": Bad(tensor(datatype=""), ("''", "must be")),
    "no shape": Bad(tensor(shape=()), ("shape is ()",)),
    "largest sides": Bad(tensor(shape=[2**63 - 1] * 4), (str(2**63 - 1),)),
    "endless sides": Bad(tensor(shape=[1] * 20_000), ("shape",)),
    "no bytes": Bad(raw(b""), ("holds 0",)),
    "neither raw nor typed": Bad(raw(), ("holds 0",)),
    "two raw contents": Bad(raw(bytes(8), bytes(8)), ("1 input came with 2",)),
}
# The same good request, four images, is sent to both nodes.
EDGE_MISTAKES = {
    **MISTAKES,
    "features at the edge": Bad(send(np.zeros((1, 5, 15, 15), np.float32), "FP32", "features"), ("features", "image")),
    "float images": Bad(send(np.zeros((2, 1, 28, 28), np.float32), "FP32", "image"), ("'FP32'", "UINT8")),
    "wrong height": Bad(send(np.zeros((2, 1, 27, 28), np.uint8), "UINT8", "image"), ("(2, 1, 27, 28)", "28, 28)")),
    "an image without its batch": Bad(send(np.zeros((1, 28, 28), np.uint8), "UINT8", "image"), ("(1, 28, 28)",)),
    "more in the shape than in the bytes": Bad(tensor(shape=(8, 1, 28, 28)), ("6272", "3136")),
    "less in the shape than in the bytes": Bad(tensor(shape=(2, 1, 28, 28)), ("1568", "3136")),
    "negative batch": Bad(tensor(shape=(-4, 1, 28, 28)), ("(-4, 1, 28, 28)", "positive")),
    "empty batch": Bad(tensor(shape=(0, 1, 28, 28)), ("(0, 1, 28, 28)", "positive")),
    "a batch that overflows": Bad(tensor(shape=(2**62, 1, 28, 28)), (str(2**62 * IMAGE_BYTES),)),
    "over max_batch": Bad(
        send(np.zeros((9, 1, 28, 28), np.uint8), "UINT8", "image"), ("9", f"at most {MAX_BATCH}"), "RESOURCE_EXHAUSTED"
    ),
    "raw and typed": Bad(
        lambda r: r.inputs[0].contents.uint_contents.extend([1] * 4 * IMAGE_BYTES), ("typed", "raw_input_contents")
    ),
    "typed: too few": Bad(typed(uint_contents=[1, 2, 3]), ("3136 values", "holds 3")),
    "typed: in the wrong field": Bad(typed(int_contents=[1] * 4 * IMAGE_BYTES), ("int_contents", "uint_contents")),
    "typed: in two fields": Bad(
        typed(uint_contents=[1] * 4 * IMAGE_BYTES, fp32_contents=[0.5]), ("fp32_contents", "belong in uint_contents")
    ),
    "typed: no byte": Bad(typed(uint_contents=[300] * 4 * IMAGE_BYTES), ("300", "255")),
    "typed: negative batch": Bad(both(typed(), tensor(shape=(-1, 1, 28, 28))), ("(-1, 1, 28, 28)", "positive")),
    "unknown policy": Bad(parameter("policy", "fog-only"), ("'fog-only'", "split, edge-only, cloud-only")),
    "boolean policy": Bad(parameter("policy", False, "bool"), ("'policy'", "False")),
    "cut at the edge": Bad(parameter("cut", 1, "int64"), ("'cut'", "branchynet-edge")),
    "deadline in words": Bad(parameter("deadline_ms", "soon"), ("'deadline_ms'", "'soon'")),
    "no time": Bad(parameter("deadline_ms", 0, "int64"), ("deadline_ms is 0", "positive")),
    "negative time": Bad(parameter("deadline_ms", -3.5, "double"), ("-3.5",)),
    "NaN time": Bad(parameter("deadline_ms", float("nan"), "double"), ("nan",)),
    "endless time": Bad(parameter("deadline_ms", float("inf"), "double"), ("inf",)),
}


def maps(shape: tuple[int, ...] = (2, 5, 15, 15), value: float = 0.0) -> np.ndarray[Any, Any]:
    array = np.zeros(shape, np.float32)
    array[(-1,) * len(shape)] = value
    return array


def features(array: np.ndarray[Any, Any], cut: int | None = 1) -> Change:
    sent = send(array, "FP32", "features")
    return sent if cut is None else both(sent, parameter("cut", cut, "int64"))


CLOUD_MISTAKES = {
    **MISTAKES,
    "a policy": Bad(parameter("policy", "split"), ("'policy'", "branchynet-cloud takes threshold, criterion, cut")),
    "a deadline": Bad(parameter("deadline_ms", 5, "int64"), ("'deadline_ms'",)),
    "an image at a deeper cut": Bad(parameter("cut", 1, "int64"), ("cut is 1", "cut 0")),
    "cut in words": Bad(parameter("cut", "1"), ("'cut'", "'1'", "an integer")),
    "cut as a double": Bad(parameter("cut", 1.0, "double"), ("'cut'", "an integer")),
    "features without a cut": Bad(features(maps(), None), ("features", "'cut'")),
    "features at cut 0": Bad(features(maps(), 0), ("cut 0", "uint8")),
    "cut behind the last stage": Bad(features(maps(), 2), ("cut is 2", "0 to 1")),
    "negative cut": Bad(features(maps(), -1), ("cut is -1",)),
    "largest cut": Bad(features(maps(), 2**63 - 1), (str(2**63 - 1),)),
    "a map of another cut": Bad(features(maps((2, 5, 14, 15))), ("(2, 5, 14, 15)", "15, 15)")),
    "NaN": Bad(features(maps(value=np.nan)), ("(1, 4, 14, 14)", "nan")),
    "infinity": Bad(features(maps(value=-np.inf)), ("(1, 4, 14, 14)", "-inf")),
    "half floats": Bad(send(maps().astype(np.float16), "FP16", "features"), ("'FP16'", "FP32")),
    "over max_batch": Bad(features(maps((9, 5, 15, 15))), ("9", f"at most {MAX_BATCH}"), "RESOURCE_EXHAUSTED"),
}


@dataclass(frozen=True)
class Service:
    """A node behind a link, its one channel, and a good request to it."""

    infer: Callable[..., Any]
    good: Callable[[], Any]
    link: LinkProxy


@pytest_asyncio.fixture(params=["edge", "cloud"])
async def service(request: pytest.FixtureRequest, sample: Dataset) -> AsyncIterator[tuple[Service, dict[str, Bad]]]:
    serving: Any = serving_edge if request.param == "edge" else serving_cloud
    images = sample.images[:4]

    def good() -> Any:
        made = service_pb2.ModelInferRequest(model_name=SHIPPED, raw_input_contents=[images.tobytes()])
        made.inputs.add(name="image", datatype="UINT8", shape=images.shape)
        return made

    async with (
        serving(max_batch=MAX_BATCH) as running,
        LinkProxy("127.0.0.1", running.port, CLEAR) as link,
        open_channel(f"127.0.0.1:{link.port}", 2**28) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        mistakes = EDGE_MISTAKES if request.param == "edge" else CLOUD_MISTAKES
        yield Service(stub.ModelInfer, good, link), mistakes


async def test_bad_requests_are_refused_by_name_while_good_ones_go_on(
    service: tuple[Service, dict[str, Bad]],
) -> None:
    node, mistakes = service

    async def good_call() -> Any:
        return list((await node.infer(node.good(), timeout=20)).raw_output_contents)

    first = await good_call()
    wrong = []
    async with streaming(good_call) as stream:
        for name, bad in mistakes.items():
            request = node.good()
            bad.change(request)
            try:
                await node.infer(request, timeout=20)
                wrong.append(f"{name}: accepted")
            except grpc.aio.AioRpcError as error:
                details = error.details() or ""
                if error.code().name != bad.status or not all(word in details for word in bad.words):
                    wrong.append(f"{name}: {error.code().name} {details[:200]}, must be {bad.status} {bad.words}")
                if len(details) > 1_000:
                    wrong.append(f"{name}: details of {len(details)} characters")
            await stream.goes_on()
    assert not wrong, "\n".join(wrong)
    assert all(answer == first for answer in stream.answers)
    assert node.link.stats().connections == 1, "a refusal cost the connection"


async def test_a_message_over_the_limit_is_refused_and_the_next_one_answered(sample: Dataset) -> None:
    flood = np.zeros((4_000, 1, 28, 28), dtype=np.uint8)
    async with serving_edge(max_batch=MAX_BATCH) as edge, aio_client(edge.target) as client:
        for _ in range(3):
            with pytest.raises(InferenceServerException) as refusal:
                await infer(client, flood)
            status, message = refused(refusal.value)
            assert status == "RESOURCE_EXHAUSTED"
            assert str(flood.nbytes // 1000) in message
            result = await infer(client, sample.images[:4])
            assert len(result.as_numpy("label")) == 4


@pytest.mark.parametrize("batch", [6_000])
async def test_the_largest_batch_fits_into_a_message_both_ways(sample: Dataset, batch: int) -> None:
    images = np.tile(sample.images, (6, 1, 1, 1))
    assert images.nbytes > 4 * 2**20
    async with serving_edge("", max_batch=batch) as edge, aio_client(edge.target) as client:
        result = await infer(client, images, parameters={"policy": "edge-only"})
    assert result.as_numpy("probabilities").shape == (batch, 10)


async def test_a_cloud_without_the_early_stages_refuses_images(sample: Dataset) -> None:
    async with serving_cloud(first_stage=1) as cloud, aio_client(cloud.target) as client:
        with pytest.raises(InferenceServerException) as refusal:
            await infer(client, sample.images[:4])
        assert refused(refusal.value) == (
            "INVALID_ARGUMENT",
            "inputs are ['image']; there must be exactly one, features",
        )
        result = await infer(client, maps(), "features", parameters={"cut": 1})
        assert len(result.as_numpy("label")) == 2
