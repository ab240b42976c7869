"""One row for each point of a sweep: where which plan was tried, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from branchynet.exits.rules import Criterion
from branchynet.files import replacing
from branchynet.placement.plan import Plan
from simulations.model.request_records import CLOUD, EDGE, FALLBACK, Records
from simulations.model.request_report import Report

__all__ = ["BASELINES", "Row", "Setting", "plan_name", "row_of", "rule_name", "write_rows"]

# What needs no choosing: the names of the three plans that every sweep tries beside its own.
BASELINES = ("edge only", "cloud only", "today's plan")


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """Where plans are tried. *uplink_mbps* is the mean of a link that varies; *slowdown* is the edge's."""

    slowdown: float
    edges: int
    rate_per_s: float
    max_batch: int
    rtt_ms: float
    uplink_mbps: float

    @property
    def scene(self) -> tuple[float, int, float, int]:
        """All but the link."""
        return self.slowdown, self.edges, self.rate_per_s, self.max_batch


@dataclass(frozen=True, slots=True)
class Row:
    """What *plan* achieved at *setting*; *name* is one of `BASELINES`, or empty.

    *accuracy* 0..1 and all times are of the simulated requests. *selection_accuracy* is what may be looked at when
    plans are chosen: on samples that no simulated request had. *uplink_bytes* is the mean of a request. The shares say
    who answered; *in_time* is the share answered within the deadline. *edge_ms*, *cloud_ms* and *network_ms* are means
    over all requests, waiting included.
    """

    setting: Setting
    name: str
    plan: Plan
    accuracy: float
    selection_accuracy: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    uplink_bytes: float
    edge_share: float
    cloud_share: float
    fallback_share: float
    in_time: float
    edge_ms: float
    network_ms: float
    cloud_ms: float

    @property
    def label(self) -> str:
        """The baseline's name, or the plan's."""
        return self.name or plan_name(self.plan)

    def flat(self) -> dict[str, Any]:
        """All of it as one level of names and plain values."""
        values = asdict(self)
        plan = values.pop("plan")
        return {
            **values.pop("setting"),
            "name": values.pop("name"),
            "cut": plan["cut"],
            "criterion": self.plan.rule.criterion.value,
            "thresholds": list(self.plan.rule.thresholds),
            "edge_only": plan["edge_only"],
            **values,
        }


def row_of(
    setting: Setting, name: str, plan: Plan, records: Records, selection_accuracy: float, deadline_ms: float
) -> Row:
    """The row of a run that *records* tell of."""
    figures = Report.of(records, deadline_ms).figures()
    edge, cloud, fallback = (float((records.place == place).mean()) for place in (EDGE, CLOUD, FALLBACK))
    means = {name: float(np.mean(getattr(records, name))) for name in ("edge_ms", "network_ms", "cloud_ms")}
    return Row(
        setting=setting,
        name=name,
        plan=plan,
        accuracy=figures["accuracy"],
        selection_accuracy=selection_accuracy,
        **{f"{key}_ms": figures["latency_ms"][key] for key in ("mean", "p50", "p95", "p99")},
        uplink_bytes=figures["uplink_bytes_per_request"],
        edge_share=edge,
        cloud_share=cloud,
        fallback_share=fallback,
        in_time=figures["in_time"],
        **means,
    )


def plan_name(plan: Plan) -> str:
    """A plan for readers: `cut 1, entropy < 0.702`."""
    where = f"cut {plan.cut}" + (", never offloads" if plan.edge_only else "")
    return f"{where}, {rule_name(plan)}"


def rule_name(plan: Plan) -> str:
    """Who leaves: `entropy < 0.702`, with a threshold for each early exit."""
    sign = "<" if plan.rule.criterion is Criterion.ENTROPY else ">"
    return f"{plan.rule.criterion.value} {sign} " + " / ".join(f"{value:.3g}" for value in plan.rule.thresholds)


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write *rows* to the Parquet file *path*, a column for each name of `Row.flat`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as file:
        pq.write_table(pa.Table.from_pylist([row.flat() for row in rows]), file, compression="zstd")
