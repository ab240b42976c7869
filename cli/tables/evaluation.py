"""An evaluation as a table and a few sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from branchynet.terminal import shown
from cli.options import console

__all__ = ["interval", "measured_how", "percents", "print_evaluation"]


def percents(shares: Sequence[float], digits: int = 1) -> str:
    """`44.5 / 14.7 / 40.7`."""
    return " / ".join(f"{100 * share:.{digits}f}" for share in shares)


def interval(low_high: Sequence[float]) -> str:
    """`84.94 – 86.31`, of accuracies 0..1."""
    return " – ".join(f"{100 * end:.2f}" for end in low_high)


def print_evaluation(figures: Mapping[str, Any], source: str, left_out: Mapping[str, str]) -> None:
    """Print the figures of one artifact, how they were measured, and why a baseline is *left_out*."""
    trunk, early = figures["trunk"], figures["early_exit"]
    trunk_name = "own final exit" if trunk["own_final_exit"] else "plain trunk"
    table = Table(title=f"{shown(figures['artifact'])} on {figures['images']:,} images of {shown(figures['dataset'])}")
    for column in ("network", "accuracy %", "95 % interval", "exits %", "ms", "gain", "M MACs", "gain"):
        table.add_column(column, justify="left" if column == "network" else "right")
    table.add_row(trunk_name, *_row(trunk, trunk))
    table.add_row("early exit, all counted", *_row(early, trunk))
    bare = {"ms": early["ms_without_heads"], "macs": early["macs_without_heads"]}
    table.add_row("… heads and rule not counted", *_row(bare, trunk))
    for kind, measured in figures["baselines"].items():
        table.add_row(f"{kind}: {measured['artifact']}" + (" → trunk" if kind == "cascade" else ""),
                      *_row(measured, trunk))  # fmt: skip
    console.print(table)
    against = early["against_trunk"]
    low, high = against["interval"]
    console.print(
        f"early exit against {trunk_name}: {100 * against['difference']:+.2f} points (95 % {100 * low:+.2f} – "
        f"{100 * high:+.2f}, McNemar p = {against['p_value']:.2g}); gain in ms in single "
        f"passes {_times(early['gain_ms_spread'])}, without heads {_times(early['gain_ms_without_heads_spread'])}"
    )
    thresholds = ", ".join(f"{threshold:.4g}" for threshold in early["thresholds"]) or "none"
    exits = percents(early["exit_accuracies"], 2)
    console.print(f"rule: {early['criterion']}, thresholds {thresholds}; every exit on its own: {exits} %")
    for kind, measured in figures["baselines"].items():
        console.print(f"{kind} {shown(measured['artifact'])}: {shown(measured['verdict'])}")
    for kind, reason in left_out.items():
        console.print(f"{kind}: not measured, {shown(reason)}")
    console.print(f"ms: {measured_how(figures)}")
    console.print(f"data: {shown(source)}")


def measured_how(figures: Mapping[str, Any]) -> str:
    """How the milliseconds came about: engine, images, passes, machine."""
    machine = figures["machine"]
    engine = figures["engine"]
    if engine == "best":
        used = {name: figures[name]["engine"] for name in ("trunk", "early_exit") if name in figures}
        engine = "best of eager and onnx" + (
            f" (trunk {used['trunk']}, early exit {used['early_exit']})" if used else ""
        )
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "onnxruntime") if name in machine)
    return (
        f"mean of {figures['timing_images']} images, each by its median of {figures['passes']} passes, batch 1, one "
        f"thread, all in turn; engine {engine}; {machine['cpu']}, {machine['cores']} cores, {versions}"
    )


def _row(measured: Mapping[str, Any], trunk: Mapping[str, Any]) -> list[str]:
    scored = "accuracy" in measured
    return [
        f"{100 * measured['accuracy']:.2f}" if scored else "",
        interval(measured["interval"]) if scored else "",
        percents(measured["exit_shares"]) if len(measured.get("exit_shares", ())) > 1 else "",
        f"{measured['ms']:.3f}",
        f"{trunk['ms'] / measured['ms']:.2f}x",
        f"{measured['macs'] / 1e6:.3f}",
        f"{trunk['macs'] / measured['macs']:.2f}x",
    ]


def _times(spread: Sequence[float]) -> str:
    return f"{spread[0]:.2f} – {spread[-1]:.2f}x"
