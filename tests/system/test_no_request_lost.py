"""An edge and the cloud crash and come back under a steady load: every request is answered, and answered right."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from running_nodes import CLEAR, Split, closed_port, eventually

from branchynet.errors import Unavailable
from branchynet.prediction import Place
from branchynet.training.datasets import Dataset
from orchestrator.local import LocalTopology, Topology
from orchestrator.steady import Expected, Load, Tally, crash_and_restart, expect, run_steady
from simulations.link_proxy import LinkProxy

pytestmark = pytest.mark.alone

IMAGES = 60


async def test_crashes_of_an_edge_and_of_the_cloud_lose_no_request(sample: Dataset, tmp_path: Path) -> None:
    images, events = sample.images[:IMAGES], list[str]()
    news: list[tuple[float, Tally]] = []
    async with LocalTopology.running(Topology(rtt_ms=20, offload_timeout_ms=1_000), tmp_path) as local:
        expected, stop = await expect(local.targets, images), asyncio.Event()
        first = [local.edges[0].pid, local.cloud.pid]
        crashes = asyncio.create_task(crash_and_restart(local, 3.0, events.append))
        crashes.add_done_callback(lambda _: stop.set())
        tally = await run_steady(
            local.targets,
            images,
            expected,
            Load(rate_per_s=30),
            stop,
            on_news=lambda seconds, tally: news.append((seconds, tally)),
        )
        await crashes
        assert [local.edges[0].pid, local.cloud.pid] != first

        async def as_before() -> bool:
            after = await run_steady(local.targets, images, expected, Load(60, seconds=1.0), asyncio.Event())
            assert after.flawless, (after.lost, after.wrong)
            return set(after.by_edge) == set(local.targets) and not (after.by_place["fallback"] or after.tried_again)

        await eventually(as_before, "what came back does its work again")
        pids = [child.pid for child in (local.cloud, *local.links, *local.edges)]
    assert not [pid for pid in pids if psutil.pid_exists(pid)], "what was restarted outlives its topology"
    assert tally.flawless, (tally.lost, tally.wrong)
    assert tally.sent == tally.answered > 60
    assert tally.tried_again > 0, "no request met with the dead edge"
    assert tally.by_place["fallback"] > 0, "no request met with the dead cloud"
    assert max(tally.latencies_ms) < 10_000
    assert events == ["edge-0 is killed", "edge-0 serves again", "the cloud is killed", "the cloud serves again"]
    assert [seconds for seconds, _ in news] == [2.0 * (index + 1) for index in range(len(news))]


async def test_a_request_without_an_edge_is_lost_with_its_reason(sample: Dataset) -> None:
    images = sample.images[:4]
    with closed_port() as port:
        expected = [Expected(0, Place.EDGE, 0)] * len(images)
        load = Load(rate_per_s=20, seconds=0.4, deadline_ms=300)
        tally = await run_steady([f"127.0.0.1:{port}"], images, expected, load, asyncio.Event())
    assert not tally.flawless
    assert tally.sent == tally.lost.total() == 8
    assert all(reason.startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED")) for reason in tally.lost)


async def test_a_request_that_a_node_refuses_is_lost_with_its_reason(split: Split, sample: Dataset) -> None:
    expected = await expect([split.edge.target], sample.images[:2])
    wrong_shape = sample.images[:2, :, :5, :5]
    load = Load(rate_per_s=20, seconds=0.2)
    tally = await run_steady([split.edge.target], wrong_shape, expected, load, asyncio.Event())
    assert tally.sent == tally.lost.total() == 4
    assert all(reason.startswith("INVALID_ARGUMENT") for reason in tally.lost)


async def test_a_wrong_label_is_found(split: Split, sample: Dataset) -> None:
    images = sample.images[:6]
    expected = await expect([split.edge.target], images)
    expected[2] = replace(expected[2], label=(expected[2].label + 1) % 10)
    tally = await run_steady([split.edge.target], images, expected, Load(60, seconds=0.2), asyncio.Event())
    assert tally.sent == tally.answered == 12
    assert tally.wrong.total() == 2
    assert not tally.flawless


async def test_the_load_keeps_its_rate_while_answers_are_late(split: Split, sample: Dataset) -> None:
    """Open loop: a stalled edge does not slow its clients down."""
    images = sample.images[:6]
    expected = await expect([split.edge.target], images)
    async with LinkProxy("127.0.0.1", split.edge.port, CLEAR) as way:
        way.stall()
        asyncio.get_running_loop().call_later(1.0, way.restore)
        tally = await run_steady([f"127.0.0.1:{way.port}"], images, expected, Load(50, seconds=1.0), asyncio.Event())
    assert tally.sent == 50
    assert tally.flawless
    assert max(tally.latencies_ms) > 500


async def test_stop_ends_the_load_and_waits_for_the_answers_under_way(split: Split, sample: Dataset) -> None:
    images, stop = sample.images[:6], asyncio.Event()
    expected = await expect([split.edge.target], images)
    asyncio.get_running_loop().call_later(0.3, stop.set)
    tally = await asyncio.wait_for(run_steady([split.edge.target], images, expected, Load(50), stop), 20)
    assert tally.flawless
    assert 0.2 < tally.seconds < 5


async def test_the_load_does_not_begin_without_a_cloud(split: Split, sample: Dataset) -> None:
    split.link.cut()
    hard = sample.images[:60]
    with pytest.raises(Unavailable, match="the cloud must answer when the load begins"):
        await expect([split.edge.target], hard)
