"""A sweep as one HTML page that needs no network: maps of the winning plans, fronts with sliders, tables.

The plots are written in plotly's own terms (https://plotly.com/javascript/reference), which its script, put into the
page, draws.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from branchynet.exits.outcomes import wilson_interval
from branchynet.files import write_text
from simulations.sweep.best_plans import BestPlan, Sweep, accuracy_front, by_setting, scenes
from simulations.sweep.results import BASELINES, Row, Setting, rule_name
from simulations.sweep.style import BASELINE_MARKS, cell_lines, link_words, look_of, scene_words

__all__ = ["write_report"]

MAX_LABELLED_CELLS = 250
_AXES = {
    "slowdown": ("edge slowdown", "×"),
    "edges": ("edges", ""),
    "rate_per_s": ("requests per edge", "/s"),
    "max_batch": ("cloud's largest batch", ""),
    "rtt_ms": ("round trip", " ms"),
    "uplink_mbps": ("uplink", " Mbit/s"),
}
_FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#222"}


def write_report(sweep: Sweep, path: Path, title: str) -> None:
    """Write the page to *path*. Needs plotly."""
    from plotly.offline import get_plotlyjs

    holdings = sweep.holdings()
    groups = by_setting(sweep.rows)
    maps = [
        _map(f"{scene_words(settings[0])}; {holding}", [found[setting] for setting in settings], sweep.stages)
        for settings in scenes(sweep.rows)
        for holding, found in holdings.items()
    ]
    data = {
        "maps": maps,
        "axes": _axes(groups),
        "layout": _fronts_layout(sweep.rows),
        "fronts": [_front_traces(rows, sweep) for rows in groups.values()],
    }
    page = Template(
        resources.files("simulations.sweep").joinpath("report.html").read_text(encoding="utf-8")
    ).substitute(
        title=html.escape(title),
        story="\n".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in _story(sweep)),
        accuracy_drop_points=f"{sweep.accuracy_drop_points:.3g} points",
        maps="\n".join(
            f'<div class="wide"><div class="plot" id="map-{number}" style="height:{map_["layout"]["height"]}px">'
            "</div></div>"
            for number, map_ in enumerate(maps)
        ),
        table=_table(sweep, groups, holdings),
        profile=_profile(sweep),
        # A script ends at the first `</script`, also within a string.
        data=json.dumps(data, ensure_ascii=False).replace("</", "<\\/"),
        plotly=get_plotlyjs(),
    )
    write_text(path, page)


def _story(sweep: Sweep) -> list[str]:
    """What was simulated, a paragraph each."""
    base = sweep.base
    settings = len(by_setting(sweep.rows))
    selection, reported = sweep.samples
    low, high = wilson_interval(0.9, reported)
    load, limits, cloud = base.workload, base.limits, base.cloud
    return [
        f"{len(sweep.rows):,} simulations: {len(sweep.rows) // settings} plans at each of {settings} links and loads. "
        f"In each, every edge is asked {load.requests:,} times ({load.arrivals.value} arrivals, seed {base.seed}) with "
        f"a deadline of {limits.deadline_ms:g} ms, at most {limits.offload_timeout_ms:g} ms for an offload, "
        f"{base.link.downlink_mbps:g} Mbit/s down, clouds: {base.clouds}, workers in each: {cloud.workers}.",
        f"Outcomes are real: what the network's exits said about {selection + reported:,} test images. Plans were "
        f"chosen on {selection:,} of them; requests were simulated with the other {reported:,}, and all figures are "
        f"theirs unless they say otherwise. With so many, 90 % right means {100 * low:.1f} to {100 * high:.1f} % (95 % "
        "interval); all plans had the same ones, so their differences are surer than that.",
    ]


def _axes(settings: Iterable[Setting]) -> list[dict[str, Any]]:
    """Names, units and values of what settings are made of, in the order in which settings are sorted."""
    columns = zip(*map(astuple, settings), strict=True)
    return [
        {"name": _AXES[field.name][0], "unit": _AXES[field.name][1], "values": [_short(v) for v in sorted(set(column))]}
        for field, column in zip(fields(Setting), columns, strict=True)
    ]


def _map(title: str, cells: list[BestPlan], stages: int) -> dict[str, Any]:
    uplinks = sorted({cell.row.setting.uplink_mbps for cell in cells})
    rtts = sorted({cell.row.setting.rtt_ms for cell in cells})
    looks = {look.kind: look for look in sorted((look_of(cell.row, stages) for cell in cells), key=lambda x: x.kind)}
    kinds = list(looks)
    at = {(cell.row.setting.rtt_ms, cell.row.setting.uplink_mbps): cell for cell in cells}
    grid = [[at[rtt_ms, uplink_mbps] for uplink_mbps in uplinks] for rtt_ms in rtts]
    heat = {
        "type": "heatmap",
        "x": [_short(value) for value in uplinks],
        "y": [_short(value) for value in rtts],
        "z": [[kinds.index(look_of(cell.row, stages).kind) for cell in line] for line in grid],
        "text": [["<br>".join(cell_lines(cell)) for cell in line] for line in grid],
        "hovertext": [[f"{_hover(cell.row)}<br>{_against(cell)}" for cell in line] for line in grid],
        "hoverinfo": "text",
        "zmin": -0.5,
        "zmax": len(kinds) - 0.5,
        "colorscale": _steps([look.colour for look in looks.values()]),
        "showscale": False,
        "textfont": {"color": "#000"},
        "xgap": 2,
        "ygap": 2,
    }
    if len(cells) <= MAX_LABELLED_CELLS:
        heat["texttemplate"] = "%{text}"
    # A heat map of kinds has no legend of its own; marks outside the picture make one.
    legend = [
        {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "name": look.kind,
         "marker": {"symbol": "square", "size": 12, "color": look.colour}}
        for look in looks.values()
    ]  # fmt: skip
    layout = {
        "title": {"text": title, "font": {"size": 15}, "x": 0.01},
        "font": _FONT,
        "height": 150 + 58 * len(rtts),
        "margin": {"l": 70, "r": 20, "t": 40, "b": 90},
        "xaxis": {"type": "category", "title": {"text": "uplink, Mbit/s"}, "showgrid": False},
        "yaxis": {"type": "category", "title": {"text": "round trip, ms"}, "showgrid": False},
        "legend": {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "itemclick": False,
                   "itemdoubleclick": False},
        "showlegend": True,
    }  # fmt: skip
    return {"data": [heat, *legend], "layout": layout}


def _steps(colours: list[str]) -> list[list[float | str]]:
    """A colour scale of even steps."""
    count = len(colours)
    return [[edge / count, colour] for number, colour in enumerate(colours) for edge in (number, number + 1)]


def _front_traces(rows: list[Row], sweep: Sweep) -> list[dict[str, Any]]:
    """Left panel: latency; right panel: bytes. As many traces at every setting, so that a slider keeps their order."""
    traces: list[dict[str, Any]] = []
    for cost, axes in (("mean_ms", ("x", "y")), ("uplink_bytes", ("x2", "y2"))):
        fitting = [row for row in rows if row.plan.cut <= sweep.profile.held]
        for group, dash in ((rows, "solid"), (fitting, "dot")):
            front = accuracy_front(group, cost)
            traces.append({**_marks(front, cost, axes), "mode": "lines", "hoverinfo": "skip", "showlegend": False,
                           "line": {"color": "#888", "width": 1.2, "dash": dash}})  # fmt: skip
        looks = {look.kind: look for look in sorted((look_of(r, sweep.stages) for r in rows), key=lambda x: x.kind)}
        for kind, look in looks.items():
            own = [row for row in rows if not row.name and look_of(row, sweep.stages).kind == kind]
            marker = {"symbol": look.symbol, "size": 11, "color": look.colour, "line": {"color": "#444", "width": 0.7}}
            if own:
                traces.append({**_marks(own, cost, axes), "name": kind, "marker": marker})
        for row in rows:
            if row.name:
                symbol = BASELINE_MARKS[row.name][0]
                marker = {"symbol": symbol, "size": 13, "color": "#000", "line": {"color": "#000", "width": 2}}
                traces.append({**_marks([row], cost, axes), "name": row.name, "marker": marker})
    return traces


def _marks(rows: list[Row], cost: str, axes: tuple[str, str]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [round(getattr(row, cost), 3) for row in rows],
        "y": [round(100 * row.accuracy, 3) for row in rows],
        "xaxis": axes[0],
        "yaxis": axes[1],
        "text": [_hover(row) for row in rows],
        "hoverinfo": "text",
        "showlegend": axes[0] == "x",
    }


def _fronts_layout(rows: Sequence[Row]) -> dict[str, Any]:
    """The same axes at every setting, so that moving a slider shows what changes."""
    low, high = 100 * min(row.accuracy for row in rows), 100 * max(row.accuracy for row in rows)
    room = max(0.06 * (high - low), 0.1)
    fast, slow = (math.log10(end(row.mean_ms for row in rows)) for end in (min, max))
    most = max(row.uplink_bytes for row in rows)
    accuracy = {"range": [low - room, high + room], "gridcolor": "#eee", "zeroline": False}
    return {
        "font": _FONT,
        "margin": {"l": 60, "r": 20, "t": 20, "b": 110},
        "plot_bgcolor": "#fff",
        "hoverlabel": {"align": "left", "bgcolor": "#fff"},
        "xaxis": {"type": "log", "range": [fast - 0.1, slow + 0.1], "domain": [0, 0.47], "gridcolor": "#eee",
                  "dtick": "D2", "title": {"text": "mean latency, ms"}},
        "xaxis2": {"range": [-0.04 * most - 1, 1.05 * most + 1], "domain": [0.54, 1], "gridcolor": "#eee",
                   "zeroline": False, "title": {"text": "uplink bytes a request"}},
        "yaxis": {**accuracy, "title": {"text": "accuracy, %"}},
        "yaxis2": {**accuracy, "anchor": "x2"},
        "legend": {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom"},
    }  # fmt: skip


def _hover(row: Row) -> str:
    """Everything about a row."""
    lines = [
        f"<b>{html.escape(row.name)}</b>" if row.name else "",
        f"cut {row.plan.cut}" + (", never offloads" if row.plan.edge_only else ""),
        html.escape(rule_name(row.plan)),
        f"accuracy {100 * row.accuracy:.2f} % (selection half {100 * row.selection_accuracy:.2f} %)",
        f"latency: mean {row.mean_ms:.1f}, p50 {row.p50_ms:.1f}, p95 {row.p95_ms:.1f}, p99 {row.p99_ms:.1f} ms",
        f"{row.uplink_bytes:.0f} bytes up a request",
        f"answered: edge {100 * row.edge_share:.1f} %, cloud {100 * row.cloud_share:.1f} %, "
        f"fallback {100 * row.fallback_share:.1f} %",
        f"in time {100 * row.in_time:.1f} %; link: {link_words(row.setting)}",
    ]
    return "<br>".join(line for line in lines if line)


def _against(best: BestPlan) -> str:
    return f"{best.gain:.3g} times faster than {best.baseline.name} ({best.baseline.mean_ms:.1f} ms)"


def _table(sweep: Sweep, groups: dict[Setting, list[Row]], holdings: dict[str, dict[Setting, BestPlan]]) -> str:
    heads = ("uplink<br>Mbit/s", "round trip<br>ms", "", "plan", "mean<br>ms", "p95<br>ms", "accuracy<br>%",
             "bytes up", "times<br>faster")  # fmt: skip
    lines = []
    for settings in scenes(sweep.rows):
        lines.append(f'<tr><th class="word" colspan="{len(heads)}">{html.escape(scene_words(settings[0]))}</th></tr>')
        for setting in settings:
            named = {row.name: row for row in groups[setting] if row.name}
            found = {holding: best_plans[setting] for holding, best_plans in holdings.items()}
            lines += [_line(setting if name == BASELINES[0] else None, name, "", named[name]) for name in BASELINES]
            lines += [
                _line(None, holding, best.row.label, best.row, f"{best.gain:.3g}") for holding, best in found.items()
            ]
    head = "".join(f"<th{' class=word' * (head in ('', 'plan'))}>{head}</th>" for head in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _line(setting: Setting | None, name: str, plan: str, row: Row, gain: str = "") -> str:
    """A line of the table; the first one of each link names it."""
    link = (_short(setting.uplink_mbps), _short(setting.rtt_ms)) if setting else ("", "")
    values = (f"{row.mean_ms:.1f}", f"{row.p95_ms:.1f}", f"{100 * row.accuracy:.2f}", f"{row.uplink_bytes:.0f}", gain)
    cells = [f"<td>{value}</td>" for value in link]
    cells += [f'<td class="word">{html.escape(words)}</td>' for words in (name, plan)]
    cells += [f"<td>{value}</td>" for value in values]
    style = ' class="best"' if plan else ' class="link"' if setting else ""
    return f"<tr{style}>{''.join(cells)}</tr>"


def _profile(sweep: Sweep) -> str:
    profile = sweep.profile
    sizes = [*profile.message_bytes[1:], None]
    rows = [
        f"<tr><td>{stage}</td><td>{'exit' if stage in profile.exit_stages else ''}</td>"
        f"<td>{edge[0]:.3f}</td><td>{cloud[0]:.3f}</td><td>{'–' if size is None else f'{size:,}'}</td></tr>"
        for stage, (edge, cloud, size) in enumerate(zip(profile.edge.ms, profile.cloud.ms, sizes, strict=True))
    ]
    rest = (
        f"A raw input takes {profile.message_bytes[0]:,} bytes, framing {profile.framing_bytes}, a reply "
        f"takes {profile.reply_bytes}. Beside its stages a request takes {profile.request_ms:.2f} ms at the edge, "
        f"an offload {profile.offload_ms:.2f} ms. Edges held {profile.held} of {sweep.stages} stages."
    )
    head = "<tr><th>stage</th><th></th><th>edge, ms</th><th>cloud, ms</th><th>bytes of a cut behind it</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table><p class=note>{rest}</p>"


def _short(value: float) -> str:
    return f"{value:.3g}"
