"""Another version of a network is deployed to nodes that answer meanwhile: nothing is lost, and halves never mix."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import sys
import weakref
from pathlib import Path

import pytest
from deploying_nodes import Nodes, answers_of, are_of, running
from running_nodes import Gate, closed_port, computing, eventually, streaming
from triton_calls import aio_client
from tritonclient.utils import InferenceServerException

from branchynet.artifact.artifact import Artifact
from branchynet.client.client import AsyncClient
from branchynet.client.cloud import AsyncCloudClient
from branchynet.data.datasets import Dataset
from branchynet.errors import ArtifactMismatch, InvalidInput, Unavailable, UnknownModel
from branchynet.rpc.versions import load_version, retire_version, switch_version
from branchynet.serving.prediction import Place, Policy
from cli.main import main

BATCH = 6


async def test_under_load_no_call_fails_and_every_answer_is_of_one_version(made: Path, sample: Dataset) -> None:
    batches = [sample.images[start : start + BATCH] for start in range(0, 60, BATCH)]
    async with running(made, edges=2) as nodes, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(edge.target)) for edge in nodes.edges]
        versions = (nodes.old, nodes.new)
        expected = [[answers_of(artifact, batch) for batch in batches] for artifact in versions]
        before = [weakref.ref(node.node.versions.current.network) for node in nodes.all]
        turns = itertools.cycle(itertools.product(clients, range(len(batches)), (Policy.SPLIT, Policy.CLOUD_ONLY)))
        seen: list[tuple[int, set[Place]]] = []

        async def call() -> None:
            client, number, policy = next(turns)
            answers = await client.classify(batches[number], policy=policy)
            matching = [version for version in (0, 1) if are_of(answers, expected[version][number])]
            assert len(matching) == 1, f"batch {number} was answered by neither version: {answers}"
            seen.append((matching[0], {answer.place for answer in answers}))

        async with streaming(call, callers=6) as stream:
            await stream.goes_on(20)
            assert await nodes.deploy(quiet_s=0.2)
            await stream.goes_on(20)
        gc.collect()
        assert nodes.hold(nodes.new)
        assert [network() for network in before] == [None] * 3
    order = [version for version, _ in seen]
    assert order[:10] == [0] * 10
    assert order[-10:] == [1] * 10
    assert set().union(*(places for _, places in seen)) == {Place.EDGE, Place.CLOUD}


async def test_a_request_under_way_ends_by_the_version_that_it_began_with(nodes: Nodes, sample: Dataset) -> None:
    edge, batch = nodes.edges[0], sample.images[:BATCH]
    before = edge.node.versions.current
    loaded = {node: (await load_version(node.target, "net@v2")).id for node in nodes.all}
    gate = Gate(before.network)
    async with AsyncClient(edge.target) as client:
        answers = asyncio.create_task(client.classify(batch))
        await eventually(computing(gate), "the edge computes by the old version")
        for node in (edge, nodes.cloud):
            await switch_version(node.target, loaded[node])
        with pytest.raises(Unavailable, match="1 requests still hold net"):
            await retire_version(edge.target, before.id)
        gate.open()
        told = await answers
        assert are_of(told, answers_of(nodes.old, batch))
        assert {answer.place for answer in told} == {Place.EDGE, Place.CLOUD}
        assert are_of(await client.classify(batch), answers_of(nodes.new, batch))
    await retire_version(edge.target, before.id)


async def test_what_clients_are_told_follows_the_version_at_once(nodes: Nodes, sample: Dataset) -> None:
    edge, old, new = nodes.edges[0].target, nodes.old.manifest, nodes.new.manifest
    image = sample.images[:1]
    async with AsyncClient(edge) as client, aio_client(edge) as stranger, aio_client(nodes.cloud.target) as cloud:
        assert (await client.describe()).content_hash == old.content_hash
        await client.classify(sample.images[:3])
        assert await nodes.deploy()
        told = await client.describe()
        assert (told.model, told.content_hash, told.rule) == ("net", new.content_hash, new.rule)
        assert (await client.classify(image))[0].exit == answers_of(nodes.new, image)[0][0]
        for node in (stranger, cloud):
            metadata = await node.get_model_metadata("net")
            assert list(metadata.versions) == [new.content_hash[:12]]
            config = (await node.get_model_config("net")).config
            assert config.parameters["content_hash"].string_value == new.content_hash
            statistics = (await node.get_inference_statistics("net")).model_stats[0]
            assert (statistics.version, statistics.inference_count) == (new.content_hash[:12], 0)
            with pytest.raises(InferenceServerException, match="has no version"):
                await node.get_model_metadata("net", old.content_hash[:12])
        assert nodes.edges[0].node.prober().__dict__["_served"].content_hash == new.content_hash


async def test_a_client_of_the_cloud_alone_goes_over_too(nodes: Nodes, sample: Dataset) -> None:
    async with AsyncCloudClient(nodes.cloud.target) as client:
        for version in (nodes.old, nodes.new):
            assert are_of(await client.classify(sample.images[:BATCH]), answers_of(version, sample.images[:BATCH]))
            await nodes.deploy()


async def test_a_cloud_keeps_what_an_edge_that_was_not_named_still_needs(made: Path, sample: Dataset) -> None:
    async with running(made, edges=2) as nodes, AsyncClient(nodes.edges[1].target) as forgotten:
        batch = sample.images[:BATCH]

        async def call() -> None:
            answers = await forgotten.classify(batch)
            assert are_of(answers, answers_of(nodes.old, batch))

        named = [nodes.edges[0].target]
        async with streaming(call) as stream:
            await stream.goes_on()
            assert not await nodes.deploy(edges=named, quiet_s=1.0, wait_s=0.0)
            await stream.goes_on()
        both = [nodes.new.manifest.content_hash, nodes.old.manifest.content_hash]
        assert nodes.cloud.holds() == both
        assert "still holds net" in nodes.lines[-1]
        assert await nodes.deploy()
        assert nodes.hold(nodes.new)


async def test_a_version_is_loaded_switched_to_and_back_and_the_served_one_stays(nodes: Nodes) -> None:
    edge = nodes.edges[0]
    with pytest.raises(ArtifactMismatch):  # the cloud does not hold it yet
        await load_version(edge.target, "net@v2")
    held = await load_version(nodes.cloud.target, "net@v2")
    assert held.asked == held.beside
    assert (await load_version(nodes.cloud.target, "net@v2")).id == held.id
    assert (await load_version(nodes.cloud.target, "net")).id == held.served.id
    with pytest.raises(InvalidInput, match="is the one that is served"):
        await retire_version(nodes.cloud.target, held.served.id)
    switched = await switch_version(nodes.cloud.target, held.id)
    assert (switched.served.id, switched.beside and switched.beside.id) == (held.id, held.served.id)
    await switch_version(nodes.cloud.target, held.served.id)
    with pytest.raises(UnknownModel, match="not held here"):
        await switch_version(nodes.cloud.target, "elsewhere")
    with pytest.raises(InvalidInput, match="unused_s is nan"):
        await retire_version(nodes.cloud.target, held.id, float("nan"))
    await retire_version(nodes.cloud.target, held.id)
    assert nodes.hold(nodes.old)


async def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`branchynet deploy` with *arguments*, on a thread beside the nodes; its exit code."""
    monkeypatch.setattr(sys, "argv", ["branchynet", "deploy", *arguments])

    def call() -> int:
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return await asyncio.to_thread(call)


async def test_the_command_says_what_it_did_and_its_exit_code_too(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edge, cloud = nodes.edges[0].target, nodes.cloud.target
    with closed_port() as port:
        arguments = ("net@v2", "--edge", edge, "--edge", f"127.0.0.1:{port}", "--cloud", cloud)
        assert await run_command(monkeypatch, *arguments) == 2
    assert f"edge 127.0.0.1:{port}: " in capsys.readouterr().err
    assert nodes.hold(nodes.old)
    figures = tmp_path / "deploy.json"
    arguments = ("net@v2", "--edge", edge, "--cloud", cloud, "--quiet-s", "0", "--json", str(figures))
    assert await run_command(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert printed.index(f"cloud {cloud} holds net") < printed.index(f"edge {edge} serves net")
    written = json.loads(figures.read_text())
    assert written["complete"]
    assert [node["new"]["content_hash"] for node in written["nodes"]] == [nodes.new.manifest.content_hash] * 2
    assert nodes.hold(nodes.new)


async def test_one_that_is_left_over_makes_room_unless_it_is_in_use(folder: Path) -> None:
    third = Artifact.open(folder / "net@v2").with_fields(name="net@v3").save(folder / "net@v3")
    async with running(folder) as nodes:
        versions, target = nodes.cloud.node.versions, nodes.cloud.target
        await load_version(target, "net@v2")
        left = versions.beside
        with left.in_use(), pytest.raises(Unavailable, match="1 requests still hold net"):
            await load_version(target, "net@v3")
        with pytest.raises(Unavailable, match="some edge or client still asks for it"):
            await load_version(target, "net@v3")
        left._used_s -= 60
        await load_version(target, "net@v3")
        assert versions.beside.artifact.manifest == third.manifest
