"""Plans against a planner that walks sample by sample, and the choice among them against trying them all."""

import math
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import many, some
from placement_examples import scenes
from test_candidates import NEVER, PROFILE, TABLE

from branchynet.errors import InvalidInput
from branchynet.exits.rules import Criterion
from branchynet.placement.candidates import Candidates
from branchynet.placement.optimise import (
    MEASURES,
    Constraints,
    EnergyModel,
    best,
    best_of_each_placement,
    binding,
    evaluate,
    pareto,
)
from branchynet.placement.plan import Plan, plain_codec
from branchynet.placement.serving_profile import Link

COSTS = MEASURES[1:]
FOUND = Candidates.of(TABLE, Criterion.ENTROPY, PROFILE)
MEASURED = evaluate(FOUND, PROFILE, Link(2.0, 8.0, 20.0), EnergyModel(1e-3, 1e-6, 1e-4))


def row(measures, index):
    return {name: float(measures.values(name)[index]) for name in MEASURES}


def near(wanted):
    return pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(scenes())
@many
def test_every_measure_is_what_walking_sample_by_sample_gives(scene):
    found = scene.candidates()
    measures = scene.measures(found)
    for index in range(len(found)):
        assert row(measures, index) == near(scene.walked(found.plan(index)))


@given(scenes())
@some
def test_times_are_the_profiles_own_bit_for_bit(scene):
    found = scene.candidates()
    measures = evaluate(found, scene.profile, Link(3.0, rtt_ms=7.0), tail=1.0)
    for index in range(len(found)):
        plan, deepest = found.plan(index), int(np.flatnonzero(found.shares[index] > 0)[-1])
        if not plan.edge_only and plan.codec == plain_codec(plan.cut):
            assert measures.tail_ms[index] == scene.profile.ms_by_exit(plan.cut, 3.0, 7.0)[deepest]


@given(scenes(), st.data())
@some
def test_the_best_is_the_best_of_all_there_are(scene, data):
    walked = [scene.walked(plan) for plan in scene.every_plan()]
    measures = scene.measures(scene.candidates())

    def level(name):
        return data.draw(st.sampled_from([None, *sorted({result[name] for result in walked})]))

    limits = {field.name: level(field.name[4:]) for field in fields(Constraints)}
    # What is on the line may fall on either side of it, by rounding.
    slack = {
        name: value and (value - 1e-9 if name == "min_accuracy" else value * (1 + 1e-9))
        for name, value in limits.items()
    }
    good = [result for result in walked if _kept(result, slack)]
    objective = data.draw(st.sampled_from(MEASURES))
    if not good:
        with pytest.raises(InvalidInput, match="no plan has"):
            best(measures, objective, Constraints(**slack))
        return
    chosen = row(measures, best(measures, objective, Constraints(**slack)))
    assert _kept(chosen, {name: value and value * (1 + 1e-9) for name, value in slack.items()} | {"min_accuracy": None})
    assert chosen["accuracy"] >= (slack["min_accuracy"] or 0)
    wanted = (max if objective == "accuracy" else min)(result[objective] for result in good)
    assert chosen[objective] == near(wanted)


def _kept(result, limits):
    floor = limits["min_accuracy"]
    caps = {name[4:]: limit for name, limit in limits.items() if name != "min_accuracy" and limit is not None}
    return (floor is None or result["accuracy"] >= floor) and all(result[name] <= cap for name, cap in caps.items())


@given(scenes())
@some
def test_the_best_is_as_fast_as_edge_or_cloud_alone_with_any_rule_of_no_less_accuracy(scene):
    measures = scene.measures(scene.candidates())
    own = [Plan(scene.profile.held, scene.rule, edge_only=True), Plan(0, scene.rule)]
    for plan in own + [plan for plan in scene.every_plan() if plan.edge_only or plan.cut == 0]:
        walked = scene.walked(plan)
        chosen = best(measures, "mean_ms", Constraints(min_accuracy=walked["accuracy"] - 1e-9))
        assert measures.mean_ms[chosen] <= walked["mean_ms"] + 1e-9


@given(scenes(), st.floats(1, 100), st.floats(1, 100), st.floats(0, 1), st.sampled_from(COSTS))
@some
def test_a_faster_link_makes_nothing_worse(scene, up, down, nearer, objective):
    link = scene.link
    faster = Link(link.uplink_mbps * up, link.downlink_mbps * down, link.rtt_ms * nearer)
    found = scene.candidates()
    slow, fast = scene.measures(found), scene.measures(found, faster)
    for accuracy in np.unique(found.accuracy):
        floor = Constraints(min_accuracy=float(accuracy))
        slow_one, fast_one = best(slow, objective, floor), best(fast, objective, floor)
        assert fast.values(objective)[fast_one] <= slow.values(objective)[slow_one] * (1 + 1e-12)


def test_a_loaded_cloud_sends_work_back_to_the_edge():
    link = Link(100.0, rtt_ms=1.0)
    chosen = {}
    for queue_ms in (0.0, 1_000.0):
        measures = evaluate(FOUND, PROFILE, link, cloud_queue_ms=queue_ms)
        floor = Constraints(min_accuracy=float(FOUND.accuracy[FOUND.way == 0].max()))
        chosen[queue_ms] = FOUND.plan(best(measures, "mean_ms", floor)).edge_only
    assert chosen == {0.0: False, 1_000.0: True}


@given(scenes(), st.lists(st.sampled_from(MEASURES), min_size=1, max_size=3, unique=True))
@some
def test_the_frontier_has_whatever_no_other_plan_beats(scene, names):
    measures = scene.measures(scene.candidates())
    losses = np.column_stack([measures.losses(name) for name in names])
    front = pareto(measures, tuple(names))
    assert losses[front].tolist() == sorted(losses[front].tolist())
    for index in range(len(losses)):
        covered = [member for member in front.tolist() if (losses[member] <= losses[index]).all()]
        assert covered == [index] or (index not in front and covered)


@given(scenes())
@some
def test_of_equals_the_one_with_fewer_bytes_and_then_a_deeper_answer_of_its_own_is_best(scene):
    found = scene.candidates()
    measures = scene.measures(found)
    for name in MEASURES:
        losses = measures.losses(name)
        equals = np.flatnonzero(losses == losses.min()).tolist()

        def rank(index):
            order = (measures.uplink_bytes, measures.mean_ms, -found.accuracy, -found.local_exits[found.way])
            return (*(values[index] for values in order), index)

        assert best(measures, name) == min(equals, key=rank)
        assert pareto(measures, (name,)).tolist() == [best(measures, name)]


@pytest.mark.parametrize(
    ("accuracy", "chosen"),
    [([0.5, 0.6, 0.6], 2), ([0.5, 0.7, 0.6], 1), ([0.6, 0.6, 0.5], 0)],
)
def test_of_what_takes_the_same_the_more_accurate_is_best_then_the_deeper_answer_of_its_own(accuracy, chosen):
    """Whoever leaves at the first exit pays nothing for what lies behind it; cut 3 has one more to fall back on."""
    ways = (Plan(1, NEVER), Plan(3, NEVER))
    everybody_first = np.array([[1.0, 0.0, 0.0]] * 3)
    found = Candidates(ways, np.array([0, 0, 1]), np.ones((3, 2)), everybody_first, np.array(accuracy), (0, 2, 3), 3)
    assert best(evaluate(found, PROFILE, Link(2.0))) == chosen


LIMITS = {field.name: field.name[4:] for field in fields(Constraints)}


@given(st.sets(st.sampled_from(sorted(LIMITS)), min_size=1), st.integers(0, 2**32))
@many
def test_what_is_told_instead_of_the_impossible_can_be_had(asked, seed):
    rng = np.random.default_rng(seed)
    wanted = {}
    for name in sorted(asked):
        values = MEASURED.values(LIMITS[name])
        low, high = values.min(), values.max()
        wanted[name] = float(rng.choice([low - 0.1 * high, low + 0.1 * (high - low), high + 0.1 * high]))
    try:
        best(MEASURED, "mean_ms", Constraints(**wanted))
    except InvalidInput as refusal:
        told = str(refusal).split("; ")[1]
        pairs = re.findall(r"(\w+) [<>]= ([-+.e\d]+)", told)
        assert pairs
        alone = "on its own" in told
        for measure, value in pairs:
            name = ("min_" if measure == "accuracy" else "max_") + measure
            best(MEASURED, "mean_ms", Constraints(**{**({} if alone else wanted), name: float(value)}))


def test_the_impossible_is_refused_with_what_there_is():
    most, fastest = MEASURED.accuracy.max(), MEASURED.mean_ms.min()
    assert (most, round(fastest, 6)) == (pytest.approx(12 / 30), 1.5)
    with pytest.raises(InvalidInput, match=r"^no plan has accuracy >= 0\.99; one has accuracy >= 0\.4$"):
        best(MEASURED, "mean_ms", Constraints(min_accuracy=0.99))
    with pytest.raises(InvalidInput, match=r"mean_ms <= 1; on its own, one has accuracy >= 0\.4 or mean_ms <= 1\.5$"):
        best(MEASURED, "accuracy", Constraints(min_accuracy=0.99, max_mean_ms=1.0))
    with pytest.raises(InvalidInput, match=r"with the rest kept, one has accuracy >= 0\.\d+ or mean_ms <= [\d.]+$"):
        best(MEASURED, "accuracy", Constraints(min_accuracy=0.4, max_mean_ms=1.5))


def test_without_an_energy_model_nobody_is_told_of_joules():
    measures = evaluate(FOUND, PROFILE, Link(2.0))
    assert measures.joules is None
    for ask in (
        lambda: best(measures, "joules"),
        lambda: best(measures, "mean_ms", Constraints(max_joules=1.0)),
        lambda: pareto(measures, ("accuracy", "joules")),
    ):
        with pytest.raises(InvalidInput, match="joules are unknown; evaluate the plans with an energy model"):
            ask()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: best(MEASURED, "speed"), "'speed' is no measure; it must be one of accuracy, mean_ms"),
        (lambda: pareto(MEASURED, ("accuracy", "cost")), "'cost' is no measure"),
        (lambda: pareto(MEASURED, ()), "a frontier needs measures; give some of accuracy"),
        (lambda: Constraints(min_accuracy=math.nan), "the limit of accuracy is nan"),
        (lambda: Constraints(max_joules=math.nan), "the limit of joules is nan"),
        (lambda: EnergyModel(-1e-3, 0.0), "joules_per_busy_ms=-0.001.*energies must be finite and 0 or more"),
        (lambda: EnergyModel(0.0, math.inf), "joules_per_sent_byte=inf"),
        (lambda: EnergyModel(0.0, 0.0, math.nan), "joules_per_waiting_ms=nan"),
        (lambda: evaluate(FOUND, PROFILE, Link(2.0), tail=0.0), "tail is 0.0; it must be above 0 and at most 1"),
        (lambda: evaluate(FOUND, PROFILE, Link(2.0), tail=95), "tail is 95"),
        (lambda: evaluate(FOUND, PROFILE, Link(2.0), cloud_queue_ms=-1), "cloud_queue_ms is -1"),
        (lambda: evaluate(FOUND, replace(PROFILE, held=2), Link(2.0)), r"\(0, 2, 3\) and an edge with 2 stages; .* 3$"),
        (lambda: evaluate(FOUND, replace(PROFILE, exit_stages=(1, 2, 3)), Link(2.0)), r"exits after \(1, 2, 3\)"),
    ],
)
def test_wrong_values_are_refused(ask, message):
    with pytest.raises(InvalidInput, match=message):
        ask()


def test_a_codec_that_the_profile_does_not_know_is_refused():
    found = Candidates.of(TABLE, Criterion.ENTROPY, PROFILE, {(1, "uint4"): TABLE})
    with pytest.raises(InvalidInput, match=r"no codec 'uint4' was measured at cut 1; \['fp32', 'uint8'\] are known"):
        evaluate(found, PROFILE, Link(2.0))


@given(scenes(), st.sampled_from(MEASURES), st.floats(0, 1))
@some
def test_each_way_gives_its_best_and_the_best_of_all_comes_first(scene, objective, floor):
    found = scene.candidates()
    measures = scene.measures(found)
    limits = Constraints(min_accuracy=floor * measures.accuracy.max())
    ranked = best_of_each_placement(measures, objective, limits)
    assert ranked[0] == best(measures, objective, limits)
    assert (np.diff(measures.losses(objective)[ranked]) >= 0).all()
    good = measures.accuracy >= limits.min_accuracy
    assert sorted(found.way[ranked]) == sorted(set(found.way[good]))
    for index in ranked:
        rivals = good & (found.way == found.way[index])
        assert measures.losses(objective)[index] == measures.losses(objective)[rivals].min()


@given(scenes(), st.data())
@some
def test_a_limit_binds_if_lifting_it_alone_gives_a_better_plan(scene, data):
    measures = scene.measures(scene.candidates())
    model = int(data.draw(st.integers(0, len(measures.candidates) - 1)))
    values = row(measures, model)
    limits = Constraints(values["accuracy"], values["mean_ms"], max_uplink_bytes=values["uplink_bytes"])
    objective = data.draw(st.sampled_from(MEASURES))
    least = measures.losses(objective)[best(measures, objective, limits)]
    expected = {}
    for name, field in (("accuracy", "min_accuracy"), ("mean_ms", "max_mean_ms"), ("uplink_bytes", "max_uplink_bytes")):
        without = best(measures, objective, replace(limits, **{field: None}))
        if measures.losses(objective)[without] < least:
            expected[name] = without
    assert binding(measures, objective, limits) == expected


def test_nothing_binds_without_limits():
    assert binding(MEASURED, "mean_ms", Constraints()) == {}
