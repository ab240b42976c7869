"""What a simulation starts from, measured on this machine: the network's outcomes, its stages' times, its messages.

Nodes are started over a link that is never the bottleneck, and profiled as any nodes are
(`orchestrator.profiling.live_profile`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.profile_file import check_profile
from branchynet.data.datasets import Dataset
from branchynet.evaluation.codec_study import outcomes_through
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.outcomes import OutcomeTable
from branchynet.network.runner import Engine, Runner
from branchynet.placement.plan import Plan
from branchynet.placement.serving_profile import ServingProfile
from orchestrator.nodes.build import build
from orchestrator.nodes.local import Processes
from orchestrator.profiling.live_profile import Effort, Pair, Profiled, profile_nodes
from simulations.model.scenario import LinkModel, Scenario
from simulations.model.simulator import Measured

__all__ = ["EASY_LINK", "measure", "profile_here", "slowdown_like"]

# One gigabit each way and no delay: a message of a few kilobytes takes microseconds.
EASY_LINK = LinkModel(uplink_mbps=1_000.0, downlink_mbps=1_000.0, rtt_ms=0)
REQUESTS = 240
# For who waits for nothing but the profile.
FEW_REQUESTS = 72
ROUNDS = 30
USUAL = Effort((1, 4, 16), ROUNDS, REQUESTS)
STEPS = ("outcomes", "nodes", "stages and codecs", "requests")


async def measure(
    scenario: Scenario,
    dataset: Dataset,
    logs: Path,
    *,
    profile: ServingProfile | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Measured:
    """What *scenario* is simulated from: its artifact's outcomes on *dataset*, also through the codecs of its plans.

    The profile is that of this machine unless *profile* is given. *on_step* receives each of `STEPS` as it begins; the
    nodes' logs go to *logs*. Takes about ten seconds. Raises `UnknownModel`, `InvalidInput` if *profile* is of another
    network or lacks a codec, and `Unavailable` if a node does not start.
    """
    artifact = Artifact.open(scenario.artifact)
    manifest, network = artifact.manifest, artifact.runner()
    on_step("outcomes")
    table = measure_outcomes(network, manifest.cost, dataset)
    own_plan = Plan(manifest.cut, manifest.rule)
    coded = _coded(scenario, own_plan, artifact, network, table, dataset)
    if profile is None:
        effort = replace(USUAL, codecs=sorted({codec for _, codec in coded}))
        profile = (await profile_here(scenario.artifact, dataset, logs, effort, on_step=on_step)).profile
    check_profile(profile, network)
    return Measured(table, profile, own_plan, coded)


def _coded(
    scenario: Scenario, own: Plan, artifact: Artifact, network: Runner, table: OutcomeTable, dataset: Dataset
) -> dict[tuple[int, str], OutcomeTable]:
    """The outcomes through each codec of the scenario's plans; *table* holds those without."""
    plans = [group.plan for _, group in scenario.edge_groups() if group.plan.codec is not None]
    coded = {}
    for plan in (plan.plan(own.cut, own.rule) for plan in plans):
        codec = artifact.codec(plan.codec, plan.cut)
        [through] = outcomes_through(network, table, dataset, plan.cut, [codec])
        coded[plan.cut, plan.codec] = table if codec.lossless else through.table
    return coded


async def slowdown_like(profile: ServingProfile, artifact_name: str, dataset: Dataset, logs: Path) -> float:
    """How many times as slow as this machine an edge is that takes what *profile* says; 1 if it is no slower."""
    effort = Effort((1,), ROUNDS, FEW_REQUESTS)
    here = (await profile_here(artifact_name, dataset, logs, effort)).profile
    return max(float(profile.edge.until_ms[profile.held] / here.edge.until_ms[profile.held]), 1.0)


async def profile_here(
    artifact_name: str,
    dataset: Dataset,
    logs: Path,
    effort: Effort = USUAL,
    *,
    engine: Engine | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Profiled:
    """The profile of the artifact on this machine and *engine* (its own unless given).

    *dataset*: at least as many images as the largest batch; labels do not matter. Raises `UnknownModel`, `InvalidInput`
    for a name that is no codec, `Unavailable` if a node does not start.
    """
    artifact = Artifact.open(artifact_name)
    engine = engine or artifact.default_engine
    network = artifact.runner(engine=engine)
    on_step("nodes")
    scenario = Scenario(artifact=artifact_name, engine=engine, link=EASY_LINK)
    async with build(scenario, Processes(logs)) as fleet:
        return await profile_nodes(
            Pair(fleet.targets[0], fleet.cloud_targets[0]),
            artifact,
            network,
            dataset,
            effort,
            ask_link=partial(fleet.ask_link, 0),
            on_step=on_step,
        )
