"""`branchynet models`: the artifacts there are, with what was measured of them."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from cli.options import JsonOption, console, write_json
from cli.tables.evaluation import interval, percents

__all__ = ["models"]


def models(json_file: JsonOption = None) -> None:
    """List the shipped artifacts and those that runs in runs/ have made, with the results in their manifests.

    Accuracy is that of the artifact's own rule on its test images, with a 95 % interval. Gains are against the plain
    trunk with the same training, everything counted: in MACs, and in ms at batch 1 where `branchynet evaluate
    --record` has measured them.
    """
    from branchynet.artifact import zoo
    from branchynet.artifact.artifact import Artifact
    from branchynet.evaluation.recorded_results import summary

    names = [*zoo.shipped(), *(name for name in zoo.trained() if name not in zoo.shipped())]
    rows = [summary(Artifact.open(name)) | {"name": name} for name in names]
    write_json(json_file, {"models": rows})
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # ten columns need the room that lines would take
    for column in ("name", "network", "data", "acc. %", "95 %", "exits %", "MACs", "ms", "T", "kB"):
        left = column in ("name", "network", "data")
        wraps = column in ("network", "T")
        table.add_column(column, justify="left" if left else "right", no_wrap=not wraps, min_width=None if wraps else 4)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(
        "acc.: of the artifact's own rule on its test images; MACs, ms: gain over the plain trunk, everything counted; "
        "T: thresholds; kB: weights that are served"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    def gain(key: str) -> str:
        return "–" if row[key] is None else f"{row[key]:.2f}x"

    tested = row["interval"] is not None
    return [
        row["name"],
        row["network"] + (f" ({row['variant']})" if row["variant"] not in ("paper", None) else ""),
        row["dataset"],
        f"{100 * row['accuracy']:.2f}" if tested else "–",
        interval(row["interval"]).replace(" ", "") if tested else "–",
        percents(row["exit_shares"], 0).replace(" ", "") if tested else "–",
        gain("gain_macs"),
        gain("gain_ms"),
        ", ".join(f"{threshold:.3g}" for threshold in row["thresholds"]) or "–",
        f"{row['weight_bytes'] / 1e3:,.0f}",
    ]
