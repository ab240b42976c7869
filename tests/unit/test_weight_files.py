"""How weights lie in a file: what is rounded, by how much, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from branchynet.artifact.weights import Weights, pack, read_tensors, tensors_to_bytes, unpack
from branchynet.errors import DamagedData, InvalidInput


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


STATE = {
    "conv.weight": random(4, 3, 3, 3),
    "linear.weight": random(5, 7),
    "norm.weight": np.linspace(0.3, 2, 4, dtype=np.float32),
    "norm.count": np.array(1234),
}


def through_a_file(state: dict[str, NDArray[Any]], weights: Weights) -> dict[str, NDArray[Any]]:
    blob = tensors_to_bytes(pack(state, weights))
    return unpack(read_tensors(blob, Path("file")), weights, "file")


@pytest.mark.parametrize(("weights", "most"), [("fp32", 0.0), ("fp16", 2.0**-11), ("int8", 1 / 250)])
def test_what_comes_back_is_float32_and_off_by_no_more_than_is_said(weights: Weights, most: float) -> None:
    back = through_a_file(STATE, weights)
    assert set(back) == set(STATE)
    assert np.array_equal(back.pop("norm.count"), STATE["norm.count"])
    for name, tensor in back.items():
        assert tensor.dtype == np.float32
        assert tensor.flags.c_contiguous
        assert tensor.flags.writeable
        assert tensor.shape == STATE[name].shape
        rows = STATE[name].reshape(len(STATE[name]), -1)
        allowed = most * np.abs(rows).max(axis=1, keepdims=True)
        assert (np.abs(tensor.reshape(rows.shape) - rows) <= allowed).all()


def test_eight_bits_take_a_quarter() -> None:
    state = {"weight": random(64, 64, 3, 3)}
    full, half, quarter = (len(tensors_to_bytes(pack(state, weights))) for weights in ("fp32", "fp16", "int8"))
    assert half == pytest.approx(full / 2, rel=0.01)
    assert quarter == pytest.approx(full / 4, rel=0.01)


def test_the_same_file_is_made_of_what_it_holds() -> None:
    """Packing again rounds no further, so an artifact may be read and written without end."""
    for weights in ("fp32", "fp16", "int8"):
        once = through_a_file(STATE, weights)
        for name, tensor in through_a_file(once, weights).items():
            np.testing.assert_array_equal(tensor, once[name])


@given(
    st.lists(st.floats(-60_000, 60_000, width=32), min_size=1, max_size=12),
    st.integers(-40, 0),
)
def test_a_row_keeps_its_error_whatever_its_size(values: list[float], exponent: int) -> None:
    row = np.array([values, [1.0] * len(values)], np.float32) * np.float32(2.0**exponent)
    back = through_a_file({"weight": row}, "int8")["weight"]
    # Beside half a step there is the scale's own rounding, and its smallest value.
    allowed = np.abs(row).max(axis=1, keepdims=True) * (0.5 / 127 + 2.0**-10) + 127 * 2.0**-24
    assert (np.abs(back - row) <= allowed).all()


def test_a_row_of_zeros_stays_zero() -> None:
    assert not through_a_file({"weight": np.zeros((2, 3), np.float32)}, "int8")["weight"].any()


def test_a_network_that_has_a_weight_called_scale_keeps_it() -> None:
    state = {"layer.scale": np.ones(3, np.float32), "other.scale": random(3, 3)}
    for weights in ("fp32", "fp16", "int8"):
        assert set(through_a_file(state, weights)) == set(state)


@pytest.mark.parametrize("weights", ["fp16", "int8"])
def test_a_number_that_half_precision_cannot_hold_is_refused(weights: Weights) -> None:
    with pytest.raises(InvalidInput, match=r"bias reaches 70000, which float16 cannot hold"):
        pack({"bias": np.array([70_000.0], np.float32)}, weights)
    with pytest.raises(InvalidInput, match="cannot hold"):
        pack({"weight": np.array([[1e8]], np.float32)}, weights)


@pytest.mark.parametrize(
    ("written", "said"), [("fp32", "fp16"), ("fp16", "fp32"), ("int8", "fp16"), ("fp16", "int8"), ("fp32", "int8")]
)
def test_a_file_of_another_kind_than_is_said_is_damage(written: Weights, said: Weights) -> None:
    with pytest.raises(DamagedData, match=f"stage-0 holds .* manifest.*{said}"):
        unpack(pack(STATE, written), said, "stage-0")


def test_a_scale_of_another_shape_is_damage() -> None:
    packed = pack({"weight": random(4, 6)}, "int8")
    packed["weight.scale"] = packed["weight.scale"][:2]
    with pytest.raises(DamagedData, match="holds weight in steps"):
        unpack(packed, "int8", "stage-0")


def test_what_is_no_file_of_tensors_is_damage() -> None:
    with pytest.raises(DamagedData, match="nowhere is not a safetensors file"):
        read_tensors(b"nonsense", Path("nowhere"))
