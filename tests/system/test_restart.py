"""The cloud crashes and comes back under load: real processes, and not one request is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
from running_nodes import eventually, in_process

from branchynet.client.client import AsyncClient
from branchynet.data.datasets import Dataset
from branchynet.serving.prediction import Place, Policy, Prediction
from orchestrator.load.generator import LoadGenerator, LoadSettings
from orchestrator.load.schedules import closed_loop
from orchestrator.nodes.build import build
from orchestrator.nodes.local import Processes
from simulations.model.scenario import Fault, Limits, LinkModel, Scenario

ROUND = 40
IN_FLIGHT = 1


async def test_a_restart_of_the_cloud_in_the_middle_of_a_run_loses_no_request(sample: Dataset, tmp_path: Path) -> None:
    images = sample.images[:ROUND]
    expected = in_process(images).logits.argmax(axis=1).tolist()
    scenario = Scenario(link=LinkModel(rtt_ms=20), limits=Limits(offload_timeout_ms=1_000))
    rounds: list[tuple[Prediction, ...]] = []
    running_under_load = asyncio.Event()
    stop = asyncio.Event()

    async with build(scenario, Processes(tmp_path)) as local:
        targets = local.targets

        async def load() -> None:
            # Every image needs the cloud; the generator raises if a single request is refused.
            while not stop.is_set():
                generator = LoadGenerator(
                    dict(enumerate(targets)),
                    images,
                    sample.labels,
                    LoadSettings(deadline_ms=30_000, retry=False),
                    lambda _ended: running_under_load.set(),
                )
                await generator.run(*closed_loop(ROUND, 1, IN_FLIGHT, requests=ROUND, policy=Policy.CLOUD_ONLY))
                ended = sorted(generator.ended, key=lambda one: one.request.number)
                assert not [one.outcome.error for one in ended if one.outcome.error]
                rounds.append(tuple(one.outcome.predictions[0] for one in ended))

        async def cloud_answers(target: str) -> bool:
            async with AsyncClient(target) as client:
                answers = await client.classify(images[:1], policy=Policy.CLOUD_ONLY, deadline_ms=30_000)
            return answers[0].place is Place.CLOUD

        async def more_rounds_than(count: int) -> bool:
            return len(rounds) > count

        async with asyncio.TaskGroup() as group:
            group.create_task(load())
            await asyncio.wait_for(running_under_load.wait(), 30)
            first = local.child("cloud-0").pid
            watching = group.create_task(local.watch())
            await local.inflict(Fault(part="cloud-0", kind="kill", at_s=0, for_s=1.0))
            assert local.child("cloud-0").pid != first
            for target in targets:
                await eventually(lambda target=target: cloud_answers(target), "the new cloud answers", 15)
            restored = len(rounds)
            await eventually(lambda: more_rounds_than(restored + 1), "the load goes on")
            assert not watching.done(), "what is killed on purpose does not end by itself"
            watching.cancel()
            stop.set()
        pids = [child.pid for child in local.children]

    assert not [pid for pid in pids if psutil.pid_exists(pid)], "the restarted cloud outlives its fleet"
    answers = [answer for predictions in rounds for answer in predictions]
    assert all(len(predictions) == ROUND for predictions in rounds)
    fallen_back = [answer for answer in answers if answer.place is Place.FALLBACK]
    assert fallen_back, "no request met with a cloud that was away"
    assert all(answer.fallback_reason for answer in fallen_back)
    assert {answer.place for answer in rounds[-1]} == {Place.CLOUD}
    assert [answer.label for answer in rounds[-1]] == expected
