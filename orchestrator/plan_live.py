"""Chosen plans measured: real nodes over emulated links, beside what was predicted for the very devices they run on.

    client ──► the edge of a point ──► the link of that point ──┐
           ──► …                                                ├──► cloud
           ──► an edge of each speed to profile ──► easy link ──┘

Requests of all points and those that profiles are made of take turns, so whatever else the machine does falls on
measurements and predictions alike. A weak edge repeats its work until it has taken so many times as long
(`orchestrator.weak_edge`); its profile is measured like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from branchynet.decisions.plans import Plan, plain_codec, route
from branchynet.decisions.timing import ServingProfile
from branchynet.engine import Runner
from branchynet.manifest import Manifest
from branchynet.probe import NodeProfile
from branchynet.training.datasets import Dataset
from orchestrator.local import LocalTopology, Topology
from orchestrator.measuring import EASY_MBPS
from orchestrator.plan_grid import SLOWDOWNS, Choice, Point, sized_as
from orchestrator.planning import Ground
from orchestrator.probing import Effort, Pair, asked_of, compared, kinds_to_ask, probe
from orchestrator.turns import Kind, send_in_turn
from simulations.records import Records

__all__ = ["TOLERANCE", "Live", "Measured", "Subject", "measure_points"]

TOLERANCE = 0.10
WARM_UP = 5
ROUNDS = 50

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """What is measured: an artifact on disk, its *manifest* and whole *network*, and labelled images."""

    artifact: str
    manifest: Manifest
    network: Runner
    dataset: Dataset


@dataclass(frozen=True, eq=False)
class Measured:
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
    chosen: Measured
    cloud_only: Measured | None

    @property
    def gain(self) -> float | None:
        """How many times as fast the chosen plan was as cloud only."""
        return None if self.cloud_only is None else self.cloud_only.mean_ms / self.chosen.mean_ms


@dataclass(frozen=True, eq=False)
class _Trial:
    """Requests of a point: those of its chosen plan, or of cloud only."""

    point: Point
    choice: Choice
    kind: Kind
    expected: Rows


async def measure_points(
    subject: Subject,
    ground: Ground,
    points: Sequence[Point],
    requests: int,
    logs: Path,
    on_turn: Callable[[], None] = lambda: None,
) -> tuple[list[Live], dict[int, ServingProfile]]:
    """Each of *points* with real nodes, *requests* single images for each plan; and the profiles of those minutes.

    The images are those of *ground*, drawn so that as many leave at each exit as among all. *on_turn* is told of each
    turn, of which there are *requests*. Raises `Unavailable` if a node does not start or does not answer.
    """
    held, data = ground.profile.held, (subject.dataset.images, subject.dataset.labels)
    async with LocalTopology.running(_topology(subject, held, points), logs) as running:
        names = sorted({cost.codec for cost in ground.profile.codecs})
        nodes = {times: await _probe(subject, running, place, names) for place, times in enumerate(SLOWDOWNS)}
        rows = np.random.default_rng(1).integers(len(data[0]), size=requests)
        asking = [
            kind
            for target in running.targets[: len(SLOWDOWNS)]
            for kind in kinds_to_ask(target, subject.manifest, held, rows)
        ]
        targets = running.targets[len(SLOWDOWNS) :]
        trials = [
            trial
            for point, target in zip(points, targets, strict=True)
            for trial in _trials(ground, point, target, requests)
        ]
        kinds = [*asking, *(trial.kind for trial in trials)]
        await send_in_turn([replace(kind, rows=kind.rows[:WARM_UP]) for kind in kinds], *data)
        await running.reset_links()
        records = await send_in_turn(kinds, *data, on_turn)
        counted = [await link.ask("stats") for link in running.links[: len(SLOWDOWNS)]]
    each = len(asking) // len(SLOWDOWNS)
    profiles = {}
    for place, times in enumerate(SLOWDOWNS):
        asked = asked_of(records[place * each : (place + 1) * each], subject.manifest, counted[place])
        few = subject.dataset.images[:1]  # the sizes are those of the ground anyway
        found = compared(subject.manifest, subject.network, nodes[times], asked, few, average=_mean)
        profiles[times] = sized_as(found.profile, ground.profile)
    return _lives(trials, records[len(asking) :], profiles), profiles


def _topology(subject: Subject, held: int, points: Sequence[Point]) -> Topology:
    """An edge of each speed behind an easy link, then the edge of each point behind its own."""
    common = Topology(
        artifact=subject.artifact,
        edges=1,
        uplink_mbps=EASY_MBPS,
        downlink_mbps=EASY_MBPS,
        rtt_ms=0,
        offload_timeout_ms=8_000,
        engine=subject.manifest.own_engine,
        cut=held,
        control=True,
    )
    edges = [replace(common, times=times) for times in SLOWDOWNS]
    for point in points:
        plan, raw = point.chosen.plan, point.chosen.plan.cut == 0
        edges.append(
            replace(
                common,
                uplink_mbps=point.link.uplink_mbps,
                rtt_ms=point.link.rtt_ms,
                times=point.slowdown,
                cut=held if raw or plan.local_only else plan.cut,
                codec=common.codec if raw or plan.local_only else plan.codec,
                image_codec=plan.codec if raw else common.image_codec,
            )
        )
    return replace(common, edges=len(edges), variants=tuple(edges))


async def _probe(
    subject: Subject, running: LocalTopology, place: int, codecs: Sequence[str]
) -> tuple[NodeProfile, NodeProfile]:
    pair = Pair(running.targets[place], f"127.0.0.1:{running.cloud.port}")
    return await probe(pair, subject.manifest, subject.dataset.images[:32], Effort((1,), ROUNDS, 0, codecs))


def _trials(ground: Ground, point: Point, target: str, requests: int) -> list[_Trial]:
    choices = [point.chosen]
    if (
        point.chosen.plan.cut != 0
    ):  # else it is cloud only, or sends images with a codec, which an edge does for all of them
        choices.append(point.cloud_only)
    trials = []
    for choice in choices:
        exits = _exits(ground, choice.plan)
        rows = _drawn_alike(exits, requests)
        plan = replace(choice.plan, codec=plain_codec(choice.plan.cut))  # the codec is the edge's own
        trials.append(_Trial(point, choice, Kind(target, plan, rows), exits[rows]))
    return trials


def _exits(ground: Ground, plan: Plan) -> Rows:
    """Where each image leaves under *plan*."""
    return route(plan, ground.outcomes(plan), ground.profile.exit_stages, ground.profile.held).exits


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
        measured = Measured(trial.choice, predicted_ms, found, trial.expected)
        if trial.choice is trial.point.chosen:
            lives.append(Live(trial.point, measured, None))
        else:  # it follows the chosen plan of the same point
            lives[-1] = replace(lives[-1], cloud_only=measured)
    return lives


def _predicted_ms(trial: _Trial, profile: ServingProfile) -> float:
    """The mean of the requests of *trial*, as each leaves where the outcomes say."""
    plan = trial.choice.plan
    costs = profile.costs_by_exit(plan.cut, plan.codec, trial.point.link, local_only=plan.local_only)
    return float((costs.busy_ms + costs.waiting_ms)[trial.expected].mean())


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())
