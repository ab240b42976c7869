"""Which request is sent when: every one once, to the edge and with the image that it should be."""

import itertools
import math

import numpy as np
import pytest

from branchynet.errors import InvalidInput
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.placement.plan import Plan
from branchynet.serving.prediction import Policy
from orchestrator.load.schedules import (
    Lane,
    RequestClass,
    closed_loop,
    constant_rate,
    interleaved,
    open_loop,
    policy_of,
)
from simulations.model.scenario import Scenario, Workload
from simulations.model.workload import requests_of

RULE = ExitRule(Criterion.ENTROPY, (0.3,))


def test_an_open_loop_sends_what_the_simulator_would_when_it_would():
    scenario = Scenario(edges=5, clouds=2, workload=Workload(rate_per_s=50, requests=8))
    parts = [requests_of(scenario, cloud, 100) for cloud in range(2)]
    lane = open_loop(parts, Plan(0, RULE))
    requests = list(lane.requests)
    assert lane.concurrency is None
    dues_s = [request.due_s for request in requests]
    assert dues_s == sorted(dues_s)
    by_number = sorted(requests, key=lambda request: request.number)
    assert [request.number for request in by_number] == list(range(40))
    for column, values in (("edge", [0, 2, 4, 1, 3]), ("cloud", [0, 0, 0, 1, 1])):
        assert [getattr(request, column) for request in by_number[::8]] == values
    assert [request.row for request in by_number] == np.concatenate([part.rows.ravel() for part in parts]).tolist()
    assert [request.due_s for request in by_number] == np.concatenate([part.sent_s.ravel() for part in parts]).tolist()
    assert {(request.policy, request.rule) for request in requests} == {(Policy.CLOUD_ONLY, RULE)}


def test_without_a_plan_edges_go_by_their_own():
    lane = open_loop([requests_of(Scenario(workload=Workload(requests=3)), 0, 10)])
    assert {(request.policy, request.rule) for request in lane.requests} == {(Policy.SPLIT, None)}


def test_a_constant_rate_goes_round_edges_and_images_until_it_is_over():
    requests = list(constant_rate(10, samples=4, edges=3, seconds=0.7).requests)
    assert [(request.number, request.edge, request.row) for request in requests] == [
        (number, number % 3, number % 4) for number in range(7)
    ]
    assert [request.due_s for request in requests] == pytest.approx([number / 10 for number in range(7)])


def test_a_constant_rate_without_end_goes_on():
    requests = constant_rate(10, samples=4, edges=3).requests
    assert next(itertools.islice(requests, 5_000, None)).due_s == 500


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((0, 1, 1), "rate_per_s is 0"),
        ((math.inf, 1, 1), "rate"),
        ((1, 1, 1, 0), "seconds is 0"),
        ((1, 1, 1, math.nan), "s"),
    ],
)
def test_a_load_that_cannot_be_is_refused(wrong, said):
    with pytest.raises(InvalidInput, match=said):
        constant_rate(*wrong)


def test_nobody_at_a_time_is_refused():
    with pytest.raises(InvalidInput, match="concurrency is 0"):
        Lane([], concurrency=0)


def test_a_closed_loop_deals_each_image_out_once():
    lanes = closed_loop(7, 3, 2, requests=10, policy=Policy.EDGE_ONLY)
    assert [lane.concurrency for lane in lanes] == [2, 2, 2]
    dealt = [list(lane.requests) for lane in lanes]
    assert [[request.number for request in part] for part in dealt] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    for edge, part in enumerate(dealt):
        for request in part:
            assert (request.edge, request.row, request.due_s) == (edge, request.number % 7, None)
            assert request.policy is Policy.EDGE_ONLY


def test_a_closed_loop_without_end_goes_on():
    (lane,) = closed_loop(7, 1, 1)
    assert next(itertools.islice(lane.requests, 100, None)).row == 100 % 7


def test_interleaved_classes_have_a_request_in_each_round_and_smaller_ones_are_spread_evenly():
    many, few = np.arange(12), np.arange(100, 104)
    classes = [
        RequestClass("a:1", Plan(1, RULE), many),
        RequestClass("b:1", Plan(0, RULE), many + 50),
        RequestClass("a:1", Plan(1, RULE, edge_only=True), few),
    ]
    lane = interleaved(classes, [0, 1, 0])
    assert lane.concurrency == 1
    assert lane.pause_s > 0
    requests = list(lane.requests)
    by_number = sorted(requests, key=lambda request: request.number)
    assert [request.number for request in by_number] == list(range(28))
    assert [request.row for request in by_number] == [*many, *(many + 50), *few]
    assert [request.edge for request in by_number] == [0] * 12 + [1] * 12 + [0] * 4
    assert [request.policy for request in by_number[::12]] == [Policy.SPLIT, Policy.CLOUD_ONLY, Policy.EDGE_ONLY]
    kinds = [0 if request.number < 12 else 1 if request.number < 24 else 2 for request in requests]
    rounds = [kinds[start : start + 7] for start in range(0, 28, 7)]  # three rounds, of which the few take part in one
    assert all(sorted(part) == [0, 0, 0, 1, 1, 1, 2] for part in rounds)
    assert len({tuple(part) for part in rounds}) > 1, "the order is the same in each round"
    assert [request.number for request in interleaved(classes, [0, 1, 0]).requests] == [
        request.number for request in requests
    ], "the order is not the same each time"


def test_a_plan_becomes_the_policy_that_carries_it_out():
    assert policy_of(Plan(1, RULE)).value == "split"
    assert policy_of(Plan(0, RULE)).value == "cloud-only"
    assert policy_of(Plan(0, RULE, edge_only=True)).value == "edge-only"
    with pytest.raises(InvalidInput, match="codec is 'uint8' at cut 1; here it can only be 'fp32'"):
        policy_of(Plan(1, RULE, codec="uint8"))
