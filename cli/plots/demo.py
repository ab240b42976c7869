"""The demonstration's figures as a plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from branchynet.files import write_figure
from orchestrator.runs.demo import Row

__all__ = ["draw_demo"]

_COLOURS = {"edge": "#2a9d8f", "cloud": "#3a6ea5", "fallback": "#c1121f", "lost": "#222222"}
_SETUP_COLOURS = ("#2a9d8f", "#8d99ae", "#3a6ea5", "#e9c46a")


def draw_demo(rows: list[Row], path: Path, title: str) -> None:
    """Write a PNG with three panels: who answered, latency, bytes over the uplink."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    shares, latency, uplink = figure.subplots(1, 3, width_ratios=(1.15, 1.25, 1))
    figure.suptitle(title)
    names = [row.setup for row in rows]
    for index, row in enumerate(rows):
        left = 0.0
        for place, share in row.report.share_by_exit().items():
            colour = _COLOURS[place.partition("/")[0]]
            shares.barh(index, 100 * share, left=100 * left, color=colour, edgecolor="white", height=0.6)
            if share > 0.08:
                shares.text(100 * (left + share / 2), index, f"{place}\n{100 * share:.1f} %", ha="center", va="center",
                            color="white", fontsize=9)  # fmt: skip
            left += share
        shares.text(102, index, f"{100 * row.report.accuracy:.1f} %", va="center", fontsize=10)
        ordered = np.sort(row.report.latencies_ms)
        latency.step(
            ordered,
            np.arange(1, len(ordered) + 1) / len(ordered) * 100,
            where="post",
            lw=2,
            color=_SETUP_COLOURS[index],
            label=f"{row.setup} (p50 {row.report.percentile_ms(50):.1f} ms)",
        )
    shares.set(yticks=range(len(rows)), yticklabels=names, xlim=(0, 118), xlabel="% of images",
               title="who answered, and accuracy")  # fmt: skip
    shares.invert_yaxis()
    latency.set(xscale="log", xlabel="latency, ms", ylabel="% of requests answered", title="latency")
    latency.grid(alpha=0.3)
    latency.legend(fontsize=8, loc="upper left")
    bars = uplink.bar(names, [row.link_bytes_per_request for row in rows], color=_SETUP_COLOURS[: len(rows)], width=0.6)
    uplink.bar_label(bars, fmt="%.0f")
    uplink.margins(y=0.15)
    uplink.set(ylabel="bytes per image, framing counted", title="over the uplink")
    uplink.tick_params(axis="x", labelsize=8)
    for axes in (shares, latency, uplink):
        axes.spines[["top", "right"]].set_visible(False)
    write_figure(path, figure, dpi=130)
