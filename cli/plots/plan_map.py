"""Which plan wins over which link, as a plot: uplink across, round trip up, one colour for each cut and codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.files import write_figure
from branchynet.placement.plan import Plan, plain_codec
from branchynet.placement.serving_profile import Link

__all__ = ["RTTS_MS", "UPLINKS_MBPS", "draw_map", "way_words"]

UPLINKS_MBPS = np.geomspace(0.25, 1_000, 37)
RTTS_MS = np.geomspace(1, 300, 25)

# Okabe and Ito's colours, which readers with any colour vision tell apart.
_ALONE, _RAW, _NONE = "#bbbbbb", "#56b4e9", "#ffffff"
_OTHERS = ("#0072b2", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00")
_HATCHES = ("", "//", "..", "xx")


def way_words(plan: Plan, stages: int) -> str:
    """Cut and codec of *plan*, for a network of *stages* stages, in a few words."""
    if plan.edge_only:
        return "edge only"
    if plan.cut == stages:
        return "all stages at the edge"
    return f"cut {plan.cut}, {plan.codec}"


def draw_map(
    winning: NDArray[np.int64], ways: tuple[Plan, ...], stages: int, link: Link, path: Path, title: str
) -> None:
    """Write which of *ways* wins where, *winning* [R, U] over `RTTS_MS` and `UPLINKS_MBPS`, -1 for none; .png or .svg.

    The cross is *link*. The same arguments give the same file.
    """
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "branchynet", "hatch.linewidth": 0.6}):
        figure = _figure(9.0, 5.4)
        figure.suptitle(title, fontsize=11)
        axes = figure.subplots()
        handles = _fill(axes, winning, ways, stages)
        handles += axes.plot(
            link.uplink_mbps, link.rtt_ms, "x", c="black", ms=9, mew=2, ls="", clip_on=False, label="the link asked for"
        )
        axes.set(xscale="log", yscale="log", xlabel="uplink, Mbit/s", ylabel="round trip, ms")
        axes.set(xlim=_edges(UPLINKS_MBPS)[[0, -1]], ylim=_edges(RTTS_MS)[[0, -1]])
        for axis, ticks in ((axes.xaxis, (0.25, 1, 5, 25, 100, 1_000)), (axes.yaxis, (1, 5, 20, 50, 100, 300))):
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.set_ticks([], minor=True)
        figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
        write_figure(path, figure, dpi=120)


def _fill(axes: Any, winning: NDArray[np.int64], ways: tuple[Plan, ...], stages: int) -> list[Any]:
    """Colour the cells; what the legend says of them, largest first."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    present, cells = np.unique(winning, return_counts=True)
    looks = _looks([int(way) for way in present], ways)
    handles = []
    for way in present[np.argsort(-cells, kind="stable")]:
        colour, hatch = looks[int(way)]
        words = "none within the limits" if way < 0 else way_words(ways[way], stages)
        look: dict[str, Any] = {"edgecolor": "#444444", "hatch": hatch}
        mask = np.ma.masked_where(winning != way, winning)
        colours = ListedColormap([colour])
        axes.pcolor(_edges(UPLINKS_MBPS), _edges(RTTS_MS), mask, cmap=colours, **look, linewidth=0, antialiased=False)
        handles.append(Patch(facecolor=colour, **look, linewidth=0.6, label=words))
    return handles


def _looks(present: list[int], ways: tuple[Plan, ...]) -> dict[int, tuple[str, str]]:
    """Colour and hatch of each way."""
    looks = {}
    others = 0
    for way in present:
        if way < 0:
            looks[way] = _NONE, ""
        elif ways[way].edge_only:
            looks[way] = _ALONE, ""
        elif ways[way].codec == plain_codec(0):
            looks[way] = _RAW, ""
        else:
            looks[way] = _OTHERS[others % len(_OTHERS)], _HATCHES[others // len(_OTHERS) % len(_HATCHES)]
            others += 1
    return looks


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ends of cells around *values* [N], evenly on a logarithmic scale: float64 [N + 1]."""
    step = np.sqrt(values[1] / values[0])
    return np.append(values / step, values[-1] * step)


def _figure(width_in: float, height_in: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
