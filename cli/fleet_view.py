"""What `branchynet fleet` shows: hosts while they run, and the figures at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.live import Live
from rich.table import Table

from cli.output import console

if TYPE_CHECKING:
    from orchestrator.fleet_run import HostLoad

__all__ = ["FleetView", "print_run"]

REFRESHES_PER_S = 4
# A log wants a line now and then.
LINE_EVERY_S = 5.0
COLUMNS = ("nodes up", "restarts", "CPU %", "MB", "sent", "answered", "fallback", "again", "lost", "p50 ms", "p95 ms")


class FleetView:
    """A table with a line for each host on a terminal, a line of text every few seconds elsewhere."""

    def __init__(self) -> None:
        self._live = (
            Live(console=console, refresh_per_second=REFRESHES_PER_S, transient=True) if console.is_terminal else None
        )
        self._started_s = self._said_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, loads: list[HostLoad]) -> None:
        """Show how things stand."""
        now_s = time.monotonic()
        if self._live is not None:
            self._live.update(_table(loads))
        elif now_s - self._said_s >= LINE_EVERY_S:
            self._said_s = now_s
            console.print(f"{now_s - self._started_s:5.0f} s  {_line(loads)}")


def print_run(figures: dict[str, Any]) -> None:
    """Print the figures of a run as a table with a line for each."""
    title = f"{figures['scenario']}: {figures['edges']:,} {figures['nodes']} edges, {figures['clouds']} clouds"
    table = Table(title=title, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    for name, value in _rows(figures):
        table.add_row(name, value)
    console.print(table)
    if figures["interrupted"]:
        console.print(f"stopped early: {figures['requests']:,} of {figures['planned']:,} requests had ended")


def _rows(figures: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "requests", f"{figures['requests']:,}"
    yield "accuracy", f"{100 * figures['accuracy']:.2f} %"
    for place, share in figures["share_by_exit"].items():
        yield f"answered by {place}" if place != "lost" else "without an answer", f"{100 * share:.2f} %"
    for name, value in figures["latency_ms"].items():
        yield f"latency {name}", "–" if value is None else f"{value:,.1f} ms"
    yield f"within {figures['deadline_ms']:g} ms", f"{100 * figures['in_time']:.2f} %"
    yield "bytes up, a request", f"{figures['uplink_bytes_per_request']:,.0f}"
    yield "sent again", f"{figures['sent_again']:,}"
    yield "lost", f"{figures['lost']:,}"
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
        counts: list[object] = [load.sent, load.answered, load.fallback, load.again, load.lost]
        if host.site.clouds:  # it is the edges that requests are sent to
            counts = ["", sum(host.answered.values()), "", "", ""]
        table.add_row(
            host.name,
            f"{len(host.site.names) if host.up else 0}/{len(host.site.names)}",
            str(host.restarts),
            f"{health.cpu_percent:.0f}" if health and host.up else "",
            f"{health.rss_bytes / 1e6:.0f}" if health and host.up else "",
            *map(str, counts),
            *("" if value is None else f"{value:.1f}" for value in percentiles),
        )
    return table


def _line(loads: list[HostLoad]) -> str:
    nodes = sum(len(load.host.site.names) for load in loads)
    up = sum(len(load.host.site.names) for load in loads if load.host.up)
    sums = {
        name: sum(getattr(load, name) for load in loads) for name in ("sent", "answered", "fallback", "again", "lost")
    }
    medians = [value for load in loads if (value := load.percentile_ms(50)) is not None]
    spread = f", p50 {min(medians):.1f} – {max(medians):.1f} ms" if medians else ""
    counts = ", ".join(f"{name} {count}" for name, count in sums.items())
    return f"{up}/{nodes} nodes up, {counts}{spread}"
