"""The cloud crashes and comes back under load: real processes, and not one request is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest
from running_nodes import eventually, in_process

from branchynet.client import AsyncClient
from branchynet.prediction import Place, Policy, Prediction
from branchynet.training.datasets import Dataset
from orchestrator.load import run_load
from orchestrator.local import LocalTopology, Topology

pytestmark = pytest.mark.alone

ROUND = 40
IN_FLIGHT = 1


async def test_a_restart_of_the_cloud_in_the_middle_of_a_run_loses_no_request(sample: Dataset, tmp_path: Path) -> None:
    images = sample.images[:ROUND]
    expected = in_process(images).logits.argmax(axis=1).tolist()
    topology = Topology(edges=1, rtt_ms=20, offload_timeout_ms=1_000)
    rounds: list[tuple[Prediction, ...]] = []
    running_under_load = asyncio.Event()
    stop = asyncio.Event()

    async with LocalTopology.running(topology, tmp_path) as local:
        targets = [f"127.0.0.1:{edge.port}" for edge in local.edges]

        async def load() -> None:
            # Every image needs the cloud; `run_load` raises if a single request is refused.
            while not stop.is_set():
                measured = await run_load(
                    targets,
                    images,
                    Policy.CLOUD_ONLY,
                    in_flight_per_edge=IN_FLIGHT,
                    deadline_ms=30_000,
                    on_answer=running_under_load.set,
                )
                rounds.append(measured.predictions)

        async def cloud_answers(target: str) -> bool:
            async with AsyncClient(target) as client:
                answers = await client.classify(images[:1], policy=Policy.CLOUD_ONLY, deadline_ms=30_000)
            return answers[0].place is Place.CLOUD

        async def more_rounds_than(count: int) -> bool:
            return len(rounds) > count

        async with asyncio.TaskGroup() as group:
            group.create_task(load())
            await asyncio.wait_for(running_under_load.wait(), 30)
            first = local.cloud.pid
            await local.restart_cloud(down_s=1.0)
            assert local.cloud.pid != first
            for target in targets:
                await eventually(lambda target=target: cloud_answers(target), "the new cloud answers", 15)
            restored = len(rounds)
            await eventually(lambda: more_rounds_than(restored + 1), "the load goes on")
            stop.set()
        pids = [child.pid for child in (local.cloud, *local.links, *local.edges)]

    assert not [pid for pid in pids if psutil.pid_exists(pid)], "the restarted cloud outlives its topology"
    answers = [answer for predictions in rounds for answer in predictions]
    assert all(len(predictions) == ROUND for predictions in rounds)
    fallen_back = [answer for answer in answers if answer.place is Place.FALLBACK]
    assert fallen_back, "no request met with a cloud that was away"
    assert all(answer.fallback_reason for answer in fallen_back)
    assert {answer.place for answer in rounds[-1]} == {Place.CLOUD}
    assert [answer.label for answer in rounds[-1]] == expected
