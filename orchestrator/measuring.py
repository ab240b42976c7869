"""What a simulation starts from, measured on this machine: the network's outcomes, its stages' times, its messages.

Nodes are started over a link that is never the bottleneck, and profiled as any nodes are (`orchestrator.probing`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from branchynet import artifact
from branchynet.decisions.plans import Plan
from branchynet.decisions.timing import ServingProfile
from branchynet.engine import Engine, Runner
from branchynet.errors import DamagedData, InvalidInput
from branchynet.models import zoo
from branchynet.training.datasets import Dataset
from branchynet.training.evaluation import measure_outcomes
from orchestrator.local import LocalTopology, Topology
from orchestrator.probing import Effort, Pair, Profiled, exit_stages_of, profile_nodes
from simulations.simulator import Measured

__all__ = ["check_profile", "measure", "profile_here", "read_profile", "write_profile"]

# One gigabit each way and no delay: a message of a few kilobytes takes microseconds.
EASY_MBPS = 1_000.0
REQUESTS = 240
# For who waits for nothing but the profile.
FEW_REQUESTS = 72
ROUNDS = 30
USUAL = Effort((1, 4, 16), ROUNDS, REQUESTS)
STEPS = ("outcomes", "nodes", "stages and codecs", "requests")

_PROFILE = TypeAdapter(ServingProfile)


async def measure(
    artifact_name: str,
    dataset: Dataset,
    logs: Path,
    *,
    profile: ServingProfile | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Measured:
    """Outcomes of the artifact on *dataset*, and its profile on this machine unless *profile* is given.

    *on_step* is told each of `STEPS` when it begins; the nodes' logs go to *logs*. Takes about ten seconds. Raises
    `UnknownModel`, `InvalidInput` if *profile* is of another network, and `Unavailable` if a node does not start.
    """
    folder = zoo.find(artifact_name)
    manifest, network = artifact.load_runner(folder)
    on_step("outcomes")
    table = measure_outcomes(network, manifest.cost, dataset)
    own_plan = Plan(manifest.cut, manifest.rule)
    if profile is None:
        profile = (await profile_here(artifact_name, dataset, logs, on_step=on_step)).profile
    check_profile(profile, network)
    return Measured(table, profile, own_plan)


def check_profile(profile: ServingProfile, network: Runner) -> None:
    """Raise `InvalidInput` unless *profile* is of a network with the stages and exits of *network*."""
    exit_stages = exit_stages_of(network)
    if profile.exit_stages != exit_stages:
        raise InvalidInput(f"the profile is of a network with exits after {profile.exit_stages}, not {exit_stages}")


def write_profile(path: Path, profile: ServingProfile) -> None:
    """Write *profile* as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(profile), indent=2) + "\n", encoding="utf-8")


def read_profile(path: Path) -> ServingProfile:
    """The profile in the JSON file at *path*; `DamagedData` if it holds none."""
    try:
        return _PROFILE.validate_json(path.read_bytes())
    except (ValidationError, InvalidInput) as error:
        raise DamagedData(f"{path} holds no profile: {error}") from None


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
    manifest, network = artifact.load_runner(zoo.find(artifact_name), engine=engine)
    on_step("nodes")
    topology = Topology(
        artifact=artifact_name,
        edges=1,
        uplink_mbps=EASY_MBPS,
        downlink_mbps=EASY_MBPS,
        rtt_ms=0,
        engine=engine or manifest.own_engine,
        control=True,
    )
    async with LocalTopology.running(topology, logs) as running:
        return await profile_nodes(
            Pair(running.targets[0], f"127.0.0.1:{running.cloud.port}"),
            manifest,
            network,
            dataset,
            effort,
            link=running.links[0],
            on_step=on_step,
        )
