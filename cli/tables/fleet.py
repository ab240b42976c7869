"""What `branchynet fleet` shows: hosts while they run, and the figures at the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cli.options import console
from cli.tables.live import LiveView
from cli.tables.requests import print_figures

if TYPE_CHECKING:
    from orchestrator.runs.fleet import HostLoad

__all__ = ["FleetView", "print_run"]

COLUMNS = ("nodes up", "restarts", "CPU %", "MB", "sent", "answered", "fallback", "retried", "lost", "p50 ms", "p95 ms")


class FleetView(LiveView):
    """A table with a line for each host on a terminal, a line of text every few seconds elsewhere."""

    def show_loads(self, loads: list[HostLoad]) -> None:
        """Show how things stand."""
        self.show(lambda: _table(loads), lambda: _line(loads))


def print_run(figures: dict[str, Any]) -> None:
    """Print the figures of a run as a table with a line for each."""
    title = f"{figures['scenario']}: {figures['edges']:,} {figures['nodes']} edges, {figures['clouds']} clouds"
    print_figures(title, figures, _lines_of_run(figures))
    if figures["interrupted"]:
        console.print(f"stopped early: {figures['requests']:,} of {figures['planned']:,} requests had ended")


def _lines_of_run(figures: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if "restarts" in figures:
        yield "restarts of hosts", f"{figures['restarts']:,}"
    if "shards" in figures:
        yield "shards", f"{figures['shards']:,}"
    yield "wall time", f"{figures['wall_s']:,.1f} s"
    memory = figures["peak_memory_mb"]
    yield "peak memory, driver + others", f"{memory['driver']:,} + {memory['others']:,} MB"


def _table(loads: list[HostLoad]) -> Table:
    table = Table("host", *COLUMNS)
    for column in table.columns[1:]:
        column.justify = "right"
    for load in loads:
        host, health = load.host, load.host.health
        percentiles = [load.percentile_ms(percent) for percent in (50, 95)]
        counts: list[object] = [load.sent, load.answered, load.fallback, load.retried, load.lost]
        if not host.edges:  # it is the edges that requests are sent to
            counts = ["", sum(host.answered.values()), "", "", ""]
        table.add_row(
            host.name,
            f"{host.nodes_up}/{len(host.specs)}",
            str(host.restarts),
            f"{health.cpu_percent:.0f}" if health and host.up else "",
            f"{health.rss_bytes / 1e6:.0f}" if health and host.up else "",
            *map(str, counts),
            *("" if value is None else f"{value:.1f}" for value in percentiles),
        )
    return table


def _line(loads: list[HostLoad]) -> str:
    nodes = sum(len(load.host.specs) for load in loads)
    up = sum(load.host.nodes_up for load in loads)
    sums = {
        name: sum(getattr(load, name) for load in loads) for name in ("sent", "answered", "fallback", "retried", "lost")
    }
    medians = [value for load in loads if (value := load.percentile_ms(50)) is not None]
    spread = f", p50 {min(medians):.1f} – {max(medians):.1f} ms" if medians else ""
    counts = ", ".join(f"{name} {count}" for name, count in sums.items())
    return f"{up}/{nodes} nodes up, {counts}{spread}"
