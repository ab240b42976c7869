"""One scenario, three backings: what runs is what it says, what it goes through happens, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from running_nodes import eventually, in_process, serving_split

from branchynet.artifact.artifact import Artifact
from branchynet.client.client import AsyncClient
from branchynet.data.datasets import Dataset
from branchynet.errors import InvalidInput, Unavailable
from branchynet.placement.plan import Plan
from branchynet.rpc.control import get_plan, set_plan
from branchynet.serving.prediction import Place
from orchestrator.nodes.attached import Attached
from orchestrator.nodes.build import RunningFleet, build, run_faults
from orchestrator.nodes.local import Processes, ProcessFleet
from orchestrator.nodes.ray_cluster import ray_session
from orchestrator.nodes.ray_fleet import RayActors
from simulations.link.control import serve_control
from simulations.model.scenario import EdgeGroup, Fault, Limits, LinkModel, Markov, PlanModel, Scenario

pytestmark = pytest.mark.timeout(240)

EASY = LinkModel(uplink_mbps=1_000, downlink_mbps=1_000, rtt_ms=4)
VARIES = EASY.model_copy(update={"uplink_mbps": Markov(states=(0.5, 50), mean_stay_s=(1, 1))})
SCENARIO = Scenario(
    groups=(
        EdgeGroup(link=VARIES, plan=PlanModel(cut=1, codec="uint8", thresholds=(0.2,))),
        EdgeGroup(link=EASY, plan=PlanModel(cut=0), slowdown=3),
    ),
    limits=Limits(offload_timeout_ms=500),
    faults=(
        Fault(part="link-1", kind="cut", at_s=0, for_s=0.5),
        Fault(part="cloud-0", kind="kill", at_s=1.0, for_s=0.5),
        Fault(part="edge-0", kind="freeze", at_s=0.2, for_s=0.5),
    ),
)
OWN = Artifact.open("lenet-fashion").manifest.rule
PLANS = [Plan(1, OWN.with_thresholds((0.2,)), codec="uint8"), Plan(0, OWN)]


@contextlib.asynccontextmanager
async def backed(backing: str, folder: Path) -> AsyncIterator[RunningFleet]:
    if backing == "processes":
        async with build(SCENARIO, Processes(folder)) as fleet:
            yield fleet
        return
    with ray_session():
        async with build(SCENARIO, RayActors(2)) as fleet:
            watching = asyncio.create_task(fleet.watch())
            yield fleet
            assert not watching.done()
            watching.cancel()


async def check_answers(fleet: RunningFleet, sample: Dataset) -> None:
    """Each edge serves by its plan, and its answers are those of the whole network."""
    for target, plan in zip(fleet.targets, PLANS, strict=True):
        assert await get_plan(target) == plan
        async with AsyncClient(target) as client:
            answers = await client.classify(sample.images[:20])
        expected = in_process(sample.images[:20], rule=plan.rule)
        assert [answer.exit for answer in answers] == expected.exits.tolist()
        assert {answer.place for answer in answers} == ({Place.CLOUD} if plan.cut == 0 else {Place.CLOUD, Place.EDGE})


@pytest.mark.parametrize("backing", ["processes", "ray"])
async def test_what_runs_is_the_scenario_and_what_it_goes_through_happens(
    backing: str, sample: Dataset, tmp_path: Path
) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    async with backed(backing, tmp_path) as fleet:
        assert await fleet.health() == {"edge-0": True, "edge-1": True, "cloud-0": True}
        await check_answers(fleet, sample)
        sent = [stats["bytes_up"] for stats in await fleet.link_stats()]
        assert min(sent) > 20 * 500
        assert await fleet.uplink_bytes() >= sum(sent)
        await fleet.reset_links()
        assert await fleet.uplink_bytes() < min(sent)

        assert (await fleet.ask_link(0, "settings"))["uplink_mbps"] is not None
        await fleet.begin(time.monotonic())
        assert (await fleet.ask_link(0, "settings"))["uplink_mbps"] is None, "it follows its course"
        assert (await fleet.ask_link(1, "settings"))["uplink_mbps"] == 1_000
        with pytest.raises(InvalidInput, match="link-1 refuses 'uplink -1'"):
            await fleet.ask_link(1, "uplink -1")

        events: list[str] = []
        killed = asyncio.Event()

        def on_event(event: str) -> None:
            events.append(event)
            if event == "cloud-0 is killed":
                killed.set()

        faults = asyncio.create_task(run_faults(fleet, on_event=on_event))
        await killed.wait()
        async with AsyncClient(fleet.targets[1]) as client:
            [answer] = await client.classify(sample.images[:1])
        assert answer.place is Place.FALLBACK
        await faults
        assert set(events) == {
            *("link-1 is cut", "link-1 carries again", "edge-0 freezes", "edge-0 serves again"),
            *("cloud-0 is killed", "cloud-0 serves again"),
        }

        async def as_before() -> bool:
            with contextlib.suppress(AssertionError):
                await check_answers(fleet, sample)
                return True
            return False

        await eventually(as_before, "all is as before", 30)
        assert await fleet.health() == {"edge-0": True, "edge-1": True, "cloud-0": True}

    async def gone() -> bool:
        return {process.pid for process in psutil.Process().children(recursive=True)} <= before

    await eventually(gone, "nothing is left", 10)


async def test_a_process_that_ends_by_itself_is_reported_with_its_name(tmp_path: Path) -> None:
    async with build(Scenario(link=EASY), Processes(tmp_path)) as fleet:
        assert isinstance(fleet, ProcessFleet)
        watching = asyncio.create_task(fleet.watch())
        await asyncio.sleep(0)
        fleet.child("edge-0").kill()
        with pytest.raises(Unavailable, match="edge-0 ended with code -9"):
            await asyncio.wait_for(watching, 20)


async def test_nodes_that_run_get_the_scenarios_plan_and_have_their_own_back(sample: Dataset) -> None:
    own = Plan(1, OWN)
    async with (
        serving_split(control=True, cut=2) as split,
        serve_control(split.link, "127.0.0.1", 0) as port,
    ):
        await set_plan(split.edge.target, own)
        attached = Attached([split.edge.target], [f"127.0.0.1:{port}"], [split.cloud.target])
        async with build(Scenario(plan=PlanModel(cut=0)), attached) as fleet:
            assert await get_plan(split.edge.target) == Plan(0, OWN)
            assert await fleet.health() == {"edge-0": True, "cloud-0": True}
            assert await fleet.describe() == ("lenet-fashion", "no limit up, 0 ms round trip")
            await split.client.classify(sample.images[:5])
            assert (await fleet.link_stats())[0]["bytes_up"] > 5 * 784
            await fleet.inflict(Fault(part="link-0", kind="freeze", at_s=0, for_s=0.05))
            for fault in ("kill", "freeze"):
                with pytest.raises(InvalidInput, match="edge-0 is somebody else's"):
                    await fleet.inflict(Fault(part="edge-0", kind=fault, at_s=0, for_s=0))  # type: ignore[arg-type]
        assert await get_plan(split.edge.target) == own
        async with build(Scenario(), attached):
            assert await get_plan(split.edge.target) == own, "a scenario that names no plan leaves it"
        with pytest.raises(InvalidInput, match="cut is 3"):
            async with build(Scenario(plan=PlanModel(cut=3)), attached):
                pass
