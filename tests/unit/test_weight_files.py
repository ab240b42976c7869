"""How weights lie in a file: what is rounded, by how much, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from branchynet.errors import DamagedData, InvalidInput
from branchynet.weight_files import Weights, pack, read_tensors, tensors_to_bytes, unpack

STATE = {
    "conv.weight": torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)),
    "linear.weight": torch.randn(5, 7, generator=torch.Generator().manual_seed(1)),
    "norm.weight": torch.linspace(0.3, 2, 4),
    "norm.count": torch.tensor(1234),
}


def through_a_file(state: dict[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    blob = tensors_to_bytes(pack(state, weights))
    return unpack(read_tensors(blob, Path("file")), weights, "file")


@pytest.mark.parametrize(("weights", "most"), [("fp32", 0.0), ("fp16", 2.0**-11), ("int8", 1 / 250)])
def test_what_comes_back_is_float32_and_off_by_no_more_than_is_said(weights: Weights, most: float) -> None:
    back = through_a_file(STATE, weights)
    assert set(back) == set(STATE)
    assert torch.equal(back.pop("norm.count"), STATE["norm.count"])
    for name, tensor in back.items():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert tensor.shape == STATE[name].shape
        rows = STATE[name].flatten(1) if STATE[name].dim() > 1 else STATE[name][:, None]
        allowed = most * rows.abs().amax(dim=1, keepdim=True)
        assert ((tensor.reshape(rows.shape) - rows).abs() <= allowed).all()


def test_eight_bits_take_a_quarter() -> None:
    state = {"weight": torch.randn(64, 64, 3, 3)}
    full, half, quarter = (len(tensors_to_bytes(pack(state, weights))) for weights in ("fp32", "fp16", "int8"))
    assert half == pytest.approx(full / 2, rel=0.01)
    assert quarter == pytest.approx(full / 4, rel=0.01)


def test_the_same_file_is_made_of_what_it_holds() -> None:
    """Packing again rounds no further, so an artifact may be read and written without end."""
    for weights in ("fp32", "fp16", "int8"):
        once = through_a_file(STATE, weights)
        for name, tensor in through_a_file(once, weights).items():
            torch.testing.assert_close(tensor, once[name], rtol=0, atol=0)


@given(
    st.lists(st.floats(-60_000, 60_000, width=32), min_size=1, max_size=12),
    st.integers(-40, 0),
)
def test_a_row_keeps_its_error_whatever_its_size(values: list[float], exponent: int) -> None:
    row = torch.tensor([values, [1.0] * len(values)]) * 2.0**exponent
    back = through_a_file({"weight": row}, "int8")["weight"]
    # Beside half a step there is the scale's own rounding, and its smallest value.
    allowed = row.abs().amax(dim=1, keepdim=True) * (0.5 / 127 + 2.0**-10) + 127 * 2.0**-24
    assert ((back - row).abs() <= allowed).all()


def test_a_row_of_zeros_stays_zero() -> None:
    assert not through_a_file({"weight": torch.zeros(2, 3)}, "int8")["weight"].any()


def test_a_network_that_has_a_weight_called_scale_keeps_it() -> None:
    state = {"layer.scale": torch.ones(3), "other.scale": torch.randn(3, 3)}
    for weights in ("fp32", "fp16", "int8"):
        assert set(through_a_file(state, weights)) == set(state)


@pytest.mark.parametrize("weights", ["fp16", "int8"])
def test_a_number_that_half_precision_cannot_hold_is_refused(weights: Weights) -> None:
    with pytest.raises(InvalidInput, match=r"bias reaches 70000, which torch\.float16 cannot hold"):
        pack({"bias": torch.tensor([70_000.0])}, weights)
    with pytest.raises(InvalidInput, match="cannot hold"):
        pack({"weight": torch.tensor([[1e8]])}, weights)


@pytest.mark.parametrize(
    ("written", "said"), [("fp32", "fp16"), ("fp16", "fp32"), ("int8", "fp16"), ("fp16", "int8"), ("fp32", "int8")]
)
def test_a_file_of_another_kind_than_is_said_is_damage(written: Weights, said: Weights) -> None:
    with pytest.raises(DamagedData, match=f"stage-0 holds .* manifest.*{said}"):
        unpack(pack(STATE, written), said, "stage-0")


def test_a_scale_of_another_shape_is_damage() -> None:
    packed = pack({"weight": torch.randn(4, 6)}, "int8")
    packed["weight.scale"] = packed["weight.scale"][:2]
    with pytest.raises(DamagedData, match="holds weight in steps"):
        unpack(packed, "int8", "stage-0")


def test_what_is_no_file_of_tensors_is_damage() -> None:
    with pytest.raises(DamagedData, match="nowhere is not a safetensors file"):
        read_tensors(b"nonsense", Path("nowhere"))
