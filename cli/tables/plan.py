"""What `branchynet plan` shows of its answer: a table, what the limits cost, a map of the best plans, figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cli.options import console

if TYPE_CHECKING:
    from branchynet.placement.optimise import Measures
    from branchynet.placement.plan import Plan
    from branchynet.placement.serving_profile import Link
    from orchestrator.runs.plan_inputs import PlanInputs, PlanObjective

__all__ = ["Answer"]

SHOWN = 5
# How limits and objectives are written.
LIMITS = {
    "accuracy": "an accuracy of at least {:.2%}",
    "mean_ms": "a mean of at most {:g} ms",
    "tail_ms": "a 95th percentile of at most {:g} ms",
    "uplink_bytes": "at most {:g} bytes up",
    "joules": "at most {:g} J",
}
OBJECTIVES = {
    "accuracy": ("highest accuracy", "{:.2%}"),
    "mean_ms": ("lowest mean latency", "{:,.2f} ms"),
    "tail_ms": ("lowest 95th percentile", "{:,.2f} ms"),
    "uplink_bytes": ("fewest bytes up", "{:,.0f}"),
    "joules": ("least energy", "{:.3g} J"),
}


@dataclass(frozen=True)
class Answer:
    """The candidates for a *link* as they are wished, the *chosen* among them, and the plans that need no choice."""

    inputs: PlanInputs
    objective: PlanObjective
    link: Link
    title: str
    measures: Measures
    chosen: tuple[int, ...]
    baselines: Measures

    @classmethod
    def to(cls, objective: PlanObjective, inputs: PlanInputs, link: Link, title: str) -> Answer:
        """Judge all plans over *link*; `InvalidInput` if none is as wished."""
        from branchynet.placement.optimise import best_of_each_placement

        measures, baselines = (
            objective.measures(plans, inputs.profile, link) for plans in (inputs.candidates(), inputs.baselines())
        )
        ranked = best_of_each_placement(measures, objective.measure, objective.constraints).tolist()
        # With whatever codec nothing is sent, it is one plan.
        silent = [index for index in ranked if not measures.uplink_bytes[index]]
        chosen = [index for index in ranked if index not in silent[1:]]
        return cls(inputs, objective, link, title, measures, tuple(chosen[:SHOWN]), baselines)

    def figures(self) -> dict[str, Any]:
        """Everything that is shown, for a program."""
        from orchestrator.runs.plan_inputs import BASELINES

        return {
            "link": {"uplink_mbps": self.link.uplink_mbps, "rtt_ms": self.link.rtt_ms},
            "cloud_queue_ms": self.objective.cloud_queue_ms,
            "objective": self.objective.measure,
            "limits": dict(self.objective.constraints.asked()),
            "final_accuracy": float(self.inputs.table.correct[-1].mean()),
            "candidates": len(self.measures.candidates),
            "plans": [self._row(self.measures, index) for index in self.chosen],
            "baselines": {name: self._row(self.baselines, index) for index, name in enumerate(BASELINES)},
            "profile": asdict(self.inputs.profile),
        }

    def show(self, source: str) -> None:
        """Print the plans, which limits cost something, and what they were judged on, images of *source*."""
        figures = self.figures()
        table = Table(title=f"{self.title}; {self.link.uplink_mbps:g} Mbit/s up, round trip {self.link.rtt_ms:g} ms")
        headings = ["", "plan", "at", "mean ms", "p95 ms", "accuracy %", "bytes", "exits %"]
        for heading in [*headings, "mJ"] if self.objective.energy else headings:
            table.add_column(heading, justify="left" if heading in ("", "plan") else "right", overflow="fold")
        for number, row in enumerate(figures["plans"], 1):
            table.add_row(str(number), *_cells(row))
        table.add_section()
        for name, row in figures["baselines"].items():
            table.add_row(name, *_cells(row))
        console.print(table)
        profile = self.inputs.profile
        console.print(
            f"best of {figures['candidates']:,} plans, each cut and codec once; the edge holds {profile.held} of "
            f"{profile.edge.stages} stages. p95 is the spread by exits: nobody queues here. !: breaks a limit"
        )
        if not profile.codecs:
            console.print("no codecs: the profile has none for this edge; `branchynet profile` measures them")
        console.print(self._what_binds())
        outcomes = self.inputs.table
        console.print(
            f"accuracy: on {len(outcomes.labels):,} held-out images, which the thresholds were chosen on too; the final"
            f" exit by itself has {outcomes.correct[-1].mean():.2%} there. {source}",
            soft_wrap=True,
        )

    def draw(self, path: Path) -> dict[str, Any]:
        """Draw the best plans over all links into *path*; the figures of the plot."""
        import numpy as np

        from cli.plots.plan_map import RTTS_MS, UPLINKS_MBPS, draw_map
        from orchestrator.runs.plan_inputs import best_over_links

        candidates = self.measures.candidates
        found = best_over_links(candidates, self.inputs.profile, self.objective, UPLINKS_MBPS, RTTS_MS)
        ways = np.where(found < 0, -1, candidates.way[found])
        wanted, limits = OBJECTIVES[self.objective.measure][0], _words(dict(self.objective.constraints.asked()))
        title = f"{self.title}\n{wanted} with {limits}"
        draw_map(ways, candidates.ways, self._stages, self.link, path, title)
        return {
            "uplink_mbps": UPLINKS_MBPS.tolist(),
            "rtt_ms": RTTS_MS.tolist(),
            "ways": [self._way(way) for way in candidates.ways],
            "winning": ways.tolist(),
        }

    @property
    def _stages(self) -> int:
        return self.inputs.profile.edge.stages

    def _way(self, plan: Plan) -> str:
        from cli.plots.plan_map import way_words

        return way_words(plan, self._stages)

    def _row(self, measures: Measures, index: int) -> dict[str, Any]:
        from branchynet.exits.outcomes import wilson_interval

        plan, shares = measures.candidates.plan(index), measures.candidates.shares[index]
        names = ("mean_ms", "tail_ms", "accuracy", "uplink_bytes", *(["joules"] if self.objective.energy else []))
        row = {name: float(measures.values(name)[index]) for name in names}
        asked = dict(self.objective.constraints.asked())
        broken = [
            name for name, limit in asked.items() if (row[name] < limit if name == "accuracy" else row[name] > limit)
        ]
        return {
            "way": self._way(plan),
            "cut": plan.cut,
            "codec": plan.codec,
            "edge_only": plan.edge_only,
            **asdict(plan.rule),
            **row,
            "interval": list(wilson_interval(row["accuracy"], len(self.inputs.table.labels))),
            "exit_shares": shares.tolist(),
            "breaks": broken,
        }

    def _what_binds(self) -> str:
        from branchynet.placement.optimise import binding

        asked, measure = dict(self.objective.constraints.asked()), self.objective.measure
        costly = binding(self.measures, measure, self.objective.constraints)
        if not costly:
            return f"no limit binds: without {_words(asked)} the best plan would be the same"
        best, value = OBJECTIVES[measure]
        without = [
            f"without {_words({name: asked[name]})} it would be {value.format(self.measures.values(measure)[index])} "
            f"({self._way(self.measures.candidates.plan(index))})"
            for name, index in costly.items()
        ]
        return f"{best}: {value.format(self.measures.values(measure)[self.chosen[0]])}; {'; '.join(without)}"


def _words(limits: dict[str, float]) -> str:
    return " and ".join(LIMITS[name].format(limit) for name, limit in limits.items())


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = row["interval"]
    cells = {
        "mean_ms": f"{row['mean_ms']:,.2f}",
        "tail_ms": f"{row['tail_ms']:,.2f}",
        "accuracy": f"{100 * row['accuracy']:.2f} ({100 * low:.1f}–{100 * high:.1f})",
        "uplink_bytes": f"{row['uplink_bytes']:,.0f}",
    }
    if "joules" in row:
        cells["joules"] = f"{1e3 * row['joules']:,.3g}"
    cells = {name: f"{text} !" if name in row["breaks"] else text for name, text in cells.items()}
    joules = cells.pop("joules", None)
    ends = {row["criterion"].never: "none", row["criterion"].always: "all"}
    thresholds = "/".join(ends.get(threshold, f"{threshold:.3g}") for threshold in row["thresholds"])
    exits = "/".join(f"{100 * share:.0f}" for share in row["exit_shares"])
    return [row["way"], thresholds, *cells.values(), exits, *([] if joules is None else [joules])]
