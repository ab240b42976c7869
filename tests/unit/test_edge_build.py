"""How an edge comes by its plan: from a file with one, or with many to choose from; and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
from network_examples import LENET
from node_examples import IMAGES, WorkingUplink, mixed

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.plan_file import PlanFile, read_plan, write_plan, write_plan_file
from branchynet.errors import DamagedData, InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import ExitRule
from branchynet.placement.candidates import Candidates
from branchynet.placement.plan import Plan
from branchynet.placement.replanner import Adaptation, Replanner
from branchynet.placement.serving_profile import Link, ServingProfile, StageTimes
from branchynet.serving.prediction import Place
from branchynet.serving.settings import read_settings
from edge_node.build import open_edge
from edge_node.settings import EdgeSettings

TIMES = StageTimes((1,), ((20.0,), (30.0,)))
PROFILE = ServingProfile(TIMES, TIMES.slower(0.1), (0, 1), 2, 1.0, 1.0, (837, 4_534), 60, 130)
LOCAL, SENT = Plan(2, mixed(), edge_only=True), Plan(0, mixed())
TABLE = OutcomeTable(np.zeros((2, 1, 10), np.float32), np.zeros(1, np.int64), np.ones(2))


def plans_of(name, **changes):
    """Plans for the shipped artifact *name*."""
    manifest = Artifact.open(name).manifest
    candidates = Candidates.given([LOCAL, SENT], TABLE, PROFILE)
    plans = PlanFile(manifest.name, manifest.content_hash, candidates, PROFILE, Link(0.01), Adaptation(0.0))
    return replace(plans, **changes)


def settings(tmp_path, plans, *flags):
    write_plan_file(tmp_path / "plans.json", plans)
    asked = ["--port", "0", "--cloud", "", "--adapt", str(tmp_path / "plans.json"), *flags]
    return read_settings(EdgeSettings, asked, "edge")


async def test_an_edge_holds_what_its_plans_need_and_starts_with_the_best_of_them(tmp_path):
    for flags in ((), ("--cut", "2")):
        async with open_edge(settings(tmp_path, plans_of("lenet-fashion"), *flags)) as (node, _):
            assert node.served.stages == (0, 2)
            assert node.plan == LOCAL


@pytest.mark.parametrize(
    ("other", "flags", "complaint"),
    [
        ("lenet-mnist", (), r"for lenet-mnist with content hash [0-9a-f]{64}; lenet-fashion has [0-9a-f]{64}"),
        ("lenet-fashion", ("--cut", "1"), r"cut is 1, but the plans in .* holds stages \[0, 2\)"),
        ("lenet-fashion", ("--keep-exit-share", "0.5"), "keep_exit_share is 0.5 and adapt is .*give one of them"),
    ],
)
async def test_what_does_not_go_together_is_refused(tmp_path, other, flags, complaint):
    with pytest.raises(InvalidInput, match=complaint):
        async with open_edge(settings(tmp_path, plans_of(other), *flags)):
            pass


def test_the_plans_can_be_named_by_flag_environment_and_file(tmp_path, monkeypatch):
    def adapt(*flags):
        return str(read_settings(EdgeSettings, flags, "edge").adapt)

    (tmp_path / "node.toml").write_text('[edge]\nadapt = "of-file.json"\n')
    assert adapt("--config", str(tmp_path / "node.toml")) == "of-file.json"
    monkeypatch.setenv("BRANCHYNET_EDGE_ADAPT", "of-environment.json")
    assert adapt("--config", str(tmp_path / "node.toml")) == "of-environment.json"
    assert adapt("--adapt", "of-flag.json") == "of-flag.json"


async def test_a_probe_is_a_message_like_any_other_and_its_answer_goes_to_nobody(nodes):
    uplink = WorkingUplink(nodes.cloud(LENET))
    edge = nodes(uplink, LENET, cut=2)
    candidates = Candidates.given([LOCAL, SENT], TABLE, PROFILE)
    replanner = Replanner(candidates, PROFILE, Link(1e-3), Adaptation(0.0, period_s=1e9), 0.0)
    edge.follow(replanner)  # its clock is far ahead: nothing was sent for a long time
    alone = await edge.classify(IMAGES)
    assert {answer.place for answer in alone} == {Place.EDGE}
    assert sum(answer.uplink_bytes for answer in alone) == 0
    while not replanner.link(0.0).observations:
        await edge.classify(IMAGES[:1])
    (cut, sent, rule, _), *more = uplink.calls
    assert (cut, sent.shape[0], rule, more) == (0, 1, SENT.rule, [])


def plan_settings(tmp_path, text, *flags):
    (tmp_path / "plan.json").write_text(text)
    asked = ["--port", "0", "--cloud", "", "--plan", str(tmp_path / "plan.json"), *flags]
    return read_settings(EdgeSettings, asked, "edge")


async def test_an_edge_serves_by_the_plan_in_a_file_and_holds_what_that_needs(tmp_path):
    own = Artifact.open("lenet-fashion").manifest
    for text, flags, plan, held in (
        ('{"cut": 1}', (), Plan(1, own.rule), 1),
        ('{"cut": 0, "codec": "png"}', (), Plan(0, own.rule, codec="png"), own.cut),
        ('{"cut": 2, "edge_only": true}', (), Plan(2, own.rule, edge_only=True), 2),
        (
            '{"cut": 1, "codec": "uint8+zstd", "rule": {"criterion": "margin", "thresholds": [0.5]}}',
            ("--cut", "2"),
            Plan(1, own.rule.with_thresholds((0.5,), "margin"), codec="uint8+zstd"),
            2,
        ),
    ):
        async with open_edge(plan_settings(tmp_path, text, *flags)) as (node, _):
            assert (node.plan, node.served.stages) == (plan, (0, held))


@pytest.mark.parametrize(
    ("text", "flags", "error", "complaint"),
    [
        ('{"cut": 2}', ("--cut", "1"), InvalidInput, r"the plan's cut is 2; this edge holds stages \[0, 1\)"),
        ('{"cut": 1, "codec": "mp3"}', (), InvalidInput, "codec 'mp3' is unknown"),
        ('{"cut": 1, "codec": "raw"}', (), DamagedData, "plan.json holds no plan: codec is 'raw' at cut 1"),
        ('{"cut": 1, "rule": {"criterion": "luck", "thresholds": [1]}}', (), DamagedData, "'luck'"),
        (
            '{"cut": 1, "rule": {"criterion": "entropy", "thresholds": [1, 1]}}',
            (),
            InvalidInput,
            "the rule has 2 thresholds",
        ),
        ('{"codec": "fp32"}', (), DamagedData, "cut: Field required"),
        ('{"cut": 1, "more": 1}', (), DamagedData, "more: Extra inputs"),
        ('{"cut": 1, "ways": []}', (), DamagedData, "for --adapt; --plan is for one"),
        ("[1]", (), DamagedData, "holds no plan"),
        ('{"cut": 1, "artifact": "x", "content_hash": "ab"}', (), InvalidInput, "for x with content hash ab; lenet-"),
        ('{"cut": 1}', ("--keep-exit-share", "0.5"), InvalidInput, "keep_exit_share is 0.5 and plan is"),
        ('{"cut": 1}', ("--adapt", "plans.json"), InvalidInput, "plan is .* and adapt is plans.json"),
    ],
)
async def test_a_plan_that_an_edge_cannot_serve_by_is_refused_at_its_start(tmp_path, text, flags, error, complaint):
    with pytest.raises(error, match=complaint):
        async with open_edge(plan_settings(tmp_path, text, *flags)):
            pass


def test_a_plan_that_is_written_is_read_again(tmp_path):
    manifest = Artifact.open("lenet-fashion").manifest
    rule = ExitRule("entropy", (0.25,), (1.5, 1.0))
    for plan in (Plan(1, rule, codec="uint4+zstd"), Plan(0, rule), Plan(2, rule, edge_only=True)):
        write_plan(tmp_path / "made" / "plan.json", plan, manifest.name, manifest.content_hash)
        assert read_plan(tmp_path / "made" / "plan.json", manifest) == plan
