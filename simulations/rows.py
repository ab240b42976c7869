"""One row for each point of a sweep: where which plan was tried, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from branchynet.decisions.exits import Criterion
from branchynet.decisions.plans import Plan
from simulations.records import CLOUD, EDGE, FALLBACK, Records

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
            "local_only": plan["local_only"],
            **values,
        }


def row_of(
    setting: Setting, name: str, plan: Plan, records: Records, selection_accuracy: float, deadline_ms: float
) -> Row:
    """The row of a run that *records* tell of."""
    summary = records.summary(deadline_ms)
    edge, cloud, fallback = (float((records.place == place).mean()) for place in (EDGE, CLOUD, FALLBACK))
    means = {name: float(np.mean(getattr(records, name))) for name in ("edge_ms", "network_ms", "cloud_ms")}
    return Row(
        setting=setting,
        name=name,
        plan=plan,
        accuracy=summary["accuracy"],
        selection_accuracy=selection_accuracy,
        **{f"{key}_ms": value for key, value in summary["latency_ms"].items()},
        uplink_bytes=summary["uplink_bytes_per_request"],
        edge_share=edge,
        cloud_share=cloud,
        fallback_share=fallback,
        in_time=summary["in_time"],
        **means,
    )


def plan_name(plan: Plan) -> str:
    """A plan for readers: `cut 1, entropy < 0.702`."""
    where = f"cut {plan.cut}" + (", never offloads" if plan.local_only else "")
    return f"{where}, {rule_name(plan)}"


def rule_name(plan: Plan) -> str:
    """Who leaves: `entropy < 0.702`, with a threshold for each early exit."""
    sign = "<" if plan.rule.criterion is Criterion.ENTROPY else ">"
    return f"{plan.rule.criterion.value} {sign} " + " / ".join(f"{value:.3g}" for value in plan.rule.thresholds)


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write *rows* to the Parquet file *path*, a column for each name of `Row.flat`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([row.flat() for row in rows]), path, compression="zstd")
