"""What a sweep tries, as text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchynet.errors import InvalidInput
from simulations.sweep.axes import AXES, Axis, parse_axes, parse_axis


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("rtt=5,20,80", "rtt", (5, 20, 80)),
        ("rtt=0", "rtt", (0,)),
        ("rtt=80,5,80", "rtt", (80, 5)),
        ("uplink=1:100:log3", "uplink", (1, 10, 100)),
        ("uplink=1:2:lin3", "uplink", (1, 1.5, 2)),
        ("rtt=0,5:80:log5,100", "rtt", (0, 5, 10, 20, 40, 80, 100)),
        ("cut=*", "cut", None),
        ("threshold=*", "threshold", None),
        ("threshold=-1,0,1e-3", "threshold", (-1, 0, 0.001)),
        ("cut=0,2", "cut", (0, 2)),
        ("edges=1:8:log4", "edges", (1, 2, 4, 8)),
        ("max_batch=1,16", "max_batch", (1, 16)),
    ],
)
def test_axes(text: str, name: str, values: tuple[float, ...] | None) -> None:
    axis = parse_axis(text)
    assert axis.name == name
    assert axis.values == (None if values is None else pytest.approx(values))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("uplink", "is no axis"),
        ("bandwidth=1", "is no axis"),
        ("=1", "is no axis"),
        ("uplink=", "'' is not a number"),
        ("uplink=1,,2", "'' is not a number"),
        ("uplink=fast", "'fast' is not a number"),
        ("uplink=nan", "not a finite number"),
        ("uplink=1,inf", "not a finite number"),
        ("uplink=0", "0 is not above 0"),
        ("uplink=*", "no end of values"),
        ("rtt=*,5", "is not a number"),
        ("rtt=-1", "-1 is not at least 0"),
        ("cut=0.5", "0.5 is not a whole number"),
        ("cut=-1", "-1 is not at least 0"),
        ("edges=0", "0 is not at least 1"),
        ("edges=1:4:lin3", "2.5 is not a whole number"),
        ("uplink=1:10", "is no range"),
        ("uplink=1:10:5", "is no range"),
        ("uplink=1:10:log", "is no range"),
        ("uplink=1:10:log5:2", "is no range"),
        ("uplink=1:x:log5", "'x' is not a number"),
        ("uplink=10:1:log5", "must go up"),
        ("uplink=1:1:log5", "must go up"),
        ("uplink=1:10:log1", "2 to 1000"),
        ("uplink=1:10:lin999999999", "2 to 1000"),
        ("uplink=1:2:lin900,3:4:lin900", "1000 is the most"),
        ("rtt=0:10:log5", "must start above 0"),
    ],
)
def test_refusals_name_the_text(text: str, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_axis(text)
    assert repr(text) in str(caught.value)
    assert named in str(caught.value)


def test_a_round_value_in_a_range_is_round() -> None:
    assert parse_axis("uplink=0.25:100:log3").values == (0.25, 5, 100)
    assert parse_axis("uplink=0.1:0.3:lin3").values == (0.1, 0.2, 0.3)


def test_an_axis_comes_once() -> None:
    assert parse_axes(["rtt=5", "cut=*"]) == {"rtt": Axis("rtt", (5.0,)), "cut": Axis("cut", None)}
    with pytest.raises(InvalidInput, match="'rtt=6': rtt is given twice"):
        parse_axes(["rtt=5", "rtt=6"])


@given(
    st.floats(0.01, 1e3),
    st.floats(1.5, 1e3),
    st.integers(2, 40),
    st.sampled_from(["log", "lin"]),
)
def test_a_range_goes_up_evenly_from_end_to_end(low: float, factor: float, count: int, spacing: str) -> None:
    values = parse_axis(f"uplink={low!r}:{low * factor!r}:{spacing}{count}").values
    assert values is not None
    assert len(values) == count
    assert values[0] == pytest.approx(low)
    assert values[-1] == pytest.approx(low * factor)
    steps = np.diff(np.log(values)) if spacing == "log" else np.diff(values)
    assert steps == pytest.approx(np.full(count - 1, steps[0]))


@given(st.text(max_size=30))
def test_any_text_is_an_axis_or_refused(text: str) -> None:
    for candidate in (text, *(f"{name}={text}" for name in AXES)):
        try:
            axis = parse_axis(candidate)
        except InvalidInput:
            continue
        assert axis.name in AXES
        assert axis.values is None or all(np.isfinite(axis.values))
