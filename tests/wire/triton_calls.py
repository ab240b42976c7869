"""A stranger's client, tritonclient, and what our own client would have been told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from numpy.typing import NDArray
from running_nodes import SHIPPED
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from branchynet.serving.prediction import Prediction

TIMEOUT_S = 60
# A proxy for the web (http_proxy) does not know the nodes, and gRPC would ask it.
CHANNEL = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
]
VERSION = "082312fa4691"


def aio_client(target: str) -> triton_aio.InferenceServerClient:
    """Use it with `async with`."""
    return triton_aio.InferenceServerClient(target, channel_args=CHANNEL)


@contextmanager
def sync_client(target: str) -> Iterator[triton.InferenceServerClient]:
    """Only on a thread: the nodes live in the test's loop."""
    client = triton.InferenceServerClient(target, channel_args=CHANNEL)
    try:
        yield client
    finally:
        client.close()


def tensor_input(array: NDArray[Any], name: str = "image") -> triton.InferInput:
    tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    return tensor.set_data_from_numpy(array)


async def infer(client: triton_aio.InferenceServerClient, array: NDArray[Any], name: str = "image", **options: Any):
    """`client.infer` for the shipped model with one input; *options* are tritonclient's."""
    options = {"model_name": SHIPPED, "client_timeout": TIMEOUT_S, **options}
    return await client.infer(inputs=[tensor_input(array, name)], **options)


def where(result: triton.InferResult) -> list[str]:
    return [place.decode() for place in result.as_numpy("where")]


def assert_says(
    result: triton.InferResult, exits: NDArray[Any], probabilities: NDArray[Any], places: list[str]
) -> None:
    """Every output, dtype and all, bit for bit."""
    label, scores, numbers = (result.as_numpy(name) for name in ("label", "probabilities", "exit"))
    assert (label.dtype, scores.dtype, numbers.dtype) == (np.int64, np.float32, np.int32)
    np.testing.assert_array_equal(scores, probabilities)
    np.testing.assert_array_equal(numbers, exits)
    np.testing.assert_array_equal(label, probabilities.argmax(axis=1))
    assert where(result) == places


def assert_same(result: triton.InferResult, predictions: list[Prediction]) -> None:
    """*result* says what our own client was told."""
    assert_says(
        result,
        np.array([prediction.exit for prediction in predictions]),
        np.stack([prediction.probabilities for prediction in predictions]),
        [prediction.place.value for prediction in predictions],
    )


def refused(error: InferenceServerException) -> tuple[str, str]:
    """Its status' name and its message."""
    return str(error.status()).removeprefix("StatusCode."), error.message()
