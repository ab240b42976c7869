"""What a soak test takes for a right answer."""

import numpy as np
import pytest

from branchynet.serving.prediction import Place, Prediction
from orchestrator.load.soak import Expected

SURE = Expected(label=3, place=Place.EDGE, edge_label=3)
HARD = Expected(label=5, place=Place.CLOUD, edge_label=4)


@pytest.mark.parametrize(
    ("expected", "label", "place", "fault"),
    [
        (SURE, 3, Place.EDGE, ""),
        (SURE, 4, Place.EDGE, "edge answered 4, expected 3"),
        (SURE, 3, Place.CLOUD, "answered by cloud, expected edge"),
        (SURE, 3, Place.FALLBACK, "answered by fallback, expected edge"),
        (HARD, 5, Place.CLOUD, ""),
        (HARD, 4, Place.CLOUD, "cloud answered 4, expected 5"),
        (HARD, 4, Place.FALLBACK, ""),
        (HARD, 5, Place.FALLBACK, "fallback answered 5, expected 4"),
        (HARD, 4, Place.EDGE, "answered by edge, expected cloud"),
    ],
)
def test_an_answer_is_right_by_its_place_and_label(expected, label, place, fault):
    assert expected.fault(Prediction(label, np.zeros(10, np.float32), 0, place, edge_ms=1.0)) == fault
