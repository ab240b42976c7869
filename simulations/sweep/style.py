"""Colours, marks and words that the plots and the report of a sweep share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.sweep.best_plans import BestPlan
from simulations.sweep.results import BASELINES, Row, Setting

__all__ = ["BASELINE_MARKS", "Style", "cell_lines", "link_words", "look_of", "scene_words", "spread"]

# Okabe and Ito's colours, which readers with any colour vision tell apart; all are light enough for black letters.
_SKY, _GREEN, _GREY = "#56b4e9", "#2fb58d", "#bbbbbb"
_BETWEEN = ("#e69f00", "#cc79a7", "#f0e442", "#e5823d")
_SYMBOLS = (("square", "s"), ("triangle-up", "^"), ("triangle-down", "v"), ("hexagon", "h"))
# Plotly's and matplotlib's names of the marks.
BASELINE_MARKS = dict(zip(BASELINES, (("x-thin", "x"), ("cross-thin", "+"), ("star", "*")), strict=True))


@dataclass(frozen=True, slots=True)
class Style:
    """How plans of one kind are shown: *symbol* for plotly, *marker* for matplotlib."""

    kind: str
    colour: str
    symbol: str
    marker: str


def look_of(row: Row, stages: int) -> Style:
    """The look of a row's plan, by where it cuts a network of *stages* stages."""
    cut = row.plan.cut
    if row.plan.edge_only:
        return Style("edge only", _GREY, "circle", "o")
    if cut == 0:
        return Style("cut 0: all in the cloud", _SKY, "diamond", "D")
    if cut == stages:
        return Style(f"cut {cut}: all at the edge", _GREEN, "circle", "o")
    symbol, marker = _SYMBOLS[(cut - 1) % len(_SYMBOLS)]
    return Style(f"cut {cut}: split", _BETWEEN[(cut - 1) % len(_BETWEEN)], symbol, marker)


def cell_lines(best: BestPlan) -> tuple[str, str, str]:
    """A plan in a few letters: which one, its thresholds, its gain over the best baseline."""
    row = best.row
    thresholds = "/".join(f"{value:.2g}" for value in row.plan.rule.thresholds)
    return row.name or f"cut {row.plan.cut}", f"at {thresholds}", f"{best.gain:.3g}×"


def link_words(setting: Setting) -> str:
    """The link of a setting: `10 Mbit/s, 40 ms`."""
    return f"{setting.uplink_mbps:.3g} Mbit/s, {setting.rtt_ms:.3g} ms"


def scene_words(setting: Setting) -> str:
    """The rest of a setting."""
    words = [
        f"{setting.edges} edge{'s' if setting.edges > 1 else ''}",
        f"{setting.rate_per_s:.3g} requests/s each",
    ]
    if setting.slowdown != 1:
        words.append(f"edge {setting.slowdown:.3g} times as slow as measured")
    if setting.max_batch != 1:
        words.append(f"the cloud takes up to {setting.max_batch} at once")
    return ", ".join(words)


def spread(values: list[float], most: int) -> list[float]:
    """Up to *most* of *values*, evenly, the first and the last among them."""
    chosen = sorted({round(position) for position in np.linspace(0, len(values) - 1, most)})
    return [values[position] for position in chosen]
