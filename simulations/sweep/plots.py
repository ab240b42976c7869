"""A sweep as PNG: the winning plans over the links, and accuracy against latency and bytes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from branchynet.files import write_figure
from simulations.sweep.best_plans import BestPlan, Sweep, accuracy_front, by_setting, scenes
from simulations.sweep.results import Row, Setting
from simulations.sweep.style import BASELINE_MARKS, Style, cell_lines, link_words, look_of, scene_words, spread

__all__ = ["draw_best_plans", "draw_fronts"]

MAX_PANELS_UP, MAX_PANELS_ACROSS = 4, 4
MAX_SCENES = 4
MAX_LABELLED_CELLS = 150


def draw_best_plans(sweep: Sweep, path: Path, title: str) -> None:
    """Write a heat map of the winning plan over uplink and round trip, for each scene and each holding."""
    maps = [
        (f"{scene_words(settings[0])}; {holding}", {setting: found[setting] for setting in settings})
        for settings in scenes(sweep.rows)[:MAX_SCENES]
        for holding, found in sweep.holdings().items()
    ]
    across = max(len({setting.uplink_mbps for setting in cells}) for _, cells in maps)
    up = max(len({setting.rtt_ms for setting in cells}) for _, cells in maps)
    figure = _figure(max(1.6 + 1.12 * across, 8.0), len(maps) * (1.0 + 0.7 * up) + 1.1)
    figure.suptitle(f"{title}\nfastest plan that is accurate enough, and its gain over the best baseline")
    looks: dict[str, Style] = {}
    for axes, (words, cells) in zip(figure.subplots(len(maps), 1, squeeze=False)[:, 0], maps, strict=True):
        looks |= _draw_map(axes, cells, sweep.stages)
        axes.set_title(words, fontsize=10)
    _legend(figure, looks.values(), baselines=False)
    write_figure(path, figure, dpi=120)


def draw_fronts(sweep: Sweep, path: Path, title: str) -> None:
    """Write accuracy over mean latency at up to 16 links, with marks as large as the bytes are many."""
    scene = scenes(sweep.rows)[0]
    rtts = spread(sorted({setting.rtt_ms for setting in scene}), MAX_PANELS_UP)
    uplinks = spread(sorted({setting.uplink_mbps for setting in scene}), MAX_PANELS_ACROSS)
    groups = {(setting.rtt_ms, setting.uplink_mbps): (setting, rows) for setting, rows in by_setting(sweep.rows).items()
              if setting in set(scene)}  # fmt: skip
    figure = _figure(max(3.1 * len(uplinks), 7.5), 2.4 * len(rtts) + 1.3)
    figure.suptitle(
        f"{title}; {scene_words(scene[0])}\nlarger marks send more bytes; lines: fronts of all plans and (dashed) "
        "of those that fit today's edge"
    )
    panels = figure.subplots(len(rtts), len(uplinks), squeeze=False, sharex=True, sharey=True)
    most_bytes = max(row.uplink_bytes for row in sweep.rows) or 1.0
    looks: dict[str, Style] = {}
    for (i, rtt_ms), (j, uplink_mbps) in itertools.product(enumerate(rtts), enumerate(uplinks)):
        setting, rows = groups[rtt_ms, uplink_mbps]
        looks |= _draw_front(panels[i, j], rows, sweep, most_bytes)
        panels[i, j].set_title(link_words(setting), fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("mean latency, ms")
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy, %")
    _legend(figure, looks.values(), baselines=True)
    write_figure(path, figure, dpi=120)


def _draw_map(axes: Any, cells: dict[Setting, BestPlan], stages: int) -> dict[str, Style]:
    from matplotlib.patches import Rectangle

    uplinks = sorted({setting.uplink_mbps for setting in cells})
    rtts = sorted({setting.rtt_ms for setting in cells})
    looks = {}
    for setting, best in cells.items():
        x, y = uplinks.index(setting.uplink_mbps), rtts.index(setting.rtt_ms)
        look = look_of(best.row, stages)
        looks[look.kind] = look
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=look.colour, edgecolor="white", lw=1.5))
        if len(cells) <= MAX_LABELLED_CELLS:
            axes.text(x, y, "\n".join(cell_lines(best)), ha="center", va="center", fontsize=8, linespacing=1.15)
    axes.set(
        xlim=(-0.5, len(uplinks) - 0.5),
        ylim=(-0.5, len(rtts) - 0.5),
        xticks=range(len(uplinks)),
        xticklabels=[f"{value:.3g}" for value in uplinks],
        yticks=range(len(rtts)),
        yticklabels=[f"{value:.3g}" for value in rtts],
        xlabel="uplink, Mbit/s",
        ylabel="round trip, ms",
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return looks


def _draw_front(axes: Any, rows: Sequence[Row], sweep: Sweep, most_bytes: float) -> dict[str, Style]:
    looks = {}
    for row in rows:
        look = look_of(row, sweep.stages)
        mark, accuracy = BASELINE_MARKS.get(row.name), 100 * row.accuracy
        if mark is not None:
            axes.scatter(row.mean_ms, accuracy, s=70, c="black", marker=mark[1], lw=1.4, zorder=3)
            continue
        looks[look.kind] = look
        size = 16 + 130 * row.uplink_bytes / most_bytes
        axes.scatter(row.mean_ms, accuracy, s=size, c=look.colour, marker=look.marker, alpha=0.85,
                     edgecolors="#444444", linewidths=0.5, zorder=2)  # fmt: skip
    fitting = [row for row in rows if row.plan.cut <= sweep.profile.held]
    for group, style in ((rows, "-"), (fitting, "--")):
        front = accuracy_front(group, "mean_ms")
        axes.plot([row.mean_ms for row in front], [100 * row.accuracy for row in front], style, c="#888888", lw=1,
                  zorder=1)  # fmt: skip
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return looks


def _legend(figure: Any, looks: Any, *, baselines: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=look.marker if baselines else "s",
            markersize=8,
            color=look.colour,
            label=look.kind,
            markeredgecolor="#444444",
            markeredgewidth=0.5,
        )
        for look in sorted(looks, key=lambda look: look.kind)
    ]
    if baselines:
        handles += [
            Line2D([], [], ls="", marker=marker, markersize=8, color="black", label=name)
            for name, (_, marker) in BASELINE_MARKS.items()
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)


def _figure(width_in: float, height_in: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
