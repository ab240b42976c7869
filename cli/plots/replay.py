"""A replayed link as a plot: its rate, the plans that were chosen on it, and the latencies of several edges."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from branchynet.files import write_figure
from branchynet.placement.plan import Plan
from cli.plots.plan_map import way_words
from simulations.link.capacity import Capacity
from simulations.model.request_records import FALLBACK, Records

__all__ = ["draw_replay"]

_COLOURS = ("#c1121f", "#3a6ea5", "#2a9d8f", "#8d99ae")
_PLANS = ("#f4d58d", "#bde0fe", "#cdeac0", "#e4c1f9", "#ffcfd2", "#d9d9d9", "#fde4cf", "#98f5e1")
# Latencies are means over so many seconds, so that lines can be told apart.
WINDOW_S = 3.0
SLOWEST_MBPS = 0.01


def draw_replay(
    capacity: Capacity,
    start_s: float,
    edges: Mapping[str, Records],
    plans: Sequence[Plan],
    stages: int,
    deadline_ms: float,
    path: Path,
    title: str,
) -> None:
    """Write a PNG or SVG of two panels over time.

    *edges*: what became of the same requests at each edge; those of the first one were served by *plans*, the others by
    one plan each. The network has *stages* stages.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(13, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    rate, latency = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title)
    sent_s = next(iter(edges.values())).sent_s
    times_s = np.arange(0, np.ceil(sent_s[-1]) + 1)
    mbps = np.diff(capacity.bits_by(times_s + start_s)) / 1e6
    rate.step(times_s[:-1], np.maximum(mbps, SLOWEST_MBPS), where="post", color="black", lw=1)
    rate.set(yscale="log", ylabel="uplink, Mbit/s, each second")
    words = [way_words(plan, stages) for plan in plans]
    colours = dict(zip(dict.fromkeys(words), itertools.cycle(_PLANS), strict=False))
    begins = [0, *(np.flatnonzero([later != earlier for earlier, later in itertools.pairwise(words)]) + 1)]
    for begin, end in zip(begins, [*begins[1:], len(words) - 1], strict=True):
        rate.axvspan(sent_s[begin], sent_s[end], color=colours[words[begin]], lw=0)
    handles = [Patch(color=colour, label=word) for word, colour in colours.items()]
    rate.legend(handles=handles, fontsize=8, loc="lower right", title="plan of the edge that adapts", title_fontsize=8)
    for (name, records), colour in zip(edges.items(), _COLOURS, strict=False):
        missed = (records.latency_ms > deadline_ms) | (records.place >= FALLBACK)
        label = f"{name}: mean {records.latency_ms.mean():.1f} ms, {100 * (1 - missed.mean()):.1f} % in time"
        latency.plot(times_s, _running_mean(records, times_s), color=colour, lw=1.6, label=label)
        latency.plot(records.sent_s[missed], records.latency_ms[missed], "x", color=colour, ms=5)
    latency.axhline(deadline_ms, color="grey", lw=0.8, ls="--")
    latency.set(xlabel="s", ylabel=f"latency, ms: means of {WINDOW_S:g} s, × late or fallback")
    latency.legend(fontsize=8, loc="upper right")
    for axes in (rate, latency):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    write_figure(path, figure, dpi=110)


def _running_mean(records: Records, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean latency of the requests sent around each time; NaN where there is none."""
    first = np.searchsorted(records.sent_s, times_s - WINDOW_S / 2)
    last = np.searchsorted(records.sent_s, times_s + WINDOW_S / 2)
    sums = np.concatenate([[0.0], np.cumsum(records.latency_ms)])
    counts = (last - first).astype(np.float64)
    counts[counts == 0] = np.nan
    return np.asarray((sums[last] - sums[first]) / counts)
