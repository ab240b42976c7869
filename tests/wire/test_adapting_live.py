"""The edge program over a real link: it leaves what becomes slow, comes back, loses nothing, answers by its plans."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from running_nodes import SHIPPED, in_process, serving_cloud
from running_programs import program

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.plan_file import PlanFile, write_plan_file
from branchynet.client.client import AsyncClient
from branchynet.data.datasets import Dataset
from branchynet.exits.outcomes import OutcomeTable
from branchynet.placement.candidates import Candidates
from branchynet.placement.plan import Plan
from branchynet.placement.replanner import Adaptation
from branchynet.placement.serving_profile import Link, ServingProfile, StageTimes
from branchynet.serving.logging import Event
from branchynet.serving.prediction import Place, Prediction
from simulations.link.control import ask_link, serve_control
from simulations.link.proxy import LinkProxy, LinkSettings

WITHIN_S = 30.0
FAST_MBPS, SLOW_MBPS = 50.0, 0.01


@pytest.mark.alone
async def test_the_plan_follows_the_link_and_every_answer_is_that_of_a_plan(tmp_path: Path, sample: Dataset) -> None:
    manifest = Artifact.open(SHIPPED).manifest
    own = manifest.rule
    # Rules that differ, so that an answer tells by which plan it came about.
    alone, sent = Plan(2, own.with_thresholds((1.2,)), edge_only=True), Plan(0, own.with_thresholds((0.2,)))
    slow = StageTimes((1,), ((20.0,), (20.0,)))
    profile = ServingProfile(slow, slow.slower(0.01), (0, 1), 2, 1.0, 1.0, (837, 4_534), 60, 130)
    table = OutcomeTable(np.zeros((2, 1, 10), np.float32), np.zeros(1, np.int64), np.ones(2))
    candidates = Candidates.given([alone, sent], table, profile)
    adaptation = Adaptation(0.0, period_s=0.0, probe_after_s=0.3)
    guessed = Link(FAST_MBPS, rtt_ms=5.0)
    file = PlanFile(manifest.name, manifest.content_hash, candidates, profile, guessed, adaptation)
    write_plan_file(tmp_path / "plans.json", file)

    images = sample.images[:40]
    expected = {plan: in_process(images, rule=plan.rule) for plan in (alone, sent)}
    answers: list[tuple[int, Prediction]] = []
    flags = ("--port", "0", "--adapt", str(tmp_path / "plans.json"), "--offload-timeout-ms", "500")
    async with (
        serving_cloud() as cloud,
        LinkProxy("127.0.0.1", cloud.port, LinkSettings.symmetric_delay(FAST_MBPS, None, 2)) as link,
        serve_control(link, "127.0.0.1", 0) as port,
    ):
        with program("edge_node", "--cloud", f"127.0.0.1:{link.port}", "--log-format", "json", *flags) as edge:
            edge_port = await asyncio.to_thread(edge.ready)

            async def send_until(place: Place, client: AsyncClient) -> None:
                """Send images one by one until three in a row were answered at *place*."""
                async with asyncio.timeout(WITHIN_S):
                    while {answer.place for _, answer in answers[-3:]} != {place} or len(answers) < 3:
                        index = len(answers) % len(images)
                        answers.append((index, (await client.classify(images[index : index + 1]))[0]))
                        await asyncio.sleep(0.1)  # more than the edge of the profile can serve would drive it away

            async with AsyncClient(f"127.0.0.1:{edge_port}") as client:
                await send_until(Place.CLOUD, client)
                await ask_link(f"127.0.0.1:{port}", f"uplink {SLOW_MBPS}")
                await send_until(Place.EDGE, client)
                await ask_link(f"127.0.0.1:{port}", f"uplink {FAST_MBPS}")
                await send_until(Place.CLOUD, client)
            edge.close_input()
            edge.process.terminate()
            _, _, err = await asyncio.to_thread(edge.wait)

    for index, answer in answers:
        progress = expected[alone if answer.place is Place.EDGE else sent]
        assert (answer.exit, answer.label) == (progress.exits[index], progress.logits[index].argmax())
    told = [event for event in map(json.loads, err.splitlines()) if event["event"] == Event.REPLANNED]
    assert len(told) >= 2
    assert told[0]["old"].startswith("cut 0, raw")
    assert told[0]["new"].startswith("edge only")
    assert told[0]["uplink_mbps"] < FAST_MBPS
    assert told[-1]["new"].startswith("cut 0, raw")
