"""What an edge can be told about adapting, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
from network_examples import LENET
from node_examples import IMAGES, WorkingUplink, mixed

from branchynet import artifact
from branchynet.decisions.adaptation import Adaptation, Replanner
from branchynet.decisions.candidates import Candidates
from branchynet.decisions.outcomes import OutcomeTable
from branchynet.decisions.plans import Plan
from branchynet.decisions.timing import Link, ServingProfile, StageTimes
from branchynet.errors import InvalidInput
from branchynet.models import zoo
from branchynet.plan_file import PlanFile, write_plan_file
from branchynet.prediction import Place
from branchynet.settings import read_settings
from edge_node.serving import open_edge
from edge_node.settings import EdgeSettings

TIMES = StageTimes((1,), ((20.0,), (30.0,)))
PROFILE = ServingProfile(TIMES, TIMES.slower(0.1), (0, 1), 2, 1.0, 1.0, (837, 4_534), 60, 130)
LOCAL, SENT = Plan(2, mixed(), local_only=True), Plan(0, mixed())
TABLE = OutcomeTable(np.zeros((2, 1, 10), np.float32), np.zeros(1, np.int64), np.ones(2))


def plans_of(name, **changes):
    """Plans for the shipped artifact *name*."""
    manifest = artifact.read_manifest(zoo.find(name))
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
        ("lenet-fashion", ("--keep-exit-share", "0.5"), "keep_exit_share is 0.5 and adapt is .*one of the two"),
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
