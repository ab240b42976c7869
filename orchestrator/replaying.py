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

from branchynet.decisions.adaptation import Replanner
from branchynet.decisions.candidates import Candidates
from branchynet.decisions.deadlines import OffloadLimits
from branchynet.decisions.placement import Constraints, best_of_each_way, evaluate
from branchynet.decisions.plans import Plan
from branchynet.decisions.timing import Link
from branchynet.engine import Runner
from branchynet.manifest import Manifest
from branchynet.plan_file import PlanFile, write_plan_file
from branchynet.training.datasets import Dataset
from orchestrator.live import send_requests
from orchestrator.local import LocalTopology, Topology
from orchestrator.planning import BASELINES, Ground
from simulations import replay as simulated
from simulations.capacity import Capacity
from simulations.records import FALLBACK, Records
from simulations.scenarios import Scenario, Workload
from simulations.workload import Requests, requests_of

__all__ = [
    "ADAPTIVE",
    "Course",
    "Figures",
    "Rivals",
    "Terms",
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
PATIENCE_MS = 10_000.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How requests come and what is promised: *rate_per_s* at random for *seconds*, answers within *deadline_ms*.

    Nobody waits for the cloud longer than that. The link's other figures are *rtt_ms* and *downlink_mbps*.
    """

    rate_per_s: float
    seconds: float
    deadline_ms: float
    rtt_ms: float
    downlink_mbps: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Course:
    """A recorded uplink, *capacity*, that was read from *path*, from *start_s* on."""

    path: Path
    capacity: Capacity
    start_s: float = 0.0

    @property
    def name(self) -> str:
        """What it is called, by file and folder."""
        return f"{self.path.parent.name}/{self.path.name}"

    def requests(self, terms: Terms, samples: int) -> Requests:
        """Those that are sent over it: until it is over, and at most for the seconds of *terms*."""
        seconds = min(terms.seconds, max(self.capacity.period_s - self.start_s, 1.0))
        count = max(int(terms.rate_per_s * seconds), 1)
        workload = Workload(rate_per_s=terms.rate_per_s, requests=count)
        return requests_of(Scenario(seed=terms.seed, workload=workload), 0, samples)


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
        in_time = float(((records.latency_ms <= deadline_ms) & (records.place < FALLBACK)).mean())
        mean_ms = float(records.latency_ms.mean())
        return cls(
            name,
            in_time,
            mean_ms,
            float(np.percentile(records.latency_ms, 95)),
            mean_ms + deadline_ms * (1 - in_time),
            float(records.correct.mean()),
            float((records.place >= FALLBACK).mean()),
            float(records.uplink_bytes.mean()) + probe_bytes / len(records),
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
        """For a program; `docs/figures.md` explains the keys."""
        return {
            "trace": self.course.name,
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
class Rivals:
    """The plans of a *file*, and what they make of labelled images."""

    file: PlanFile
    own: tuple[Plan, ...]
    ground: simulated.Ground

    @classmethod
    def of(
        cls,
        file: PlanFile,
        manifest: Manifest,
        network: Runner,
        dataset: Dataset,
        terms: Terms,
        on_image: Callable[[int], None] = lambda _: None,
    ) -> Rivals:
        """*network*, that of the artifact of *file*, on *dataset* through its codecs; *on_image* as for `Ground.of`."""
        codecs = {way.codec for way in file.candidates.ways if not way.local_only}
        known = tuple(cost for cost in file.profile.codecs if cost.codec in codecs)
        found = Ground.of(manifest, network, dataset, replace(file.profile, codecs=known), None, on_image)
        own = tuple(found.baselines().plan(index) for index in range(len(BASELINES)))
        limits = OffloadLimits(terms.deadline_ms, 20.0)
        link = Link(1.0, terms.downlink_mbps, terms.rtt_ms)
        return cls(file, own, simulated.Ground(found.table, found.coded, file.profile, link, limits, PATIENCE_MS))

    def fixed(self, mean_mbps: float) -> dict[str, Plan]:
        """Plans that somebody could have chosen beforehand: of each way that for several rates, and the artifact's."""
        candidates, floor = self.file.candidates, Constraints(min_accuracy=self.file.adaptation.min_accuracy)
        rows: set[int] = set()
        for mbps in (mean_mbps, *RATES_MBPS):
            link = Link(mbps, rtt_ms=self.ground.link.rtt_ms)
            measures = evaluate(candidates, self.file.profile, link)
            rows.update(best_of_each_way(measures, "mean_ms", floor).tolist())
        plans = {_name(candidates.plan(row)): candidates.plan(row) for row in sorted(rows)}
        return {**plans, **{f"{OWN}{name}": plan for name, plan in zip(BASELINES, self.own, strict=True)}}

    def accuracy(self, plan: Plan) -> float:
        """Share of the images that *plan* gets right if every message comes through."""
        routes, table = self.ground.outcomes(plan)
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


def records_of(rivals: Rivals, course: Course, terms: Terms, name: str) -> Records:
    """Every request under the fixed plan called *name*, in virtual time."""
    requests = course.requests(terms, len(rivals.ground.table.labels))
    plan = rivals.fixed(course.capacity.mean_mbps)[name]
    way = (course.capacity, requests.sent_s[0], requests.rows[0])
    return simulated.replay(simulated.Fixed(plan), rivals.ground, *way, start_s=course.start_s).records


def replay_simulated(
    rivals: Rivals,
    course: Course,
    terms: Terms,
    only: Sequence[str] = (),
    on_run: Callable[[], None] = lambda: None,
) -> tuple[TraceResult, simulated.Replayed]:
    """All plans, or those called *only*, over *course* in virtual time; and every request of the adaptive edge."""
    requests = course.requests(terms, len(rivals.ground.table.labels))
    way = (course.capacity, requests.sent_s[0], requests.rows[0])
    floor, fixed = rivals.floor, []
    for name, plan in rivals.fixed(course.capacity.mean_mbps).items():
        if only and name not in only:
            continue
        figures = Figures.of(name, records_of(rivals, course, terms, name), terms.deadline_ms)
        fixed.append(replace(figures, accurate=rivals.accuracy(plan) >= floor))
        on_run()
    done = simulated.replay(rivals.replanner(), rivals.ground, *way, start_s=course.start_s)
    adaptive = Figures.of(ADAPTIVE, done.records, terms.deadline_ms, done.probe_bytes, done.changes)
    on_run()
    return TraceResult(course, len(requests.rows[0]), adaptive, tuple(fixed)), done


async def replay_live(
    rivals: Rivals,
    courses: Sequence[Course],
    terms: Terms,
    dataset: Dataset,
    folder: Path,
    plans_of: Callable[[Course], Sequence[str]],
    on_run: Callable[[], None] = lambda: None,
) -> list[tuple[TraceResult, Records]]:
    """The same through real nodes, one run after the other: an edge that adapts, and those whose names *plans_of* says.

    Plan files and logs go to *folder*. Each result comes with every request of the adaptive edge.
    """
    wanted = {name for course in courses for name in plans_of(course)}
    plans = {
        name: plan
        for course in courses
        for name, plan in rivals.fixed(course.capacity.mean_mbps).items()
        if name in wanted
    }
    files = _write_files(rivals.file, plans, folder)
    topology = Topology(
        artifact=rivals.file.artifact,
        edges=len(files),
        uplink_mbps=RATES_MBPS[-1],
        downlink_mbps=terms.downlink_mbps,
        rtt_ms=terms.rtt_ms,
        offload_timeout_ms=terms.deadline_ms,
        adapt=tuple(files.values()),
    )
    numbers, results = {name: number for number, name in enumerate(files)}, []
    async with LocalTopology.running(topology, folder / "logs") as running:

        async def run(name: str, course: Course) -> tuple[Figures, Records]:
            link, targets = running.links[numbers[name]], {0: running.targets[numbers[name]]}

            async def send(requests: Requests) -> Records:
                data = (dataset.images, dataset.labels)
                return await send_requests(requests, targets, *data, None, cloud=0, deadline_ms=PATIENCE_MS)

            await link.ask(f"uplink {RATES_MBPS[-1]}")
            warm_up = Workload(rate_per_s=terms.rate_per_s, requests=WARM_UP)
            await send(requests_of(Scenario(workload=warm_up), 0, len(dataset)))
            await link.ask(f"uplink {course.path.resolve()} {course.start_s}")
            records = await send(course.requests(terms, len(dataset)))
            on_run()
            return Figures.of(name, records, terms.deadline_ms), records

        floor = rivals.floor
        for course in courses:
            adaptive, records = await run(ADAPTIVE, course)
            fixed = [(await run(name, course))[0] for name in plans_of(course)]
            fixed = [replace(figures, accurate=rivals.accuracy(plans[figures.name]) >= floor) for figures in fixed]
            results.append((TraceResult(course, len(records), adaptive, tuple(fixed)), records))
    return results


def _write_files(file: PlanFile, plans: dict[str, Plan], folder: Path) -> dict[str, Path]:
    """A plan file for the edge that adapts, and one with nothing to choose from for each of *plans*; by name."""
    files = {ADAPTIVE: file}
    for name, plan in plans.items():
        shares = np.full((1, len(file.profile.exit_stages)), 1 / len(file.profile.exit_stages))
        alone = Candidates(
            (plan,),
            np.zeros(1, dtype=np.int64),
            np.array([plan.rule.thresholds]),
            shares,  # nobody asks: there is nothing to compare it with
            np.ones(1),
            file.profile.exit_stages,
            file.profile.held,
        )
        files[name] = replace(file, candidates=alone)
    paths = {name: folder / f"plans-{number}.json" for number, name in enumerate(files)}
    for name, path in paths.items():
        write_plan_file(path, files[name])
    return paths


def _name(plan: Plan) -> str:
    way = "edge only" if plan.local_only else f"cut {plan.cut}, {plan.codec}"
    return f"{way} at {'/'.join(f'{threshold:.3g}' for threshold in plan.rule.thresholds)}"
