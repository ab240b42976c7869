"""Another version of a network is deployed to nodes that answer meanwhile: nothing is lost, and halves never mix."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import shutil
import sys
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from deploying_nodes import LABELS, Running, answers_of, are_of, deploying_cloud, deploying_edge, save
from running_nodes import closed_port, streaming
from triton_calls import aio_client
from tritonclient.utils import InferenceServerException

from branchynet.artifact.artifact import Artifact
from branchynet.client.client import AsyncClient
from branchynet.codecs import FixedRanges
from branchynet.data.datasets import Dataset
from branchynet.errors import ArtifactMismatch, BranchyNetError, DamagedData, InvalidInput, Unavailable, UnknownModel
from branchynet.models.architectures import Architecture
from branchynet.rpc.control import set_plan
from branchynet.rpc.versions import load_version, retire_version, switch_version
from branchynet.serving.prediction import Place, Policy
from cli.main import main
from orchestrator.runs.deploy import deploy

BATCH = 6


@dataclass(frozen=True)
class Nodes:
    cloud: Running
    edges: list[Running]
    folder: Path
    old: Artifact
    new: Artifact
    lines: list[str]

    @property
    def all(self) -> list[Running]:
        return [self.cloud, *self.edges]

    async def deploy(self, name: str = "net@v2", edges: list[str] | None = None, **options: float) -> bool:
        targets = [edge.target for edge in self.edges] if edges is None else edges
        chosen = {"quiet_s": 0.0, "wait_s": 5.0, **options}
        return (await deploy(name, targets, self.cloud.target, self.lines.append, **chosen)).complete

    def hold(self, *artifacts: Artifact) -> bool:
        """Whether every node holds these versions and no other; the first is the one that is served."""
        hashes = [artifact.manifest.content_hash for artifact in artifacts]
        return all(node.holds() == hashes for node in self.all)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> Path:
    """The artifacts net and net@v2, which differ in their weights."""
    folder = tmp_path_factory.mktemp("artifacts")
    save(folder / "net", 1, sample.images[:60])
    save(folder / "net@v2", 2, sample.images[:60])
    return folder


@contextlib.asynccontextmanager
async def running(made: Path, edges: int = 1, edge_folder: Path | None = None) -> AsyncIterator[Nodes]:
    async with contextlib.AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(deploying_cloud(made / "net", made))
        starting = [deploying_edge(made / "net", edge_folder or made, cloud.target) for _ in range(edges)]
        started = [await stack.enter_async_context(edge) for edge in starting]
        yield Nodes(cloud, started, made, Artifact.open(made / "net"), Artifact.open(made / "net@v2"), [])


@pytest.fixture
async def nodes(made: Path) -> AsyncIterator[Nodes]:
    async with running(made) as started:
        yield started


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of all artifacts, to be spoilt."""
    shutil.copytree(made, tmp_path / "artifacts")
    return tmp_path / "artifacts"


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


NAMES = ["", "..", ".", "../net", "net/../net@v2", "net@v2/", "/etc", "net\\..", "net\n", "n" * 61]


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_never_leads_out_of_the_folder(nodes: Nodes, name: str) -> None:
    with pytest.raises(InvalidInput, match="is no name of an artifact"):
        await load_version(nodes.cloud.target, name)


async def test_a_node_without_a_folder_loads_nothing(made: Path) -> None:
    async with deploying_cloud(made / "net", None) as cloud:
        with pytest.raises(UnknownModel, match="started without --artifacts"):
            await load_version(cloud.target, "net@v2")


def truncate(folder: Path) -> None:
    file = folder / "net@v2" / "stage-1.safetensors"
    data = file.read_bytes()
    file.unlink()  # the data may be shared with another copy
    file.write_bytes(data[:-4])


def remove(folder: Path) -> None:
    shutil.rmtree(folder / "net@v2")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [(truncate, DamagedData, r"cloud .*stage-1\.safetensors"), (remove, UnknownModel, r"cloud .*they are net$")],
)
async def test_a_cloud_that_cannot_load_it_leaves_all_as_it_was(
    folder: Path, spoil: object, error: type[BranchyNetError], words: str, sample: Dataset
) -> None:
    async with running(folder) as nodes, AsyncClient(nodes.edges[0].target) as client:
        spoil(folder)  # type: ignore[operator]
        with pytest.raises(error, match=words):
            await nodes.deploy()
        assert nodes.hold(nodes.old)
        assert are_of(await client.classify(sample.images[:8]), answers_of(nodes.old, sample.images[:8]))


async def test_an_edge_that_cannot_load_it_has_the_cloud_drop_it_again(made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    async with running(made, edge_folder=tmp_path / "empty") as nodes:
        with pytest.raises(UnknownModel, match=r"edge .*they are none"):
            await nodes.deploy()
        assert nodes.hold(nodes.old)


async def test_an_edge_whose_cloud_is_another_one_does_not_switch(made: Path) -> None:
    async with running(made) as nodes, running(made) as others:
        with pytest.raises(ArtifactMismatch, match=f"edge {others.edges[0].target}: .*content hash"):
            await nodes.deploy(edges=[others.edges[0].target])
        assert nodes.hold(nodes.old)
        assert others.hold(others.old)


async def test_other_weights_under_the_same_name_are_found_out(made: Path, folder: Path, sample: Dataset) -> None:
    shutil.rmtree(folder / "net@v2")
    save(folder / "net@v2", 3, sample.images[:60])
    async with running(made) as nodes, deploying_edge(made / "net", folder, "") as edge:
        with pytest.raises(ArtifactMismatch, match="under this name"):
            await nodes.deploy(edges=[edge.target])
        assert nodes.hold(nodes.old)
        assert edge.holds() == [nodes.old.manifest.content_hash]


async def test_an_edge_that_cannot_switch_takes_the_others_back(made: Path) -> None:
    async with running(made, edges=2) as nodes:
        first, second = nodes.edges

        def forget(line: str) -> None:
            nodes.lines.append(line)
            if line.startswith(f"edge {first.target} serves"):
                second.node.versions.make_room()  # as if it had been started again

        with pytest.raises(UnknownModel, match=f"edge {second.target}: .* not held"):
            await deploy("net@v2", [edge.target for edge in nodes.edges], nodes.cloud.target, forget)
        assert nodes.hold(nodes.old)


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


async def test_what_clients_may_hold_from_before_changes_only_by_force(folder: Path, sample: Dataset) -> None:
    save(folder / "net@names", 4, sample.images[:60], labels=(*LABELS[:9], "z"))
    save(folder / "net@colour", 5, sample.images[:60], shape=Architecture("b-slim", "modern"))
    async with running(folder) as nodes, AsyncClient(nodes.edges[0].target) as client:
        picture = folder / "grey.png"
        _write_picture(picture)
        await client.classify_one(picture)
        for name, words in (("net@names", "label 9 would change from 'j' to 'z'"), ("net@colour", r"shape .* \(3, 32")):
            with pytest.raises(InvalidInput, match=words):
                await nodes.deploy(name)
        assert nodes.hold(nodes.old)
        assert await nodes.deploy("net@colour", force=True)
        with pytest.raises(InvalidInput, match=r"must be \(batch, 3, 32, 32\)"):
            await client.classify_one(picture)
        assert (await client.classify_one(picture)).label in range(10)


def _write_picture(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((40, 40), np.uint8)).save(path)


async def test_the_same_weights_come_with_another_rule_but_not_with_other_codecs(folder: Path, sample: Dataset) -> None:
    old = Artifact.open(folder / "net")
    rule = old.manifest.rule.with_thresholds((0.0,))
    old.with_rule(rule, {}).save(folder / "net@late")
    ranges = FixedRanges((0.0,) * 5, (1.0,) * 5)
    old.with_fields(codec_ranges={1: ranges}).save(folder / "net@ranges")
    async with running(folder) as nodes, AsyncClient(nodes.edges[0].target) as client:
        with pytest.raises(InvalidInput, match="other codec ranges or bottlenecks"):
            await nodes.deploy("net@ranges")
        assert await nodes.deploy("net@late")
        assert nodes.hold(old)
        assert (await client.describe()).rule == rule
        assert {answer.place for answer in await client.classify(sample.images[:8])} == {Place.CLOUD}
        assert await nodes.deploy("net@late")  # once more changes nothing


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


async def test_a_file_of_plans_must_be_for_the_version_that_is_loaded(made: Path, tmp_path: Path) -> None:
    old, new = Artifact.open(made / "net").manifest, Artifact.open(made / "net@v2").manifest
    plan = tmp_path / "plan.json"

    def write(content_hash: str, codec: str) -> None:
        plan.write_text(json.dumps({"artifact": "net", "content_hash": content_hash, "cut": 1, "codec": codec}))

    write(old.content_hash, "uint8")
    async with deploying_cloud(made / "net", made) as cloud, contextlib.AsyncExitStack() as stack:
        edge = await stack.enter_async_context(deploying_edge(made / "net", made, cloud.target, plan=plan))
        await set_plan(edge.target, edge.node.plan)
        nodes = Nodes(cloud, [edge], made, Artifact.open(made / "net"), Artifact.open(made / "net@v2"), [])
        with pytest.raises(InvalidInput, match="the plans are for net with content hash"):
            await nodes.deploy()
        assert nodes.hold(nodes.old)
        write(new.content_hash, "uint4")
        assert await nodes.deploy()
        assert (edge.node.plan.codec, edge.node.plan.rule) == ("uint4", new.rule)


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
