"""A bench of real nodes: each role, each protocol, open and closed loop; what fails is counted, not hidden."""

import asyncio
import os
import signal

import numpy as np
import pytest
from running_nodes import CLEAR, closed_port, in_process, save_artifact, serving, serving_cloud, serving_edge

from branchynet.client.find_node import Role, WireProtocol, find_node
from branchynet.client.open_inference import OpenInferenceClient
from branchynet.errors import InvalidInput, Unavailable, Unimplemented
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.serving.prediction import Place, Policy
from cloud_node.settings import CloudSettings
from orchestrator.runs.bench import BenchLoad, run_bench
from simulations.link.proxy import LinkProxy

BOTH = [WireProtocol.BRANCHYNET, WireProtocol.OPEN_INFERENCE]
RULE = ExitRule(Criterion.ENTROPY, (0.3,))


def target_of(split, role):
    return split.edge.target if role is Role.EDGE else split.cloud.target


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("role", list(Role))
async def test_a_node_says_what_it_is(split, role, protocol):
    node = await find_node(target_of(split, role), protocol)
    assert (node.role, node.protocol, node.model) == (role, protocol, "lenet-fashion")
    assert node.content_hash == split.edge.node.served.content_hash
    assert (node.input_shape, node.labels, node.max_batch) == ((1, 28, 28), split.edge.node.served.labels, 256)


@pytest.mark.parametrize("role", list(Role))
async def test_our_protocol_is_preferred_where_a_node_speaks_both(split, role):
    assert (await find_node(target_of(split, role))).protocol is WireProtocol.BRANCHYNET


async def test_a_node_that_speaks_neither_is_refused():
    settings = CloudSettings.model_construct(port=0, grace_s=0)
    async with serving(lambda _server: "nothing.to.Classify", settings, 1_000) as port:
        for protocol, named in ((None, "branchynet or open-inference"), *((one, one.value) for one in BOTH)):
            with pytest.raises(Unimplemented, match=f"does not speak {named}"):
                await find_node(f"127.0.0.1:{port}", protocol)


async def test_nobody_there_is_said_in_time():
    with closed_port() as port, pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        await find_node(f"127.0.0.1:{port}", timeout_ms=300)


@pytest.mark.parametrize("rule", [None, RULE])
@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("role", list(Role))
async def test_answers_are_those_of_the_network(split, sample, role, protocol, rule):
    target = target_of(split, role)
    node = (await find_node(target, protocol)).connect(target)
    try:
        answers = await node.classify(sample.images[:40], rule=rule, policy=Policy.SPLIT, deadline_ms=20_000)
    finally:
        await node.close()
    whole = in_process(sample.images[:40], None, rule)
    assert [answer.exit for answer in answers] == whole.exits.tolist()
    assert [answer.label for answer in answers] == whole.logits.argmax(1).tolist()
    places = {Place.CLOUD} if role is Role.CLOUD else {Place.EDGE, Place.CLOUD}
    assert {answer.place for answer in answers} == places
    assert all(answer.cloud_ms > 0 for answer in answers if answer.place is Place.CLOUD)


async def test_policies_and_fallbacks_come_through_the_open_inference_protocol(split, sample):
    async with OpenInferenceClient(split.edge.target) as client:
        raw = await client.classify(sample.images[:3], policy=Policy.CLOUD_ONLY)
        assert [answer.place for answer in raw] == [Place.CLOUD] * 3
        assert all(answer.uplink_bytes > 784 for answer in raw)
        split.link.cut()
        away = await client.classify(sample.images[:3], policy=Policy.CLOUD_ONLY)
    assert [answer.place for answer in away] == [Place.FALLBACK] * 3
    assert all(answer.fallback_reason.startswith("UNAVAILABLE") for answer in away)


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("role", list(Role))
async def test_a_closed_loop_measures_every_request(split, sample, role, protocol):
    node = await find_node(target_of(split, role), protocol)
    ticks = []
    load = BenchLoad(concurrency=3, requests=12, batch=5, warm_up=4)
    run = await run_bench(node, load, sample.images, sample.labels, ticks.append)
    assert (run.sent, run.ended, run.report.requests, run.report.answered) == (12, 12, 60, 60)
    whole = in_process(sample.images[:60])
    assert run.report.accuracy == (whole.logits.argmax(1) == sample.labels[:60]).mean()
    figures = run.figures(labelled=True)
    assert (figures["loop"], figures["concurrency"], figures["rate_per_s"]) == ("closed", 3, None)
    assert sum(count for _, _, count in figures["histogram"]) == 60
    assert (figures["errors"], figures["interrupted"]) == ({}, False)
    assert figures["throughput_per_s"] == figures["goodput_per_s"] > 0


async def test_an_open_loop_sends_at_its_rate_for_its_time(split, sample):
    node = await find_node(split.edge.target)
    ticks = []
    load = BenchLoad(rate_per_s=80, seconds=1.0, warm_up=1)
    run = await run_bench(node, load, sample.images, sample.labels, lambda run: ticks.append(run.report.requests))
    assert 40 < run.sent == run.report.answered < 130  # 80 on average, at random
    assert ticks == sorted(ticks)
    assert run.figures(labelled=False)["accuracy"] is None


async def test_a_closed_loop_ends_after_its_time(split, sample):
    node = await find_node(split.edge.target)
    load = BenchLoad(concurrency=2, seconds=0.3, policy=Policy.EDGE_ONLY, warm_up=0)
    run = await asyncio.wait_for(run_bench(node, load, sample.images, sample.labels), 30)
    assert run.report.requests == run.report.by_place()["edge"] > 0
    assert not run.interrupted


async def test_failures_are_counted_by_status(split, sample):
    async with LinkProxy("127.0.0.1", split.edge.port, CLEAR) as way:
        node = await find_node(f"127.0.0.1:{way.port}")
        load = BenchLoad(rate_per_s=20, requests=20, deadline_ms=400, warm_up=2)

        def cut(_run):
            way.cut()

        run = await run_bench(node, load, sample.images, sample.labels, cut)
    assert run.report.lost > 0
    assert run.report.answered + run.report.lost == 20
    assert run.report.retried == 0
    assert sum(run.figures(labelled=True)["errors"].values()) == run.report.lost
    assert set(run.figures(labelled=True)["errors"]) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


async def test_with_retry_a_request_outlives_a_short_absence(split, sample):
    async with LinkProxy("127.0.0.1", split.edge.port, CLEAR) as way:
        node, begun = await find_node(f"127.0.0.1:{way.port}"), []

        def cut_once(_run):
            if not begun:
                begun.append(way.cut())
                asyncio.get_running_loop().call_later(0.3, way.restore)

        load = BenchLoad(rate_per_s=20, requests=30, retry=True, warm_up=2)
        run = await run_bench(node, load, sample.images, sample.labels, cut_once)
    assert run.report.answered == 30
    assert run.report.retried > 0


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_signal_ends_it_and_what_was_measured_is_kept(split, sample, signals):
    """With a second one nobody waits for the requests under way, which here would not end for long."""
    node = await find_node(split.edge.target)
    async with LinkProxy("127.0.0.1", split.edge.port, CLEAR) as way:
        node = await find_node(f"127.0.0.1:{way.port}")

        def end(run):
            if run.report.answered:
                if signals == 2:
                    way.stall()
                for _ in range(signals):
                    os.kill(os.getpid(), signal.SIGINT)

        load = BenchLoad(rate_per_s=40, seconds=60, deadline_ms=60_000, warm_up=1)
        run = await asyncio.wait_for(run_bench(node, load, sample.images, sample.labels, end), 30)
    assert run.interrupted
    assert 0 < run.report.answered == run.ended <= run.sent
    await asyncio.sleep(0)  # the task is not being cancelled any more


async def test_a_load_that_the_node_refuses_is_refused_before_anything_is_measured(split, sample):
    node = await find_node(split.cloud.target)
    data = (sample.images, sample.labels)
    with pytest.raises(InvalidInput, match=r"batch is 257; .* takes 1 to 256 images"):
        await run_bench(node, BenchLoad(requests=1, batch=257), *data)
    with pytest.raises(InvalidInput, match=r"policy is edge-only; .* is a cloud"):
        await run_bench(node, BenchLoad(requests=1, policy=Policy.EDGE_ONLY), *data)
    with pytest.raises(InvalidInput, match="neither requests nor seconds"):
        BenchLoad()
    with pytest.raises(InvalidInput, match="shape"):
        await run_bench(node, BenchLoad(requests=1), np.zeros((3, 1, 5, 5), np.uint8), np.full(3, -1))


async def test_a_cloud_without_the_first_stage_takes_no_images(sample):
    async with serving_cloud(first_stage=1) as cloud:
        for protocol in BOTH:
            node = await find_node(cloud.target, protocol)
            with pytest.raises(InvalidInput, match="takes feature maps and no images"):
                await run_bench(node, BenchLoad(requests=1), sample.images, sample.labels)


async def test_colour_images_of_another_network_go_through_as_well(tmp_path):
    folder = save_artifact(tmp_path, "b-alexnet")
    pixels = np.random.default_rng(0).integers(256, size=(8, 3, 32, 32), dtype=np.uint8)
    async with serving_cloud(folder) as cloud, serving_edge(cloud.target, folder) as edge:
        for target in (edge.target, cloud.target):
            for protocol in BOTH:
                node = await find_node(target, protocol)
                run = await run_bench(node, BenchLoad(requests=4, warm_up=0), pixels, np.full(8, -1))
                assert run.report.answered == 4
