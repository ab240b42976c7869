"""Recorded links: an edge that adapts beside edges with every fixed plan, the same requests, simulated or real nodes.

Which fixed plan is best on a link is known only when it is over. An answer is in time if it is there by the deadline,
and from where the plan meant it to come: a fallback is not, for it is less accurate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.plan_file import PlanFile, write_plan_file
from branchynet.data.datasets import Dataset
from branchynet.errors import InvalidInput
from branchynet.network.runner import Runner
from branchynet.placement.optimise import Constraints, best_of_each_placement, evaluate
from branchynet.placement.plan import Plan
from branchynet.placement.replanner import Replanner
from branchynet.placement.serving_profile import Link
from orchestrator.load.generator import LoadSettings, send
from orchestrator.load.schedules import open_loop
from orchestrator.nodes.build import build
from orchestrator.nodes.local import Processes
from orchestrator.profiling.local_profile import slowdown_like
from orchestrator.runs.plan_inputs import BASELINES, PlanInputs
from simulations.link.capacity import Capacity
from simulations.link.traces import Recording
from simulations.model import event_replay as simulated
from simulations.model.request_records import Records
from simulations.model.request_report import Report
from simulations.model.scenario import EdgeGroup, PlanModel, Scenario, Trace
from simulations.model.workload import Requests, requests_of

__all__ = [
    "ADAPTIVE",
    "Course",
    "Figures",
    "FixedPlans",
    "TraceResult",
    "live_names",
    "records_of",
    "replay_live",
    "replay_simulated",
]

ADAPTIVE = "adaptive"
OWN = "own rule, "
# Links whose best plans are fixed ones worth comparing with, beside that for the mean of the trace.
RATES_MBPS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
# As good means: at most so much less is in time, and it takes at most so much longer on average.
LESS_IN_TIME = 0.01
LONGER = 0.02
WARM_UP = 12


@dataclass(frozen=True, slots=True)
class Course:
    """A *scenario* of one edge whose uplink is a recorded one, with what that can carry, *capacity*.

    *taken*: what of the recording that is, in words.
    """

    scenario: Scenario
    capacity: Capacity
    taken: str

    @classmethod
    def of(cls, trace: Trace, recording: Recording, base: Scenario, seconds: float) -> Course:
        """*base* over the uplink *trace*, of which *recording* was read, until it is over, and at most for *seconds*.

        Raises `InvalidInput` for one that is over before it starts.
        """
        capacity, start_s = recording.capacity, trace.start_s or 0.0
        if start_s >= capacity.period_s:
            raise InvalidInput(f"start_s is {start_s:g}; {trace.trace} is {capacity.period_s:g} s long")
        seconds = min(seconds, max(capacity.period_s - start_s, 1.0))
        link = base.link.model_copy(update={"uplink_mbps": trace})
        count = max(int(base.workload.rate_per_s * seconds), 1)
        workload = base.workload.model_copy(update={"requests": count})
        return cls(base.replaced(link=link, workload=workload), capacity, recording.taken)

    @property
    def trace(self) -> Trace:
        """Which recording it is."""
        assert isinstance(self.scenario.link.uplink_mbps, Trace)
        return self.scenario.link.uplink_mbps

    @property
    def start_s(self) -> float:
        """Where in the recording it starts."""
        return self.trace.start_s or 0.0

    @property
    def name(self) -> str:
        """What it is called, by file and folder."""
        return f"{self.trace.trace.parent.name}/{self.trace.trace.name}"

    @property
    def deadline_ms(self) -> float:
        """By when an answer is in time: the edge does not wait longer for its cloud."""
        return self.scenario.limits.offload_timeout_ms

    def requests(self, samples: int) -> Requests:
        """Those that are sent over it, each for one of *samples* samples."""
        return requests_of(self.scenario, 0, samples, self.capacity.period_s)


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of the requests under the plan called *name*.

    *in_time*: share answered by the deadline as planned. *cost_ms*: *mean_ms* with each other answer counted as one
    deadline more, which is what an edge with a deadline adapts by. *bytes*: sent per request; *changes* of plan: both
    with probes and known for simulated edges only. *accurate*: whether the plan is as accurate as it must be.
    """

    name: str
    in_time: float
    mean_ms: float
    p95_ms: float
    cost_ms: float
    accuracy: float
    fallbacks: float
    bytes: float
    changes: int | None = None
    accurate: bool = True

    @classmethod
    def of(
        cls, name: str, records: Records, deadline_ms: float, probe_bytes: int = 0, changes: int | None = None
    ) -> Figures:
        """The figures of *records*."""
        report = Report.of(records, deadline_ms)
        return cls(
            name,
            report.as_planned,
            report.mean_ms,
            report.percentile_ms(95),
            report.mean_ms + deadline_ms * (1 - report.as_planned),
            report.accuracy,
            report.fallback_share,
            report.uplink_bytes_per_request + probe_bytes / len(records),
            changes,
        )


@dataclass(frozen=True)
class TraceResult:
    """All plans on one link: the *adaptive* edge, and the *fixed* ones."""

    course: Course
    requests: int
    adaptive: Figures
    fixed: tuple[Figures, ...]

    @property
    def best(self) -> Figures:
        """The accurate fixed plan that costs least, chosen in hindsight."""
        return min((figures for figures in self.fixed if figures.accurate), key=lambda figures: figures.cost_ms)

    @property
    def worst(self) -> Figures:
        """The accurate fixed plan that costs most."""
        return max((figures for figures in self.fixed if figures.accurate), key=lambda figures: figures.cost_ms)

    @property
    def as_good(self) -> tuple[bool, bool]:
        """Whether adapting is as good as the best fixed plan: as many in time, and as quick."""
        best = self.best
        return (
            self.adaptive.in_time >= best.in_time - LESS_IN_TIME,
            self.adaptive.mean_ms <= (1 + LONGER) * best.mean_ms,
        )

    @property
    def above_worst(self) -> bool:
        """Whether adapting costs no more than the worst fixed plan."""
        return self.adaptive.cost_ms <= self.worst.cost_ms

    def figures(self) -> dict[str, Any]:
        """For a program; `docs/reference/json.md` explains the keys."""
        return {
            "trace": self.course.name,
            "taken": self.course.taken,
            "start_s": self.course.start_s,
            "mean_mbps": self.course.capacity.mean_mbps,
            "requests": self.requests,
            "adaptive": asdict(self.adaptive),
            "fixed": [asdict(figures) for figures in self.fixed],
            "best": self.best.name,
            "worst": self.worst.name,
            "as_good": dict(zip(("in_time", "mean_ms"), self.as_good, strict=True)),
            "above_worst": self.above_worst,
        }


@dataclass(frozen=True, eq=False)
class FixedPlans:
    """The plans of a *file*, and what they make of labelled images."""

    file: PlanFile
    own: tuple[Plan, ...]
    inputs: simulated.ReplayInputs

    @classmethod
    def of(
        cls,
        file: PlanFile,
        artifact: Artifact,
        network: Runner,
        dataset: Dataset,
        scenario: Scenario,
        on_image: Callable[[int], None] = lambda _: None,
    ) -> FixedPlans:
        """*network*, that of the artifact of *file*, on *dataset* through its codecs; *on_image* as in `PlanInputs.of`.

        *scenario* says how long answers are waited for, and what the link is beside its uplink.
        """
        codecs = {way.codec for way in file.candidates.ways if not way.edge_only}
        known = tuple(cost for cost in file.profile.codecs if cost.codec in codecs)
        found = PlanInputs.of(artifact, network, dataset, replace(file.profile, codecs=known), None, on_image)
        own = tuple(found.baselines().plan(index) for index in range(len(BASELINES)))
        limits, link = scenario.limits, Link(1.0, scenario.link.downlink_mbps, scenario.link.rtt_ms)
        inputs = simulated.ReplayInputs(
            found.table, found.coded, file.profile, link, limits.offload, patience_ms=limits.deadline_ms
        )
        return cls(file, own, inputs)

    def fixed(self, mean_mbps: float) -> dict[str, Plan]:
        """Plans that somebody could have chosen beforehand: of each way that for several rates, and the artifact's."""
        # Hindsight needs something to choose from: plans for slow links and for fast ones, and for this one's mean.
        candidates, floor = self.file.candidates, Constraints(min_accuracy=self.file.adaptation.min_accuracy)
        rows: set[int] = set()
        for mbps in (mean_mbps, *RATES_MBPS):
            link = Link(mbps, rtt_ms=self.inputs.link.rtt_ms)
            measures = evaluate(candidates, self.file.profile, link)
            rows.update(best_of_each_placement(measures, "mean_ms", floor).tolist())
        plans = {_name(candidates.plan(row)): candidates.plan(row) for row in sorted(rows)}
        return {**plans, **{f"{OWN}{name}": plan for name, plan in zip(BASELINES, self.own, strict=True)}}

    def accuracy(self, plan: Plan) -> float:
        """Share of the images that *plan* gets right if every message comes through."""
        routes, table = self.inputs.outcomes(plan)
        return float(table.correct[routes.exits, np.arange(len(routes.exits))].mean())

    @property
    def floor(self) -> float:
        """The least accuracy of the file's plans on these images."""
        candidates = self.file.candidates
        return min(self.accuracy(candidates.plan(row)) for row in range(len(candidates)))

    def replanner(self) -> Replanner:
        """A new one, for the deadline that is replayed."""
        return Replanner(self.file.candidates, self.file.profile, self.file.guessed, self.file.adaptation, 0.0)


def live_names(result: TraceResult) -> list[str]:
    """The plans that are worth real time: the best one in hindsight, and the accurate ones that need no choice."""
    own = [figures.name for figures in result.fixed if figures.name.startswith(OWN) and figures.accurate]
    return list(dict.fromkeys([result.best.name, *own]))


def records_of(plans: FixedPlans, course: Course, name: str) -> Records:
    """Every request under the fixed plan called *name*, in virtual time."""
    requests = course.requests(len(plans.inputs.table.labels))
    plan = plans.fixed(course.capacity.mean_mbps)[name]
    way = (course.capacity, requests.sent_s[0], requests.rows[0])
    return simulated.replay(simulated.Fixed(plan), plans.inputs, *way, start_s=course.start_s).records


def replay_simulated(
    plans: FixedPlans,
    course: Course,
    only: Sequence[str] = (),
    on_run: Callable[[], None] = lambda: None,
) -> tuple[TraceResult, simulated.Replayed]:
    """All plans, or those called *only*, over *course* in virtual time; and every request of the adaptive edge."""
    requests = course.requests(len(plans.inputs.table.labels))
    way = (course.capacity, requests.sent_s[0], requests.rows[0])
    floor, fixed = plans.floor, []
    for name, plan in plans.fixed(course.capacity.mean_mbps).items():
        if only and name not in only:
            continue
        figures = Figures.of(name, records_of(plans, course, name), course.deadline_ms)
        fixed.append(replace(figures, accurate=plans.accuracy(plan) >= floor))
        on_run()
    done = simulated.replay(plans.replanner(), plans.inputs, *way, start_s=course.start_s)
    adaptive = Figures.of(ADAPTIVE, done.records, course.deadline_ms, done.probe_bytes, done.changes)
    on_run()
    return TraceResult(course, len(requests.rows[0]), adaptive, tuple(fixed)), done


async def replay_live(
    plans: FixedPlans,
    courses: Sequence[Course],
    dataset: Dataset,
    folder: Path,
    names_of: Callable[[Course], Sequence[str]],
    on_run: Callable[[], None] = lambda: None,
) -> list[tuple[TraceResult, Records]]:
    """The same through real nodes, one run after the other: an edge that adapts, and those with the plans *names_of*.

    All are as slow as the profile of the plans says. Plan files and logs go to *folder*. Each result comes with every
    request of the adaptive edge.
    """
    fixed = {name: plans.fixed(course.capacity.mean_mbps)[name] for course in courses for name in names_of(course)}
    slowdown = await slowdown_like(plans.file.profile, plans.file.artifact, dataset, folder / "logs" / "profile")
    scenario = _scenario(plans.file, fixed, courses[0].scenario, slowdown, folder)
    numbers = {name: number for number, name in enumerate((ADAPTIVE, *fixed))}
    results = []
    async with build(scenario, Processes(folder / "logs")) as fleet:

        async def run(name: str, course: Course) -> tuple[Figures, Records]:
            number = numbers[name]

            async def go(requests: Requests) -> Records:
                limits = LoadSettings(deadline_ms=course.scenario.limits.deadline_ms)
                data = (dataset.images, dataset.labels)
                return await send([open_loop([requests])], {0: fleet.targets[number]}, *data, limits)

            await fleet.ask_link(number, f"uplink {RATES_MBPS[-1]}")
            workload = course.scenario.workload.model_copy(update={"requests": WARM_UP})
            await go(requests_of(Scenario(workload=workload), 0, len(dataset)))
            path = course.trace.file_for_links(folder / "uplinks" / f"{courses.index(course)}.txt")
            await fleet.ask_link(number, f"uplink {path} {course.start_s}")
            records = await go(course.requests(len(dataset)))
            on_run()
            return Figures.of(name, records, course.deadline_ms), records

        floor = plans.floor
        for course in courses:
            adaptive, records = await run(ADAPTIVE, course)
            others = [(await run(name, course))[0] for name in names_of(course)]
            others = [replace(figures, accurate=plans.accuracy(fixed[figures.name]) >= floor) for figures in others]
            results.append((TraceResult(course, len(records), adaptive, tuple(others)), records))
    return results


def _scenario(file: PlanFile, fixed: dict[str, Plan], base: Scenario, slowdown: float, folder: Path) -> Scenario:
    """An edge that adapts by *file*, which is written to *folder*, and one for each of *fixed*, all alike else."""
    path = folder / "plans.json"
    write_plan_file(path, file)
    link = base.link.model_copy(update={"uplink_mbps": RATES_MBPS[-1]})
    models = [PlanModel(adapt=path), *(PlanModel.of(plan) for plan in fixed.values())]
    held = file.profile.held
    groups = tuple(EdgeGroup(slowdown=slowdown, held=held, link=link, plan=plan) for plan in models)
    return Scenario(artifact=file.artifact, groups=groups, limits=base.limits)


def _name(plan: Plan) -> str:
    way = "edge only" if plan.edge_only else f"cut {plan.cut}, {plan.codec}"
    return f"{way} at {'/'.join(f'{threshold:.3g}' for threshold in plan.rule.thresholds)}"
