"""Both clients against real nodes: the same images, answers, errors and deadlines, awaited or waited for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest import mock

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from PIL import Image
from running_nodes import (
    CLEAR,
    SHIPPED,
    Edge,
    Gate,
    Split,
    closed_port,
    computing,
    eventually,
    in_process,
    save_artifact,
    serving_edge,
    serving_split,
)
from running_programs import program

import branchynet
from branchynet.artifact.artifact import Artifact
from branchynet.client import connection
from branchynet.client.client import AsyncClient, Client
from branchynet.client.cloud import AsyncCloudClient
from branchynet.client.open_inference import OpenInferenceClient
from branchynet.client.retrying import RequestOutcome, RetryingClient
from branchynet.data.datasets import Dataset
from branchynet.data.image_files import read_image
from branchynet.data.preprocessing import Interpolation, Preprocessing, Resize
from branchynet.errors import (
    BranchyNetError,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    Unavailable,
    UnknownModel,
)
from branchynet.exits.rules import Criterion, ExitRule, softmax
from branchynet.rpc import messages
from branchynet.serving.prediction import Place, Policy, Prediction, ServedModel
from edge_node.node import EdgeNode
from simulations.link.proxy import LinkProxy

MAX_BATCH = 8


class Threaded:
    """`Client` with its calls on threads: its servers live in the event loop that it would block."""

    def __init__(self, target: str) -> None:
        self.client = Client(target)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def classify(self, *args: Any, **options: Any) -> list[Prediction]:
        return await asyncio.to_thread(self.client.classify, *args, **options)

    async def classify_one(self, *args: Any, **options: Any) -> Prediction:
        return await asyncio.to_thread(self.client.classify_one, *args, **options)

    async def describe(self, **options: Any) -> ServedModel:
        return await asyncio.to_thread(self.client.describe, **options)

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)


Connect = Callable[[str], Any]


@pytest.fixture(params=[AsyncClient, Threaded], ids=["async", "blocking"])
def connect(request: pytest.FixtureRequest) -> Connect:
    made: Connect = request.param
    return made


@pytest_asyncio.fixture
async def small() -> AsyncIterator[Edge]:
    """An edge alone that takes eight images at once."""
    async with serving_edge(max_batch=MAX_BATCH) as edge:
        yield edge


def shown(predictions: list[Prediction]) -> list[tuple[Any, ...]]:
    """What does not depend on the clock, bit for bit."""
    return [(one.label, one.exit, one.place, one.probabilities.tobytes()) for one in predictions]


def as_files(images: NDArray[np.uint8], folder: Path) -> list[Path]:
    paths = [folder / f"{position:04}.png" for position in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image[0]).save(path)
    return paths


def kinds(images: NDArray[np.uint8], folder: Path) -> Iterator[Any]:
    """The same pictures in every form that a client takes."""
    paths = as_files(images, folder)
    pictures = [Image.fromarray(image[0]) for image in images]
    yield images
    yield list(images)
    yield [image[0] for image in images]
    yield tuple(pictures)
    yield paths
    yield map(str, paths)
    yield [form[position] for position, form in enumerate((images, paths, pictures, images[:, 0], paths, pictures))]


async def test_every_kind_of_images_gets_the_answers_of_the_whole_network(
    split: Split, sample: Dataset, connect: Connect, tmp_path: Path
) -> None:
    images = sample.images[:6]
    expected = in_process(images)
    async with connect(split.edge.target) as client:
        for given in kinds(images, tmp_path):
            predictions = await client.classify(given)
            assert [one.exit for one in predictions] == expected.exits.tolist()
            probabilities = np.stack([one.probabilities for one in predictions])
            np.testing.assert_array_equal(probabilities, softmax(expected.logits).astype(np.float32))
            assert [one.probability for one in predictions] == probabilities.max(axis=1).tolist()
    assert {one.place for one in predictions} == {Place.EDGE, Place.CLOUD}


async def test_one_image_gets_one_answer(split: Split, sample: Dataset, connect: Connect, tmp_path: Path) -> None:
    image = sample.images[4]
    (path,) = as_files(image[None], tmp_path)
    async with connect(split.edge.target) as client:
        expected = await client.classify(image[None], policy=Policy.EDGE_ONLY)
        for given in (image, image[0], path, str(path), Image.fromarray(image[0])):
            assert shown([await client.classify_one(given, policy=Policy.EDGE_ONLY)]) == shown(expected)
        with pytest.raises(InvalidInput, match=r"image 0: shape is \(1, 1, 28, 28\)"):
            await client.classify_one(image[None])


@pytest.mark.parametrize("resize", Resize)
async def test_pictures_are_resized_as_the_edge_s_artifact_says(
    connect: Connect, tmp_path: Path, resize: Resize
) -> None:
    picture, file = Image.effect_noise((90, 40), 90).convert("RGB"), tmp_path / "wide.png"
    picture.save(file)
    folder = save_artifact(tmp_path / "colour", "b-alexnet")
    preprocessing = Preprocessing(resize, Interpolation.BILINEAR, (200, 10, 10))
    Artifact.open(folder).with_fields(preprocessing=preprocessing).save()
    pixels = read_image(picture, (3, 32, 32), preprocessing)
    async with serving_edge("", folder) as edge, connect(edge.target) as client:
        expected = await client.classify(pixels[None], policy=Policy.EDGE_ONLY)
        for given in (picture, file):
            assert shown([await client.classify_one(given, policy=Policy.EDGE_ONLY)]) == shown(expected)
        assert (await client.describe()).preprocessing == preprocessing


async def test_colour_pictures_go_to_a_network_that_sees_colours(connect: Connect, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    pictures = [Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in pixels]
    async with (
        serving_edge("", save_artifact(tmp_path / "colour", "b-alexnet")) as edge,
        connect(edge.target) as client,
    ):
        expected = await client.classify(pixels, policy=Policy.EDGE_ONLY)
        assert shown(await client.classify(pictures, policy=Policy.EDGE_ONLY)) == shown(expected)
        with pytest.raises(InvalidInput, match=r"\(1, 1, 32, 32\)"):
            await client.classify([pixels[0, 0]])


@pytest.mark.parametrize("options", [{}, {"rule": ExitRule(Criterion.MARGIN, (0.3,))}, {"policy": Policy.CLOUD_ONLY}])
async def test_both_clients_get_the_same(split: Split, sample: Dataset, options: dict[str, Any]) -> None:
    async with Threaded(split.edge.target) as blocking:
        answers = await blocking.classify(sample.images[:64], model=SHIPPED, **options)
        assert shown(answers) == shown(await split.client.classify(sample.images[:64], model=SHIPPED, **options))
        assert await blocking.describe() == await split.client.describe()


async def test_threads_share_a_client(split: Split, sample: Dataset, tmp_path: Path) -> None:
    paths = as_files(sample.images[:32], tmp_path)
    starts = range(0, 32, 4)
    expected = [shown(await split.client.classify(sample.images[start : start + 4])) for start in starts]
    together = threading.Barrier(len(starts))

    def ask(start: int) -> list[list[tuple[Any, ...]]]:
        together.wait(20)
        forms: list[Any] = [sample.images, paths] * 3
        return [shown(client.classify(form[start : start + 4])) for form in forms]

    with Client(split.edge.target) as client, ThreadPoolExecutor(len(starts)) as pool:
        answers = await asyncio.gather(*(asyncio.wrap_future(pool.submit(ask, start)) for start in starts))
    assert answers == [[right] * 6 for right in expected]


class TestParts:
    """Batches larger than the edge takes."""

    async def test_parts_come_back_in_order(
        self, small: Edge, sample: Dataset, connect: Connect, tmp_path: Path
    ) -> None:
        images = sample.images[: 2 * MAX_BATCH + 3]
        labels = in_process(images, 1).logits.argmax(axis=1).tolist()
        async with connect(small.target) as client:
            pictures = await client.classify(as_files(images, tmp_path), policy=Policy.EDGE_ONLY)
            arrays = await client.classify(images, policy=Policy.EDGE_ONLY)
        assert [one.label for one in pictures] == labels
        assert shown(arrays) == shown(pictures)

    @pytest.mark.parametrize("ask", [AsyncClient, Threaded, AsyncCloudClient, OpenInferenceClient])
    async def test_the_first_call_of_a_client_may_bring_any_number_of_images(
        self, sample: Dataset, ask: Connect
    ) -> None:
        images = sample.images[: 2 * MAX_BATCH + 3]
        async with serving_split(max_batch=MAX_BATCH) as split:
            target = split.cloud.target if ask is AsyncCloudClient else split.edge.target
            async with ask(target) as first, ask(target) as second:
                answers = await first.classify(images)
                one_by_one = [(await second.classify(images[row : row + 1]))[0] for row in range(len(images))]
        # In another batch the last bits of a probability differ.
        assert [one[:3] for one in shown(answers)] == [one[:3] for one in shown(one_by_one)]

    def test_a_part_fits_into_a_message(self, sample: Dataset) -> None:
        images = sample.images[:7]
        with mock.patch.object(
            connection, "MAX_MESSAGE_BYTES", connection.MESSAGE_OVERHEAD_BYTES + 2 * images[0].nbytes + 1
        ):
            assert [len(part) for part in connection.parts(images, MAX_BATCH)] == [2, 2, 2, 1]
        assert [len(part) for part in connection.parts(images, 3)] == [3, 3, 1]

    async def test_the_edge_is_described_once_and_not_for_a_single_array(
        self, small: Edge, sample: Dataset, connect: Connect, tmp_path: Path
    ) -> None:
        paths = as_files(sample.images[:2], tmp_path)
        for many in (paths[:1], paths, sample.images[:2], list(sample.images[:2])):
            with mock.patch.object(messages, "served_to_reply", wraps=messages.served_to_reply) as asked:
                async with connect(small.target) as client:
                    await client.classify(sample.images[:1])
                    await client.classify_one(sample.images[0])
                    assert asked.call_count == 0
                    for _ in range(3):
                        await client.classify(many)
                    assert asked.call_count == 1
                    assert (await client.describe()).model == SHIPPED
                    assert asked.call_count == 2

    async def test_the_deadline_is_for_all_parts(self, small: Edge, sample: Dataset, connect: Connect) -> None:
        original = EdgeNode.classify

        async def slow(node: EdgeNode, *args: Any, **options: Any) -> list[Prediction]:
            await asyncio.sleep(0.4)
            return await original(node, *args, **options)

        async with connect(small.target) as client:
            await client.describe()
            with mock.patch.object(EdgeNode, "classify", slow):
                assert len(await client.classify(sample.images[:8], deadline_ms=5_000)) == 8
                started_s = time.monotonic()
                with pytest.raises(DeadlineExceeded):
                    await client.classify(sample.images[:80], deadline_ms=1_000)
        assert 0.9 < time.monotonic() - started_s < 4  # what all parts together would take


class TestErrors:
    """What goes wrong comes as one of our errors, and in time."""

    async def test_refusals_are_ours_and_name_the_value(self, small: Edge, sample: Dataset, connect: Connect) -> None:
        images = sample.images[:2]
        wrong: list[tuple[type[BranchyNetError], str, dict[str, Any]]] = [
            (InvalidInput, r"\(2, 1, 28, 27\)", {"images": images[..., 1:]}),
            (InvalidInput, "float32", {"images": images.astype(np.float32)}),
            (InvalidInput, r"\(1, 28, 28\)", {"images": images[0]}),
            (InvalidInput, "2 thresholds", {"images": images, "rule": ExitRule(Criterion.ENTROPY, (1.0, 1.0))}),
            (InvalidInput, "'fast'", {"images": images, "policy": "fast"}),
            (UnknownModel, "'other'", {"images": images, "model": "other"}),
            *(
                (InvalidInput, f"deadline_ms is {deadline}", {"images": images, "deadline_ms": deadline})
                for deadline in (0, -1, float("nan"), float("inf"), 1e9)
            ),
        ]
        async with connect(small.target) as client:
            for error, words, arguments in wrong:
                with pytest.raises(error, match=words):
                    await client.classify(**arguments)
            with pytest.raises(InvalidInput, match="timeout_ms is -5"):
                await client.describe(timeout_ms=-5)
            assert len(await client.classify(images)) == 2

    async def test_an_edge_that_is_not_there_is_unavailable_at_once(
        self, sample: Dataset, connect: Connect, tmp_path: Path
    ) -> None:
        paths = as_files(sample.images[:1], tmp_path)
        with closed_port() as port:
            async with connect(f"127.0.0.1:{port}") as client:
                started_s = time.monotonic()
                for images in (sample.images[:1], paths):
                    with pytest.raises(Unavailable, match=str(port)):
                        await client.classify(images, deadline_ms=10_000)
                assert time.monotonic() - started_s < 5
                with pytest.raises(Unavailable, match=rf"{port} within 0\.3 s"):
                    await client.describe(timeout_ms=300)

    async def test_describing_waits_for_an_edge_that_is_still_away(
        self, small: Edge, sample: Dataset, connect: Connect
    ) -> None:
        async with LinkProxy("127.0.0.1", small.port, CLEAR) as link, connect(f"127.0.0.1:{link.port}") as client:
            link.cut()
            request = asyncio.create_task(client.describe(timeout_ms=30_000))
            await asyncio.sleep(0.3)
            assert not request.done()
            link.restore()
            assert (await request).model == SHIPPED
            link.cut()
            with pytest.raises(Unavailable):
                await client.classify(sample.images[:1])
            link.restore()

            async def back() -> bool:
                with contextlib.suppress(Unavailable):
                    return len(await client.classify(sample.images[:1])) == 1
                return False

            await eventually(back, "the client finds the edge again")

    async def test_an_edge_that_never_answers_costs_the_deadline_and_no_more(
        self, sample: Dataset, connect: Connect, tmp_path: Path
    ) -> None:
        # The system accepts for it, and nobody ever reads.
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            async with connect(f"127.0.0.1:{port}") as client:
                for images in (sample.images[:1], as_files(sample.images[:1], tmp_path)):
                    started_s = time.monotonic()
                    with pytest.raises((DeadlineExceeded, Unavailable), match=str(port)):
                        await client.classify(images, deadline_ms=500)
                    assert time.monotonic() - started_s < 3

    async def test_a_cloud_that_is_silent_costs_no_answer(self, sample: Dataset, connect: Connect) -> None:
        async with serving_split(reserve_ms=1_000) as split, connect(split.edge.target) as client:
            split.link.stall()
            predictions = await client.classify(sample.images[:64], deadline_ms=1_500)
        assert {one.place for one in predictions} == {Place.EDGE, Place.FALLBACK}

    async def test_an_edge_that_gives_too_few_answers_is_not_believed(
        self, small: Edge, sample: Dataset, connect: Connect
    ) -> None:
        original = EdgeNode.classify

        async def forgetful(node: EdgeNode, *args: Any, **options: Any) -> list[Prediction]:
            return (await original(node, *args, **options))[1:]

        async with connect(small.target) as client:
            with (
                mock.patch.object(EdgeNode, "classify", forgetful),
                pytest.raises(InvalidInput, match="3 answers came for 4 images"),
            ):
                await client.classify(sample.images[:4])


class TestClosing:
    """A closed client says so, whether a call comes later or is under way."""

    async def test_a_closed_client_refuses(self, small: Edge, sample: Dataset, connect: Connect) -> None:
        async with connect(small.target) as client:
            assert len(await client.classify(sample.images[:1])) == 1
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: client.classify(sample.images[:1]),
            lambda: client.classify_one(Image.fromarray(sample.images[0, 0])),
            client.describe,
        ]
        for call in calls:
            with pytest.raises(Cancelled, match=f"{small.target} is closed"):
                await call()
        await client.close()

    async def test_closing_ends_a_call_under_way(self, small: Edge, sample: Dataset, connect: Connect) -> None:
        gate = Gate(small.network)
        client = connect(small.target)
        request = asyncio.create_task(client.classify(sample.images[:1]))
        await eventually(computing(gate), "the edge computes")
        await client.close()
        with pytest.raises(Cancelled, match="is closed"):
            await asyncio.wait_for(request, 20)
        gate.open()

    async def test_a_cancelled_task_stays_cancelled(self, small: Edge, sample: Dataset) -> None:
        gate = Gate(small.network)
        async with AsyncClient(small.target) as client:
            request = asyncio.create_task(client.classify(sample.images[:1]))
            await eventually(computing(gate), "the edge computes")
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
        gate.open()


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    """The target of an edge in another process, for callers without an event loop of their own."""
    with program("edge_node", "--port=0", "--cloud=") as edge:
        yield f"127.0.0.1:{edge.ready()}"


ASYNC_CLIENTS = [AsyncClient, OpenInferenceClient, lambda target: RetryingClient([target])]
each_async_client = pytest.mark.parametrize("make", ASYNC_CLIENTS, ids=["own", "open inference", "retrying"])


class TestEventLoops:
    """An `AsyncClient` may be made anywhere; it is used in one event loop."""

    @each_async_client
    def test_it_may_be_made_outside_of_a_loop(self, outside: str, sample: Dataset, make: Connect) -> None:
        client = make(outside)

        async def use() -> int:
            async with client:
                answers = await client.classify(sample.images[:2], policy=Policy.EDGE_ONLY)
            return len(answers.predictions if isinstance(answers, RequestOutcome) else answers)

        assert asyncio.run(use()) == 2

    @each_async_client
    def test_in_a_second_loop_it_says_what_to_do(self, outside: str, sample: Dataset, make: Connect) -> None:
        client = make(outside)
        use = partial(client.classify, sample.images[:1], policy=Policy.EDGE_ONLY)
        asyncio.run(use())
        with pytest.raises(InvalidInput, match=rf"client of {outside} belongs to another event loop.*make one in each"):
            asyncio.run(use())
        asyncio.run(client.close())  # whose loop has ended can be closed anywhere

    async def test_it_is_not_closed_in_another_loop_while_its_own_runs(self, small: Edge, sample: Dataset) -> None:
        async with AsyncClient(small.target) as client:
            await client.classify(sample.images[:1])
            with pytest.raises(InvalidInput, match="another event loop"):
                await asyncio.to_thread(asyncio.run, client.close())
            assert len(await client.classify(sample.images[:1])) == 1

    @pytest.mark.parametrize(
        "make", [Client, AsyncClient, AsyncCloudClient, OpenInferenceClient, lambda one: RetryingClient([one])]
    )
    @pytest.mark.parametrize("target", ["http://127.0.0.1:8001", "127.0.0.1", "::1:8001", "127.0.0.1:99999", ""])
    def test_a_target_that_is_no_address_is_refused_when_it_is_made(self, make: Connect, target: str) -> None:
        with pytest.raises(InvalidInput, match=r"is no address: .*127\.0\.0\.1:8001"):
            make(target)


def test_both_clients_are_public() -> None:
    assert branchynet.Client is Client
    assert branchynet.AsyncClient is AsyncClient
