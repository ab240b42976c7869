"""What became of requests, for people: one report's figures line by line, several side by side, and a histogram."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from branchynet.terminal import shown
from cli.options import console

__all__ = ["histogram_lines", "print_figures", "print_reasons", "print_setups"]

BAR_CHARACTERS = 44


def print_figures(title: str, figures: dict[str, Any], more: Iterable[tuple[str, str]] = ()) -> None:
    """Print the *figures* of a report, then *more* lines, as a table with a name and a value on each line."""
    table = Table(title=title, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    for name, value in (*_lines(figures), *more):
        table.add_row(name, value)
    console.print(table)


def _lines(figures: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "requests", f"{figures['requests']:,}"
    yield "accuracy", "–" if figures["accuracy"] is None else f"{100 * figures['accuracy']:.2f} %"
    for place, share in figures["share_by_exit"].items():
        yield "without an answer" if place == "lost" else f"answered by {place}", f"{100 * share:.2f} %"
    for name, value in figures["latency_ms"].items():
        yield f"latency {name}", _ms(value, " ms")
    yield "throughput", f"{figures['throughput_per_s']:,.1f} /s"
    yield "goodput", f"{figures['goodput_per_s']:,.1f} /s"
    yield f"within {figures['deadline_ms']:,g} ms", f"{100 * figures['in_time']:.2f} %"
    yield "bytes up, a request", f"{figures['uplink_bytes_per_request']:,.0f}"
    yield "retried", f"{figures['retried']:,}"
    yield "lost", f"{figures['lost']:,}"
    if figures["wrong"]:
        yield "wrong", f"{figures['wrong']:,}"


def print_setups(title: str, rows: Sequence[dict[str, Any]], bytes_key: str = "uplink_bytes_per_request") -> None:
    """Print *rows*, figures of reports that have a `setup` as well, as one table with a row for each."""
    table = Table(title=title)
    table.add_column("setup", no_wrap=True)
    table.add_column("accuracy", justify="right")
    table.add_column("answered at")
    for column in ("mean ms", "p50 ms", "p95 ms", "p99 ms", "in time", "bytes up", "per s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["setup"],
            f"{100 * row['accuracy']:.1f} %",
            "\n".join(f"{place} {100 * share:.1f} %" for place, share in row["share_by_exit"].items()),
            *(_ms(row["latency_ms"][name]) for name in ("mean", "p50", "p95", "p99")),
            f"{100 * row['in_time']:.1f} %",
            f"{row[bytes_key]:,.0f}",
            f"{row['throughput_per_s']:,.0f}",
        )
    console.print(table)


def print_reasons(figures: dict[str, Any], *kinds: str) -> None:
    """Print why requests were lost or fell back and what was wrong with answers, or only *kinds* of these.

    The most frequent come first.
    """
    for what, counts in figures["reasons"].items():
        for reason, count in counts.items() if not kinds or what in kinds else ():
            console.print(f"{what}: {count:,} × {shown(reason)}", soft_wrap=True)


def histogram_lines(bins: Sequence[tuple[float, float, int]]) -> list[str]:
    """A bar for each of *bins* (from ms, to ms, answers), the longest for the most answers."""
    most = max((count for _, _, count in bins), default=0)
    return [
        f"{low:10,.2f} – {high:10,.2f} ms  {'█' * max(round(BAR_CHARACTERS * count / most), bool(count))} {count:,}"
        for low, high, count in bins
    ]


def _ms(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{value:,.1f}{unit}"
