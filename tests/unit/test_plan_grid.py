"""The chosen plans of the grid against every plan there is, walked sample by sample on a toy network."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from test_outcomes import random_table

from benchmarks.plan_grid.choices import (
    RTTS_MS,
    SLOWDOWNS,
    UPLINKS_MBPS,
    choose_over,
    profiles_of,
    sized_as,
    spread_over,
)
from benchmarks.plan_grid.live import _drawn_alike
from branchynet.artifact.artifact import Artifact
from branchynet.errors import InvalidInput
from branchynet.exits.threshold_search import distinct_thresholds
from branchynet.placement.plan import Plan, route
from branchynet.placement.serving_profile import CodecCost, Link, ServingProfile, StageTimes
from orchestrator.runs.plan_inputs import PlanInputs

TIMES = StageTimes((1,), ((3.0,), (2.0,)))
CODECS = (CodecCost(0, "webp", 400, 1.0, 0.3), CodecCost(1, "uint8", 700, 0.2, 0.1))
PROFILE = ServingProfile(TIMES, TIMES.slower(0.5), (0, 1), 1, 1.0, 1.5, (837, 4_534), 59, 134, CODECS)
MANIFEST = Artifact.open("lenet-fashion").manifest
SAMPLES = 16


def inputs(seed, held=1):
    coded = {(0, "webp"): random_table(2, SAMPLES, seed), (1, "uint8"): random_table(2, SAMPLES, seed + 1)}
    table = random_table(2, SAMPLES, seed + 2)
    coded = {key: replace(found, labels=table.labels) for key, found in coded.items()}
    return PlanInputs(MANIFEST, table, coded, replace(PROFILE, held=held))


def walked(grounds, plan):
    """Where each sample leaves under *plan* on its route, and the share of right answers."""
    table = grounds.outcomes(plan)
    exits = route(plan, table, grounds.profile.exit_stages, grounds.profile.held).exits
    return exits, table.correct[exits, np.arange(SAMPLES)].mean()


def mean_ms(profile, plan, exits, link):
    costs = profile.costs_by_exit(plan.cut, plan.codec, link, edge_only=plan.edge_only)
    return np.mean([costs.busy_ms[number] + costs.waiting_ms[number] for number in exits])


def every_plan(grounds):
    """By kind, every cut and codec with every threshold that differs."""
    held, rule = grounds.profile.held, MANIFEST.rule
    plans = {"edge": [], "raw": [], "other": []}
    ways = [("edge", Plan(held, rule, edge_only=True)), ("raw", Plan(0, rule)), ("other", Plan(1, rule))]
    ways += [("other", Plan(cut, rule, codec=codec)) for cut, codec in grounds.coded]
    for kind, way in ways:
        thresholds = distinct_thresholds(grounds.outcomes(way).scores(rule)[0], rule.criterion)
        plans[kind] += [replace(way, rule=rule.with_thresholds((float(one),))) for one in thresholds]
    return plans


@pytest.mark.parametrize(("seed", "held"), [(1, 1), (7, 2)])
def test_no_plan_of_its_accuracy_is_faster_than_the_chosen_one_anywhere(seed, held):
    grounds = inputs(seed, held)
    floor = grounds.floor(2)
    accurate = {
        kind: [(plan, exits) for plan in some for exits, right in [walked(grounds, plan)] if right >= floor]
        for kind, some in every_plan(grounds).items()
    }
    points = list(choose_over(grounds, profiles_of(grounds.profile), floor))
    places = itertools.product(SLOWDOWNS, RTTS_MS, UPLINKS_MBPS)
    for point, (slowdown, rtt_ms, uplink_mbps) in zip(points, places, strict=True):
        link, profile = Link(uplink_mbps, rtt_ms=rtt_ms), grounds.profile.slower(edge=slowdown)
        assert (point.slowdown, point.link) == (slowdown, link)
        least = {
            kind: min((mean_ms(profile, plan, exits, link) for plan, exits in some), default=None)
            for kind, some in accurate.items()
        }
        assert point.chosen.mean_ms == pytest.approx(min(mean for mean in least.values() if mean is not None))
        assert point.cloud_only.mean_ms == pytest.approx(least["raw"])
        assert (point.edge_only and point.edge_only.mean_ms) == (least["edge"] and pytest.approx(least["edge"]))
        exits, right = walked(grounds, point.chosen.plan)
        assert point.chosen.mean_ms == pytest.approx(mean_ms(profile, point.chosen.plan, exits, link))
        assert point.chosen.accuracy == pytest.approx(right)
        assert right >= floor
        assert point.gain == point.cloud_only.mean_ms / point.chosen.mean_ms
        assert 1 <= point.margin <= point.gain


def test_a_floor_that_no_plan_has_is_refused():
    with pytest.raises(InvalidInput, match="no plan has accuracy"):
        list(choose_over(inputs(1), profiles_of(PROFILE), 1.01))


def test_points_to_measure_are_spread_from_the_first_to_the_last():
    points = list(choose_over(inputs(1), profiles_of(PROFILE), 0.0))
    some = spread_over(points, 8)
    assert some[0] is points[0]
    assert some[-1] is points[-1]
    assert len({id(point) for point in some}) == 8
    assert [point.slowdown for point in some].count(10) == 4


def test_a_profile_takes_over_sizes_and_what_is_held():
    other = replace(PROFILE, held=2, codecs=(CodecCost(1, "uint8", 90, 9.0, 9.0),))
    sized = sized_as(PROFILE, other)
    assert (sized.held, sized.codecs) == (2, (CodecCost(1, "uint8", 90, 0.2, 0.1),))


def test_drawn_samples_leave_as_all_of_them_do():
    exits = np.random.default_rng(5).choice(3, size=997, p=[0.8, 0.15, 0.05])
    drawn = _drawn_alike(exits, 100)
    shares = np.bincount(exits) / len(exits)
    assert np.abs(np.bincount(exits[drawn]) - 100 * shares).max() <= 1
    assert len(set(drawn.tolist())) == 100
    assert (np.diff(exits[drawn]) != 0).sum() > 5  # the exits are mixed
