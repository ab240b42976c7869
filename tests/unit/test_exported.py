"""Networks whose stages are ONNX graphs: the manifest tells what code would have, and nodes serve them like others."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from exported_examples import IMAGES, SMALL, small_network
from network_examples import opened, save_artifact
from node_examples import LIMITS, WorkingUplink
from test_bottleneck import made as made_bottleneck
from test_evaluation import labelled

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.torch_files import spec_of
from branchynet.codecs.bottleneck import ConvolutionShape
from branchynet.errors import DamagedData, InvalidInput, UnknownModel
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.rules import ExitRule
from branchynet.network.graph_halves import GraphHalves
from branchynet.network.runner import Engine
from branchynet.placement.plan import Plan
from branchynet.rpc.open_inference.values import Inference
from branchynet.serving.prediction import Place
from cloud_node.build import open_cloud
from cloud_node.node import CloudNode
from cloud_node.open_inference import CloudModel
from cloud_node.settings import CloudSettings
from cloud_node.version import CloudVersion
from edge_node.build import open_edge
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from edge_node.version import EdgeVersion


@pytest.fixture
def folder(exported_folder, tmp_path):
    shutil.copytree(exported_folder, tmp_path / "copy")
    return tmp_path / "copy"


def edited(folder, change):
    raw = json.loads((folder / "manifest.json").read_text())
    change(raw)
    (folder / "manifest.json").write_text(json.dumps(raw))


def test_the_manifest_tells_what_code_would_have(exported_folder):
    artifact = Artifact.open(exported_folder)
    manifest = artifact.manifest
    assert manifest.architecture == SMALL == spec_of("small residual", small_network())
    assert (manifest.cost, manifest.stages, artifact.engines) == (SMALL.cost, 4, (Engine.ONNX,))
    assert artifact.default_engine is artifact.reference_engine is Engine.ONNX
    assert manifest.cut_shapes == [(3, 8, 8), (8, 8, 8), (16, 4, 4), (12,)]
    stems = ["baseline", *(f"stage-{index}" for index in range(4))]
    assert sorted(manifest.files) == [f"{stem}.safetensors" for stem in stems]
    assert sorted(manifest.graphs) == [f"{stem}.onnx" for stem in stems]


@pytest.mark.parametrize("weights", ["fp16", "int8"])
def test_its_weights_are_kept_as_those_of_any_other(exported_folder, tmp_path, weights):
    artifact = save_artifact(tmp_path, small_network(), SMALL.name, weights=weights)
    expected = small_network().resume(IMAGES, 0, 4, ExitRule.never(3)).logits
    got = artifact.runner().resume(IMAGES, 0, 4, ExitRule.never(3)).logits
    rounding = {"fp16": 1e-2, "int8": 0.1}[weights]
    np.testing.assert_allclose(got, expected, rtol=rounding, atol=rounding)
    assert np.abs(got - expected).max() > 1e-6
    np.testing.assert_allclose(artifact.trunk().run(0, IMAGES)[1], got, rtol=1e-5, atol=1e-5)
    in_fp32 = (exported_folder / "stage-0.onnx").stat().st_size
    assert (tmp_path / "stage-0.onnx").stat().st_size == in_fp32, "a graph holds no weights"


def test_a_plain_trunk_of_its_own_comes_along(tmp_path):
    other = small_network(None, 5)
    artifact = save_artifact(tmp_path, small_network(), SMALL.name, plain_trunk=other)
    expected = other.resume(IMAGES, 0, 4, ExitRule.never(3)).logits
    np.testing.assert_allclose(artifact.trunk().run(0, IMAGES)[1], expected, rtol=0.02, atol=0.02)


def test_the_plain_trunk_comes_along_as_one_graph(exported_folder):
    expected = small_network().resume(IMAGES, 0, 4, ExitRule.never(3)).logits
    trunk = Artifact.open(exported_folder).trunk()
    np.testing.assert_allclose(trunk.run(0, IMAGES)[1], expected, rtol=1e-5, atol=1e-5)


def test_torch_cannot_run_it_and_says_so(exported_folder):
    artifact = Artifact.open(exported_folder)
    for load in (
        artifact.network,
        lambda: artifact.runner(engine=Engine.EAGER),
        lambda: artifact.trunk(Engine.EAGER),
    ):
        with pytest.raises(InvalidInput, match="has its layers as ONNX graphs: the engine onnx runs it, torch cannot"):
            load()


def test_a_half_opens_its_own_files_only(folder):
    for path in (*folder.glob("stage-[23].*"), *folder.glob("baseline.*")):
        path.unlink()
    edge = Artifact.open(folder).runner(0, 2)
    assert len(edge.resume(IMAGES, 0, 2, ExitRule.never(3)).remaining) == len(IMAGES)
    with pytest.raises(UnknownModel, match=r"does not hold stage-2\.onnx"):
        Artifact.open(folder).runner(2)
    with pytest.raises(InvalidInput, match=r"has the stages \[0, 4\)"):
        Artifact.open(folder).runner(0, 5)


def test_one_flipped_bit_is_damage(folder):
    blob = bytearray((folder / "stage-1.onnx").read_bytes())
    blob[len(blob) // 2] ^= 1
    (folder / "stage-1.onnx").write_bytes(blob)
    with pytest.raises(DamagedData, match=r"stage-1\.onnx has SHA-256"):
        Artifact.open(folder).runner(1, 2)


def test_the_content_hash_covers_graphs_weights_and_description_but_not_the_trunk(exported_folder):
    manifest = Artifact.open(exported_folder).manifest
    others = [
        dataclasses.replace(manifest, graphs={**manifest.graphs, "stage-3.onnx": "0" * 64}),
        dataclasses.replace(manifest, files={**manifest.files, "stage-3.safetensors": "0" * 64}),
        dataclasses.replace(manifest, architecture=dataclasses.replace(SMALL, name="another")),
    ]
    assert len({manifest.content_hash, *(other.content_hash for other in others)}) == 4
    trunk = dataclasses.replace(
        manifest,
        files={**manifest.files, "baseline.safetensors": "0" * 64},
        graphs={**manifest.graphs, "baseline.onnx": "0" * 64},
    )
    assert trunk.content_hash == manifest.content_hash


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["architecture"].update(classes=1),
        lambda raw: raw["architecture"].update(classes=6),
        lambda raw: raw["architecture"].update(input_shape=[3, 8]),
        lambda raw: raw["architecture"].update(input_shape=[3, 8, 0]),
        lambda raw: raw.update(stages=[]),
        lambda raw: raw["stages"].pop(),
        lambda raw: raw["stages"][0].update(exit=1),
        lambda raw: raw["stages"][3].update(exit=None),
        lambda raw: raw["stages"][1].update(output_shape=[]),
        lambda raw: raw["stages"][1].update(trunk_macs="many"),
        lambda raw: raw["stages"][1].pop("head_params"),
        lambda raw: raw["architecture"].update(name="other"),
        lambda raw: raw.pop("graphs"),
        lambda raw: raw["graphs"].pop("stage-0.onnx"),
        lambda raw: raw["graphs"].update({"stage-4.onnx": "0" * 64}),
        lambda raw: raw["files"].update({"stage-0.safetensors": "0" * 64}),
        lambda raw: raw["architecture"].update(variant="paper"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_damage(folder, change):
    edited(folder, change)
    with pytest.raises(DamagedData, match=r"manifest\.json"):
        Artifact.open(folder)


def test_outcomes_are_those_of_torch(exported_folder):
    artifact = Artifact.open(exported_folder)
    manifest, runner = artifact.manifest, artifact.runner()
    tables = [measure_outcomes(network, manifest.cost, labelled(IMAGES)) for network in (small_network(), runner)]
    np.testing.assert_allclose(tables[1].logits, tables[0].logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(tables[1].costs, SMALL.cost.macs_by_exit(heads=True))


@pytest.mark.parametrize("cut", [1, 2, 3])
async def test_nodes_serve_it_at_every_cut(exported_folder, cut):
    artifact = Artifact.open(exported_folder)
    manifest, whole = artifact.manifest, artifact.runner()
    cloud = CloudNode(CloudVersion(*opened(exported_folder, cut, engine=Engine.ONNX), 64))
    edge = EdgeNode(EdgeVersion(*opened(exported_folder, 0, cut, Engine.ONNX), WorkingUplink(cloud), LIMITS, 64))
    try:
        answers = await edge.classify(IMAGES)
    finally:
        edge.close()
        cloud.close()
    expected = whole.resume(IMAGES, 0, 4, manifest.rule)
    np.testing.assert_array_equal([answer.exit for answer in answers], expected.exits)
    assert set(expected.exits) == {0, 1, 2}
    np.testing.assert_array_equal([answer.label for answer in answers], expected.logits.argmax(1))


async def test_nodes_open_it_by_their_settings_and_refuse_eager(exported_folder):
    options = {"artifact": str(exported_folder), "port": 0}
    with open_cloud(CloudSettings.model_construct(**options)) as (cloud, limit):
        assert cloud.served.content_hash == Artifact.open(exported_folder).manifest.content_hash
        assert limit > 256 * 4 * 512
    settings = EdgeSettings.model_construct(**options, engine=Engine.ONNX, cloud="", cut=2)
    async with open_edge(settings) as (edge, _):
        assert edge.served.stages == (0, 2)
        assert len(await edge.classify(IMAGES)) == len(IMAGES)
    with (
        pytest.raises(InvalidInput, match="the engine onnx runs it"),
        open_cloud(CloudSettings.model_construct(**options, engine=Engine.EAGER)),
    ):
        pass


async def test_the_standard_protocol_takes_features_flat_where_cuts_differ_in_rank(exported_folder):
    artifact = Artifact.open(exported_folder)
    manifest, whole = artifact.manifest, artifact.runner()
    node = CloudNode(CloudVersion(*opened(exported_folder, engine=Engine.ONNX), 64))
    model = CloudModel(node)
    never = ExitRule.never(3)
    try:
        assert [(spec.name, spec.shape) for spec in model.inputs] == [("image", (-1, 3, 8, 8)), ("features", (-1, -1))]
        for cut in (1, 2, 3):
            features = whole.resume(IMAGES, 0, cut, never).features
            flat = Inference("features", features.reshape(len(features), -1), {"cut": cut}, 1_000.0)
            answers = await model.infer(flat)
            expected = whole.resume(features, cut, 4, manifest.rule)
            np.testing.assert_array_equal(answers.exits, expected.exits)
    finally:
        node.close()


async def test_a_network_without_code_of_ours_may_have_a_bottleneck(folder):
    shape = ConvolutionShape(map_shape=(8, 8, 8), channels=2, levels=4, width=4)
    codec = made_bottleneck(shape)
    artifact = Artifact.open(folder).add_bottleneck(1, codec.halves, codec.tables)
    assert isinstance(artifact.bottleneck(1).halves, GraphHalves)
    whole = artifact.runner()  # on ONNX Runtime
    never = ExitRule.never(3)
    features = whole.resume(IMAGES, 0, 1, never).features
    kept = artifact.codec("bottleneck", 1)
    expected = whole.resume(kept.decode(kept.encode(features), shape.map_shape, 16), 1, 4, never)
    cloud = CloudNode(CloudVersion(*opened(folder, engine=Engine.ONNX), 16))
    edge = EdgeNode(EdgeVersion(*opened(folder, 0, 1, Engine.ONNX), WorkingUplink(cloud), LIMITS, 16))
    edge.adopt(Plan(1, never, codec="bottleneck"))
    try:
        answers = await edge.classify(IMAGES)
    finally:
        edge.close()
        cloud.close()
    assert {answer.place for answer in answers} == {Place.CLOUD}
    np.testing.assert_array_equal([answer.label for answer in answers], expected.logits.argmax(1))
