"""What comes in from outside is refused with the value and the legal range."""

import math

import numpy as np
import pytest

from branchynet.errors import ArtifactMismatch, InvalidInput, TooLarge, UnknownModel
from branchynet.serving.validation import check_batch, check_hash, check_model

FLOAT, BYTE = np.dtype(np.float32), np.dtype(np.uint8)


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("dtype", [FLOAT, BYTE])
def test_a_legal_batch_passes(batch, dtype):
    check_batch(np.zeros((batch, 3, 5, 5), dtype), dtype, (3, 5, 5), 4, "images")


def test_a_batch_over_the_limit_is_too_large_with_both_numbers():
    with pytest.raises(TooLarge, match=r"images: .* 5 samples, this node takes at most 4"):
        check_batch(np.zeros((5, 2), BYTE), BYTE, (2,), 4, "images")


@pytest.mark.parametrize("shape", [(), (2,), (1, 3, 5), (1, 3, 5, 6), (1, 5, 5, 3), (1, 1, 3, 5, 5), (3, 5, 5)])
def test_another_shape_is_refused_with_the_legal_one(shape):
    with pytest.raises(InvalidInput, match=r"must be \(batch, 3, 5, 5\)"):
        check_batch(np.zeros(shape, BYTE), BYTE, (3, 5, 5), 4, "images")


def test_an_empty_batch_is_refused():
    with pytest.raises(InvalidInput, match="images: the batch is empty"):
        check_batch(np.zeros((0, 2), BYTE), BYTE, (2,), 4, "images")


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4", np.int32, np.uint8])
def test_another_dtype_is_refused_with_the_legal_one(dtype):
    with pytest.raises(InvalidInput, match=r"tensor: dtype is .*, it must be float32"):
        check_batch(np.zeros((1, 2), dtype), FLOAT, (2,), 4, "tensor")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [(0, 0, 0), (1, 2, 0), (2, 2, 1)])
def test_a_value_that_is_not_finite_is_refused_with_its_position(value, position):
    array = np.zeros((3, 3, 2), np.float32)
    array[position] = value
    if position != (2, 2, 1):
        array[2, 2, 1] = math.nan  # the first of them counts
    with pytest.raises(InvalidInput) as raised:
        check_batch(array, FLOAT, (3, 2), 4, "tensor")
    assert f"the value at {position} is {value}, it must be finite" in str(raised.value)


def test_the_largest_finite_values_pass():
    check_batch(np.full((1, 2), np.finfo(np.float32).max), FLOAT, (2,), 1, "tensor")


def test_a_model_is_accepted_by_its_name_or_by_none():
    check_model("", "lenet")
    check_model("lenet", "lenet")
    for other in ("Lenet", "lenet ", "alexnet"):
        with pytest.raises(UnknownModel, match=f"'{other}' is not served here; this node serves 'lenet'"):
            check_model(other, "lenet")


def test_halves_of_different_artifacts_are_refused_with_both_hashes():
    check_hash("ab" * 32, "ab" * 32)
    check_hash("ab" * 8, "ab" * 32)
    with pytest.raises(ArtifactMismatch, match=f"{'cd' * 32}.*{'ab' * 32}"):
        check_hash("cd" * 32, "ab" * 32)
    for short in ("", "ab" * 7, "ab" * 7 + "ac", "ab" * 33):
        with pytest.raises(ArtifactMismatch):
            check_hash(short, "ab" * 32)


def test_a_hash_from_outside_cannot_flood_the_message():
    with pytest.raises(ArtifactMismatch) as raised:
        check_hash("x" * 10**6, "ab" * 32)
    assert len(str(raised.value)) < 400
