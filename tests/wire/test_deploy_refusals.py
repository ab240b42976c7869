"""What a deployment refuses, and that all nodes are then as they were."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from deploying_nodes import LABELS, Nodes, answers_of, are_of, deploying_cloud, deploying_edge, running, save

from branchynet.artifact.artifact import Artifact
from branchynet.client.client import AsyncClient
from branchynet.codecs import FixedRanges
from branchynet.data.datasets import Dataset
from branchynet.errors import ArtifactMismatch, BranchyNetError, DamagedData, InvalidInput, UnknownModel
from branchynet.models.architectures import Architecture
from branchynet.rpc.control import set_plan
from branchynet.rpc.versions import load_version
from branchynet.serving.prediction import Place
from orchestrator.runs.deploy import deploy

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


async def test_a_file_of_plans_must_be_for_the_version_that_is_loaded(made: Path, tmp_path: Path) -> None:
    old, new = Artifact.open(made / "net").manifest, Artifact.open(made / "net@v2").manifest
    plan = tmp_path / "plan.json"

    def write(content_hash: str, codec: str) -> None:
        plan.write_text(json.dumps({"artifact": "net", "content_hash": content_hash, "cut": 1, "codec": codec}))

    write(old.content_hash, "uint8")
    async with deploying_cloud(made / "net", made) as cloud, contextlib.AsyncExitStack() as stack:
        edge = await stack.enter_async_context(deploying_edge(made / "net", made, cloud.target, plan=plan))
        await set_plan(edge.target, edge.node.plan)
        nodes = Nodes(cloud, [edge], made, Artifact.open(made / "net"), Artifact.open(made / "net@v2"))
        with pytest.raises(InvalidInput, match="the plans are for net with content hash"):
            await nodes.deploy()
        assert nodes.hold(nodes.old)
        write(new.content_hash, "uint4")
        assert await nodes.deploy()
        assert (edge.node.plan.codec, edge.node.plan.rule) == ("uint4", new.rule)
