"""The route of every sample under a plan, by hand-made cases for each way it can go."""

from dataclasses import replace

import numpy as np
import pytest

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import ExitRule
from branchynet.placement.plan import Plan, route

# Four stages; exits follow stages 0, 2 and 3. Sample i is sure from exit i on.
EXIT_STAGES = (0, 2, 3)
RULE = ExitRule("max-probability", (0.9, 0.9))


def table():
    logits = np.zeros((3, 3, 2), dtype=np.float32)
    for exit_number in range(3):
        logits[exit_number, : exit_number + 1, 0] = 50
    return OutcomeTable(logits, np.zeros(3, np.int64), np.ones(3))


def routed(cut, held, edge_only=False):
    routes = route(Plan(cut, RULE, edge_only), table(), EXIT_STAGES, held)
    assert {values.dtype.name for values in (routes.exits, routes.edge_stages, routes.cloud_stages)} == {"int64"}
    return {
        name: getattr(routes, name).tolist()
        for name in ("exits", "offloaded", "edge_stages", "cloud_stages", "local_exits", "local_stages")
    }


def test_everything_is_sent_at_cut_0():
    assert routed(cut=0, held=3) == {
        "exits": [0, 1, 2],
        "offloaded": [True, True, True],
        "edge_stages": [0, 0, 0],
        "cloud_stages": [1, 3, 4],
        "local_exits": [0, 1, 1],
        "local_stages": [1, 3, 3],
    }


def test_whom_the_edges_exit_keeps_is_sent_behind_a_cut():
    assert routed(cut=1, held=1) == {
        "exits": [0, 1, 2],
        "offloaded": [False, True, True],
        "edge_stages": [1, 1, 1],
        "cloud_stages": [0, 3, 4],
        "local_exits": [0, 0, 0],
        "local_stages": [1, 1, 1],
    }


def test_a_cut_between_exits_lets_the_edge_run_the_stage_before_it():
    assert routed(cut=2, held=2) == {
        "exits": [0, 1, 2],
        "offloaded": [False, True, True],
        "edge_stages": [1, 2, 2],
        "cloud_stages": [0, 3, 4],
        "local_exits": [0, 0, 0],
        "local_stages": [1, 2, 2],
    }


def test_the_second_exit_before_the_cut_keeps_only_the_last_sample():
    assert routed(cut=3, held=3) == {
        "exits": [0, 1, 2],
        "offloaded": [False, False, True],
        "edge_stages": [1, 3, 3],
        "cloud_stages": [0, 0, 4],
        "local_exits": [0, 1, 1],
        "local_stages": [1, 3, 3],
    }


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_split_answers_alone_from_what_it_ran_before_the_cut(cut):
    assert routed(cut=cut, held=4) == routed(cut=cut, held=cut)


@pytest.mark.parametrize("edge_only", [False, True])
def test_nobody_is_sent_behind_the_last_stage(edge_only):
    assert routed(cut=4, held=4, edge_only=edge_only) == {
        "exits": [0, 1, 2],
        "offloaded": [False, False, False],
        "edge_stages": [1, 3, 4],
        "cloud_stages": [0, 0, 0],
        "local_exits": [0, 1, 2],
        "local_stages": [1, 3, 4],
    }


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_local_plan_ends_at_the_deepest_exit_the_edge_holds(cut):
    assert routed(cut=cut, held=2, edge_only=True) == {
        "exits": [0, 0, 0],
        "offloaded": [False, False, False],
        "edge_stages": [1, 2, 2],
        "cloud_stages": [0, 0, 0],
        "local_exits": [0, 0, 0],
        "local_stages": [1, 2, 2],
    }


def test_a_sample_that_never_leaves_early_goes_to_the_last_exit():
    routes = route(Plan(1, ExitRule.never(3)), table(), EXIT_STAGES, 1)
    assert routes.exits.tolist() == [2, 2, 2]
    assert routes.offloaded.all()
    assert routes.cloud_stages.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("cut", "held", "message"),
    [
        (-1, 4, "cut is -1; this network has cuts 0 to 4"),
        (5, 5, "cut is 5; this network has cuts 0 to 4"),
        (0, 0, "held is 0; it must be between the cut, 0, and 4"),
        (2, 1, "held is 1; it must be between the cut, 2, and 4"),
        (0, 5, "held is 5; it must be between the cut, 0, and 4"),
    ],
)
def test_a_cut_or_a_half_that_is_not_there_is_refused(cut, held, message):
    with pytest.raises(InvalidInput, match=message):
        route(Plan(cut, RULE), table(), EXIT_STAGES, held)


def test_an_edge_without_an_exit_is_refused():
    late = OutcomeTable(table().logits[1:], np.zeros(3, np.int64), np.ones(2))
    plan = Plan(1, ExitRule("entropy", (0.5,)))
    with pytest.raises(InvalidInput, match=r"stages \[0, 1\) have no exit; the first one follows stage 1"):
        route(plan, late, (1, 3), 2)  # what lies behind the cut was not run, so it cannot answer
    alone = replace(plan, edge_only=True)
    assert route(alone, late, (1, 3), 2).local_exits.tolist() == [0, 0, 0]


def test_a_rule_for_other_exits_is_refused():
    with pytest.raises(InvalidInput, match="1 thresholds"):
        route(Plan(1, ExitRule.never(2)), table(), EXIT_STAGES, 1)


def test_a_plan_names_its_codec():
    assert [Plan(cut, RULE).codec for cut in (0, 1, 4)] == ["raw", "fp32", "fp32"]
    assert Plan(0, RULE, codec="fp32") == Plan(0, RULE, codec="raw")
    assert replace(Plan(1, RULE), cut=0).codec == "raw"
    assert Plan(1, RULE, codec="uint8") != Plan(1, RULE)


def test_a_feature_map_cannot_travel_as_pixels():
    with pytest.raises(InvalidInput, match="codec is 'raw' at cut 2; only the input, at cut 0"):
        replace(Plan(0, RULE), cut=2)
