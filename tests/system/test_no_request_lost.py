"""An edge and the cloud crash and come back under load: every request is answered, and answered right."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from running_nodes import CLEAR, Split, closed_port, eventually

from branchynet.data.datasets import Dataset
from branchynet.errors import Unavailable
from branchynet.serving.prediction import Place
from orchestrator.load.soak import Expected, crashes, expect, run_soak
from orchestrator.nodes.build import build, run_faults
from orchestrator.nodes.local import Processes
from simulations.link.proxy import LinkProxy
from simulations.model.request_records import Records
from simulations.model.request_report import Report
from simulations.model.scenario import Limits, LinkModel, Scenario

pytestmark = pytest.mark.alone

IMAGES = 60


async def test_crashes_of_an_edge_and_of_the_cloud_lose_no_request(sample: Dataset, tmp_path: Path) -> None:
    data, events = sample.take(range(IMAGES)), list[str]()
    news: list[tuple[float, int, Records]] = []
    scenario = Scenario(
        edges=2, link=LinkModel(rtt_ms=20), limits=Limits(offload_timeout_ms=1_000), faults=crashes(3.0)
    )
    async with build(scenario, Processes(tmp_path)) as local:
        expected, stop = await expect(local.targets, data.images), asyncio.Event()
        killed = ("edge-0", "cloud-0")
        first = [local.child(name).pid for name in killed]
        faults = asyncio.gather(run_faults(local, on_event=events.append), asyncio.sleep(3.0))
        faults.add_done_callback(lambda _: stop.set())
        records = await run_soak(
            local.targets, data, expected, 30, stop, on_news=lambda *arguments: news.append(arguments)
        )
        await faults
        assert not set(first) & {local.child(name).pid for name in killed}

        async def as_before() -> bool:
            records = await run_soak(local.targets, data, expected, 60, asyncio.Event(), seconds=1.0)
            after = Report.of(records, 10_000)
            assert after.flawless, after.figures()
            return set(records.edge.tolist()) == {0, 1} and not (after.by_place()["fallback"] or after.retried)

        await eventually(as_before, "what came back does its work again")
        pids = [child.pid for child in local.children]
    assert not [pid for pid in pids if psutil.pid_exists(pid)], "what was restarted outlives its fleet"
    report = Report.of(records, 10_000)
    assert report.flawless, report.figures()
    assert report.answered > 60
    assert report.retried > 0, "no request met with the dead edge"
    assert report.by_place()["fallback"] > 0, "no request met with the dead cloud"
    assert max(report.latencies_ms) < 10_000
    for name in killed:
        assert events.index(f"{name} is killed") < events.index(f"{name} serves again")
    assert len(events) == 4
    assert [seconds for seconds, _, _ in news] == [2.0 * (index + 1) for index in range(len(news))]
    assert 0 < sum(sent for _, sent, _ in news) <= len(records)
    assert 0 < sum(len(ended) for _, _, ended in news) <= len(records)


async def test_a_request_without_an_edge_is_lost_with_its_reason(sample: Dataset) -> None:
    images = sample.take(range(4))
    with closed_port() as port:
        expected = [Expected(0, Place.EDGE, 0)] * len(images)
        limits = {"seconds": 0.4, "deadline_ms": 300}
        target = [f"127.0.0.1:{port}"]
        records = await run_soak(target, images, expected, 20, asyncio.Event(), **limits)
    report = Report.of(records, 300)
    assert not report.flawless
    assert report.requests == report.lost == report.lost_reasons.total() == 8
    assert all(reason.startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED")) for reason in report.lost_reasons)


async def test_a_request_that_a_node_refuses_is_lost_with_its_reason(split: Split, sample: Dataset) -> None:
    expected = await expect([split.edge.target], sample.images[:2])
    wrong_shape = replace(sample, images=sample.images[:, :, :5, :5]).take(range(2))
    target, stop = [split.edge.target], asyncio.Event()
    report = Report.of(await run_soak(target, wrong_shape, expected, 20, stop, seconds=0.2), 10_000)
    assert report.requests == report.lost == 4
    assert all(reason.startswith("INVALID_ARGUMENT") for reason in report.lost_reasons)


async def test_a_wrong_label_is_found(split: Split, sample: Dataset) -> None:
    images = sample.take(range(6))
    expected = await expect([split.edge.target], images.images)
    expected[2] = replace(expected[2], label=(expected[2].label + 1) % 10)
    target, stop = [split.edge.target], asyncio.Event()
    records = await run_soak(target, images, expected, 60, stop, seconds=0.2)
    report = Report.of(records, 10_000)
    assert report.requests == report.answered == 12
    assert report.wrong == 2
    assert set(records.row[records.fault.astype(bool)].tolist()) == {2}
    assert not report.flawless


async def test_the_load_keeps_its_rate_while_answers_are_late(split: Split, sample: Dataset) -> None:
    """Open loop: a stalled edge does not slow its clients down."""
    images = sample.take(range(6))
    expected = await expect([split.edge.target], images.images)
    async with LinkProxy("127.0.0.1", split.edge.port, CLEAR) as way:
        way.stall()
        asyncio.get_running_loop().call_later(1.0, way.restore)
        target, stop = [f"127.0.0.1:{way.port}"], asyncio.Event()
        records = await run_soak(target, images, expected, 50, stop, seconds=1.0)
    report = Report.of(records, 10_000)
    assert report.requests == 50
    assert report.flawless
    assert max(report.latencies_ms) > 500


async def test_stop_ends_the_load_and_waits_for_the_answers_under_way(split: Split, sample: Dataset) -> None:
    images, stop = sample.take(range(6)), asyncio.Event()
    expected = await expect([split.edge.target], images.images)
    asyncio.get_running_loop().call_later(0.3, stop.set)
    running = run_soak([split.edge.target], images, expected, 50, stop)
    report = Report.of(await asyncio.wait_for(running, 20), 10_000)
    assert report.flawless
    assert 0.2 < report.seconds < 5


async def test_the_load_does_not_begin_without_a_cloud(split: Split, sample: Dataset) -> None:
    split.link.cut()
    hard = sample.images[:60]
    with pytest.raises(Unavailable, match="the cloud must answer when the load begins"):
        await expect([split.edge.target], hard)
