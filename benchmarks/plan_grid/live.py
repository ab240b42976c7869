"""Chosen plans measured: real nodes over emulated links, beside what was predicted for the very devices they run on.

    client ──► the edge of a point ──► the link of that point ──┐
           ──► …                                                ├──► cloud
           ──► an edge of each speed to profile ──► easy link ──┘

Requests of all points and those that profiles are made of are interleaved, so whatever else the machine does falls on
measurements and predictions alike. A slow edge has a `slowdown`; its profile is measured like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.plan_grid.choices import SLOWDOWNS, Choice, Point, sized_as
from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.network.runner import Runner
from branchynet.placement.plan import Plan, plain_codec, route
from branchynet.placement.serving_profile import ServingProfile
from branchynet.serving.stage_timer import NodeProfile
from orchestrator.load.generator import Ended, send_interleaved
from orchestrator.load.schedules import RequestClass
from orchestrator.nodes.build import RunningFleet, build
from orchestrator.nodes.local import Processes
from orchestrator.profiling.live_profile import Effort, Pair, asked_of, classes_to_ask, compared, probe
from orchestrator.profiling.local_profile import EASY_LINK
from orchestrator.runs.plan_inputs import PlanInputs
from simulations.model.request_records import Records
from simulations.model.scenario import EdgeGroup, Limits, PlanModel, Scenario

__all__ = ["TOLERANCE", "Live", "MeasuredPlan", "Subject", "measure_points"]

TOLERANCE = 0.10
WARM_UP = 5
ROUNDS = 50

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """What is measured: an *artifact*, its whole *network*, and labelled images."""

    artifact: Artifact
    network: Runner
    dataset: Dataset


@dataclass(frozen=True, eq=False)
class MeasuredPlan:
    """A *choice*, its prediction from the profile of the same minutes, and the *records* of its requests.

    *expected*: int64 [N], the exit that the outcomes say of each request.
    """

    choice: Choice
    predicted_ms: float
    records: Records
    expected: Rows

    @property
    def mean_ms(self) -> float:
        """The measured mean."""
        return float(self.records.latency_ms.mean())

    @property
    def deviation(self) -> float:
        """By how much the prediction differs from the measured mean, as a fraction of it."""
        return self.predicted_ms / self.mean_ms - 1

    @property
    def same_exits(self) -> float:
        """The share of the requests that left where the outcomes say."""
        return float((self.records.exit == self.expected).mean())


@dataclass(frozen=True, eq=False)
class Live:
    """A *point*, measured: its chosen plan, and cloud only beside it if that is another plan for the same edge."""

    point: Point
    chosen: MeasuredPlan
    cloud_only: MeasuredPlan | None

    @property
    def gain(self) -> float | None:
        """How many times as fast the chosen plan was as cloud only."""
        return None if self.cloud_only is None else self.cloud_only.mean_ms / self.chosen.mean_ms


@dataclass(frozen=True, eq=False)
class _Trial:
    """Requests of a point: those of its chosen plan, or of cloud only."""

    point: Point
    choice: Choice
    asked: RequestClass
    expected: Rows


async def measure_points(
    subject: Subject,
    inputs: PlanInputs,
    points: Sequence[Point],
    requests: int,
    logs: Path,
    on_round: Callable[[], None] = lambda: None,
) -> tuple[list[Live], dict[int, ServingProfile]]:
    """Each of *points* with real nodes, *requests* single images for each plan; and the profiles of those minutes.

    The images are those of *inputs*, drawn so that as many leave at each exit as among all. *on_round* is
    called after each round, of which there are *requests*. Raises `Unavailable` if a node does not start or answer.
    """
    held, data = inputs.profile.held, (subject.dataset.images, subject.dataset.labels)

    def on_end(ended: Ended) -> None:
        if ended.request.number < requests:  # of the first class, which has a request in each round
            on_round()

    async with build(_scenario(subject, held, points), Processes(logs)) as fleet:
        names = sorted({cost.codec for cost in inputs.profile.codecs})
        nodes = {times: await _probe(subject, fleet, place, names) for place, times in enumerate(SLOWDOWNS)}
        rows = np.random.default_rng(1).integers(len(data[0]), size=requests)
        asking = [
            one
            for target in fleet.targets[: len(SLOWDOWNS)]
            for one in classes_to_ask(target, subject.artifact.manifest, held, rows)
        ]
        targets = fleet.targets[len(SLOWDOWNS) :]
        trials = [
            trial
            for point, target in zip(points, targets, strict=True)
            for trial in _trials(inputs, point, target, requests)
        ]
        classes = [*asking, *(trial.asked for trial in trials)]
        await send_interleaved([replace(one, rows=one.rows[:WARM_UP]) for one in classes], *data)
        await fleet.reset_links()
        records = await send_interleaved(classes, *data, on_end)
        counted = (await fleet.link_stats())[: len(SLOWDOWNS)]
    each = len(asking) // len(SLOWDOWNS)
    profiles = {}
    for place, times in enumerate(SLOWDOWNS):
        asked = asked_of(records[place * each : (place + 1) * each], subject.artifact.manifest, counted[place])
        few = subject.dataset.images[:1]  # the sizes are those of the inputs anyway
        found = compared(subject.artifact, subject.network, nodes[times], asked, few, average=_mean)
        profiles[times] = sized_as(found.profile, inputs.profile)
    return _lives(trials, records[len(asking) :], profiles), profiles


def _scenario(subject: Subject, held: int, points: Sequence[Point]) -> Scenario:
    """An edge of each speed behind an easy link, then the edge of each point behind its own."""
    groups = [EdgeGroup(slowdown=times, held=held, link=EASY_LINK, plan=PlanModel(cut=held)) for times in SLOWDOWNS]
    for point in points:
        plan, link = point.chosen.plan, point.link
        groups.append(
            EdgeGroup(
                slowdown=point.slowdown,
                held=held if plan.cut == 0 or plan.edge_only else plan.cut,
                link=EASY_LINK.model_copy(update={"uplink_mbps": link.uplink_mbps, "rtt_ms": link.rtt_ms}),
                plan=PlanModel.of(plan),
            )
        )
    limits = Limits(offload_timeout_ms=8_000)
    return Scenario(artifact=str(subject.artifact.folder), groups=tuple(groups), limits=limits)


async def _probe(
    subject: Subject, fleet: RunningFleet, place: int, codecs: Sequence[str]
) -> tuple[NodeProfile, NodeProfile]:
    pair = Pair(fleet.targets[place], fleet.cloud_targets[0])
    return await probe(pair, subject.artifact.manifest, subject.dataset.images[:32], Effort((1,), ROUNDS, 0, codecs))


def _trials(inputs: PlanInputs, point: Point, target: str, requests: int) -> list[_Trial]:
    choices = [point.chosen]
    if (
        point.chosen.plan.cut != 0
    ):  # else it is cloud only, or sends images with a codec, which an edge does for all of them
        choices.append(point.cloud_only)
    trials = []
    for choice in choices:
        exits = _exits(inputs, choice.plan)
        rows = _drawn_alike(exits, requests)
        plan = replace(choice.plan, codec=plain_codec(choice.plan.cut))  # the codec is that of the edge's plan
        trials.append(_Trial(point, choice, RequestClass(target, plan, rows), exits[rows]))
    return trials


def _exits(inputs: PlanInputs, plan: Plan) -> Rows:
    """Where each image leaves under *plan*."""
    return route(plan, inputs.outcomes(plan), inputs.profile.exit_stages, inputs.profile.held).exits


def _drawn_alike(exits: Rows, count: int) -> Rows:
    """*count* positions of *exits* [N], as many of each exit as among all, to the nearest; in random order."""
    rng = np.random.default_rng(2)
    order = rng.permutation(len(exits))
    order = order[np.argsort(exits[order], kind="stable")]
    places = ((np.arange(count) + 0.5) * len(exits) / count).astype(np.int64)
    return rng.permutation(order[places])


def _lives(trials: list[_Trial], records: list[Records], profiles: dict[int, ServingProfile]) -> list[Live]:
    """What became of each point, in their order."""
    lives: list[Live] = []
    for trial, found in zip(trials, records, strict=True):
        predicted_ms = _predicted_ms(trial, profiles[trial.point.slowdown])
        measured = MeasuredPlan(trial.choice, predicted_ms, found, trial.expected)
        if trial.choice is trial.point.chosen:
            lives.append(Live(trial.point, measured, None))
        else:  # it follows the chosen plan of the same point
            lives[-1] = replace(lives[-1], cloud_only=measured)
    return lives


def _predicted_ms(trial: _Trial, profile: ServingProfile) -> float:
    """The mean of the requests of *trial*, as each leaves where the outcomes say."""
    plan = trial.choice.plan
    costs = profile.costs_by_exit(plan.cut, plan.codec, trial.point.link, edge_only=plan.edge_only)
    return float((costs.busy_ms + costs.waiting_ms)[trial.expected].mean())


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())
