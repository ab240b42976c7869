"""The figures of `branchynet study drift` as a plot: one line for each corruption, from clean to severity 5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from branchynet.files import write_figure

__all__ = ["draw"]

_COLOURS = {"noise": "#c1121f", "blur": "#3a6ea5", "brightness": "#e9a23b", "contrast": "#2a9d8f"}


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write accuracy, share of the first exit, MACs and samples until the alarm to *path*, by its suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4)
    clean, *rows = figures["rows"]
    for kind, colour in _COLOURS.items():
        course = [clean, *(row for row in rows if row["corruption"] == kind)]
        severity = [row["severity"] for row in course]
        for panel, fixed, retuned, scale in (
            (panels[0], "accuracy", "retuned_accuracy", 100),
            (panels[1], "exit_shares", "retuned_shares", 100),
            (panels[2], "macs", "retuned_macs", 1e-6),
        ):
            for name, style in ((fixed, "-"), (retuned, "--")):
                values = [scale * (row[name][0] if name.endswith("shares") else row[name]) for row in course]
                panel.plot(severity, values, style, marker="o", ms=3, color=colour)
        noticed = [(row["severity"], row["alarm_after"]) for row in course[1:] if row["alarm_after"] is not None]
        panels[3].plot([at for at, _ in noticed], [after for _, after in noticed], "-o", ms=3, color=colour, label=kind)
    panels[2].axhline(figures["budget_macs"] / 1e6, color="grey", lw=0.8)
    panels[0].plot([], [], "k-", label="calibrated rule")
    panels[0].plot([], [], "k--", label="re-tuned")
    for panel, title in zip(
        panels,
        ("accuracy, %", "leave at the first exit, %", "M MACs (grey: budget)", "samples until the alarm"),
        strict=True,
    ):
        panel.set(title=title, xlabel="severity (0: clean)", xticks=range(6))
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8)
    panels[3].set(yscale="log")
    panels[3].legend(fontsize=8)
    figure.suptitle(f"{figures['artifact']} on {figures['images']:,} images of {figures['dataset']}, made worse")
    write_figure(path, figure, dpi=120)
