"""The tally of a steady load: what is right, what is wrong, what is lost."""

import json
import math

import numpy as np
import pytest

from branchynet.errors import InvalidInput
from branchynet.prediction import Place, Prediction
from orchestrator.delivery import Delivery
from orchestrator.steady import Expected, Load, Tally, figures

SURE = Expected(label=3, place=Place.EDGE, edge_label=3)
HARD = Expected(label=5, place=Place.CLOUD, edge_label=4)


def answer(label: int, place: Place) -> Prediction:
    return Prediction(label, np.zeros(10, np.float32), 0, place, edge_ms=1.0)


@pytest.mark.parametrize(
    ("expected", "label", "place", "fault"),
    [
        (SURE, 3, Place.EDGE, ""),
        (SURE, 4, Place.EDGE, "edge says 4, expected 3"),
        (SURE, 3, Place.CLOUD, "answered by cloud, expected edge"),
        (SURE, 3, Place.FALLBACK, "answered by fallback, expected edge"),
        (HARD, 5, Place.CLOUD, ""),
        (HARD, 4, Place.CLOUD, "cloud says 4, expected 5"),
        (HARD, 4, Place.FALLBACK, ""),
        (HARD, 5, Place.FALLBACK, "fallback says 5, expected 4"),
        (HARD, 4, Place.EDGE, "answered by edge, expected cloud"),
    ],
)
def test_an_answer_is_right_by_its_place_and_label(expected, label, place, fault):
    assert expected.fault(answer(label, place)) == fault


def test_every_request_ends_in_one_count():
    tally = Tally(sent=4)
    tally.add(Delivery(answer(3, Place.EDGE), 0, 1, 2.0), "a:1", SURE)
    tally.add(Delivery(answer(4, Place.FALLBACK), 1, 3, 50.0), "b:1", HARD)
    tally.add(Delivery(answer(9, Place.CLOUD), 1, 1, 9.0), "b:1", HARD)
    assert not tally.flawless  # one is still under way, and one is wrong
    tally.add(Delivery(None, 0, 7, 10_000.0, "UNAVAILABLE: away"), "a:1", HARD)
    assert not tally.flawless
    done = figures(tally, Load(rate_per_s=5, seconds=2))
    assert (done["sent"], done["answered"], done["lost"], done["wrong"], done["tried_again"]) == (4, 3, 1, 1, 2)
    assert done["by_place"] == {"edge": 1, "cloud": 1, "fallback": 1}
    assert done["by_edge"] == {"a:1": 1, "b:1": 2}
    assert done["reasons"] == {"UNAVAILABLE: away": 1, "cloud says 9, expected 5": 1}
    assert done["latency_ms"]["max"] == 50.0


def test_flawless_takes_a_right_answer_to_every_request():
    tally = Tally(sent=1)
    assert not tally.flawless
    tally.add(Delivery(answer(3, Place.EDGE), 0, 1, 2.0), "a:1", SURE)
    assert tally.flawless


def test_nothing_sent_proves_nothing_and_is_still_json():
    tally = Tally()
    assert not tally.flawless
    assert math.isnan(tally.percentile_ms(50))
    text = json.dumps(figures(tally, Load(seconds=1)), allow_nan=False)
    assert json.loads(text)["latency_ms"] == {"p50": None, "p95": None, "p99": None, "max": None}


@pytest.mark.parametrize("wrong", [{"rate_per_s": 0}, {"rate_per_s": math.inf}, {"seconds": 0}, {"seconds": math.nan}])
def test_a_load_that_cannot_be_is_refused(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Load(**wrong)
