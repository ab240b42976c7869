"""Which plan wins, on rows made by hand."""

from __future__ import annotations

import json

import pytest
from sweep_examples import BASE, measured, row, setting

from simulations.sweep.best_plans import Sweep, accuracy_front, best_plans, by_setting, scenes
from simulations.sweep.style import cell_lines, look_of

BASELINE_ROWS = [
    row(10, 0.80, "edge only"),
    row(100, 0.90, "cloud only", cut=0),
    row(50, 0.90, "today's plan"),
]


def test_the_fastest_of_those_that_are_accurate_enough_wins() -> None:
    right = row(30, 0.897)
    (best,) = best_plans([*BASELINE_ROWS, row(20, 0.894), right, row(40, 0.90)], accuracy_drop_points=0.5).values()
    assert best.row is right
    assert best.baseline is BASELINE_ROWS[2]
    assert best.gain == pytest.approx(50 / 30)


def test_a_larger_drop_lets_faster_plans_win() -> None:
    (best,) = best_plans([*BASELINE_ROWS, row(20, 0.85)], accuracy_drop_points=6).values()
    assert best.row.mean_ms == 20
    (best,) = best_plans([*BASELINE_ROWS, row(20, 0.85)], accuracy_drop_points=11).values()
    assert best.row is BASELINE_ROWS[0]
    assert best.gain == 1


def test_accuracy_is_that_of_the_selection_half() -> None:
    flattered = row(20, 0.80, accuracy=1.0)
    honest = row(30, 0.90, accuracy=0.5)
    (best,) = best_plans([*BASELINE_ROWS, flattered, honest], accuracy_drop_points=0.5).values()
    assert best.row is honest


def test_a_baseline_may_win() -> None:
    (best,) = best_plans([*BASELINE_ROWS, row(60, 0.90)], accuracy_drop_points=0).values()
    assert best.row is best.baseline is BASELINE_ROWS[2]


def test_without_an_accurate_baseline_the_most_accurate_one_stands_in() -> None:
    (best,) = best_plans([*BASELINE_ROWS, row(80, 0.99)], accuracy_drop_points=0.5).values()
    assert best.row.mean_ms == 80
    assert best.baseline.selection_accuracy == 0.90


def test_of_equally_fast_plans_fewer_bytes_win_then_accuracy_then_a_baseline() -> None:
    many, few = row(5, 0.95), row(5, 0.95, uplink_bytes=1.0)
    (best,) = best_plans([*BASELINE_ROWS, many, few], accuracy_drop_points=1).values()
    assert best.row is few
    better = row(5, 0.955)
    (best,) = best_plans([*BASELINE_ROWS, many, better], accuracy_drop_points=1).values()
    assert best.row is better
    same = row(50, 0.90)
    (best,) = best_plans([same, *BASELINE_ROWS], accuracy_drop_points=1).values()
    assert best.row is BASELINE_ROWS[2]


def test_each_setting_has_its_own_winner_and_its_own_best_accuracy() -> None:
    far = setting(rtt_ms=200)
    there = [row(1000, 0.70, name, setting=far) for name in ("edge only", "cloud only", "today's plan")]
    found = best_plans([*there, *BASELINE_ROWS], accuracy_drop_points=0.5)
    assert list(found) == [setting(), far]
    assert found[far].row.selection_accuracy == 0.70


def test_settings_and_scenes_are_in_order() -> None:
    places = [setting(10, 5, 2), setting(1, 80), setting(10, 5), setting(1, 5)]
    rows = [row(1, 0.9, setting=place) for place in places]
    assert list(by_setting(rows)) == [setting(1, 5), setting(10, 5), setting(1, 80), setting(10, 5, 2)]
    assert [len(scene) for scene in scenes(rows)] == [3, 1]


def test_the_front_has_no_row_that_another_beats() -> None:
    rows = [row(10, 0.8), row(20, 0.7), row(20, 0.9), row(30, 0.9), row(40, 0.95)]
    assert [(r.mean_ms, r.accuracy) for r in accuracy_front(rows, "mean_ms")] == [(10, 0.8), (20, 0.9), (40, 0.95)]


def finished(*more: object) -> Sweep:
    return Sweep([*BASELINE_ROWS, *more], BASE, measured().profile, (5, 5), 0.5)  # type: ignore[list-item]


def test_what_an_edge_does_not_hold_is_judged_apart() -> None:
    whole = row(5, 0.90, cut=2)
    held, every = finished(whole).holdings().items()
    assert held[0] == "the edge holds stage 0 only"
    assert [best.row for best in held[1].values()] == [BASELINE_ROWS[2]]
    assert every[0] == "the edge may hold every stage"
    assert [best.row for best in every[1].values()] == [whole]
    assert len(finished().holdings()) == 1


def test_the_figures_are_json_with_the_documented_keys() -> None:
    figures = json.loads(json.dumps(finished(row(5, 0.90, cut=2)).figures()))
    assert set(figures) == {"scenario", "samples", "accuracy_drop_points", "best_plans", "rows"}
    assert figures["samples"] == {"selection": 5, "reported": 5}
    assert len(figures["rows"]) == 4
    assert len(figures["best_plans"]) == 2
    extra = {"edge_holds", "best_baseline", "best_baseline_mean_ms", "gain"}
    assert set(figures["best_plans"][0]) == set(figures["rows"][0]) | extra
    assert figures["best_plans"][1]["gain"] == pytest.approx(10)


def test_words_of_a_best_of() -> None:
    (best,) = best_plans([*BASELINE_ROWS, row(30, 0.90)], 0.005).values()
    assert cell_lines(best) == ("cut 1", "at 0.7", "1.67×")
    (best,) = best_plans(BASELINE_ROWS, 0.005).values()
    assert cell_lines(best) == ("today's plan", "at 0.7", "1×")


def test_kinds_of_plans_look_different() -> None:
    kinds = [look_of(r, 3) for r in (BASELINE_ROWS[0], *(row(1, 1, cut=cut) for cut in range(4)))]
    assert [look.kind for look in kinds] == [
        "edge only", "cut 0: all in the cloud", "cut 1: split", "cut 2: split", "cut 3: all at the edge"
    ]  # fmt: skip
    assert len({look.colour for look in kinds}) == 5
