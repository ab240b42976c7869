"""What is written is what is read; what was altered is noticed; a half opens nothing but its own files."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from network_examples import (
    LENET,
    LIGHT,
    exit_logits,
    mixing_rule,
    pictures,
    random_network,
    save_artifact,
    title,
)
from test_bottleneck import SHAPE, TRANSFORM
from test_bottleneck import made as made_bottleneck

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.artifact.manifest import write_manifest
from branchynet.data.preprocessing import Interpolation, Preprocessing, Resize
from branchynet.errors import DamagedData, InvalidInput, UnknownModel
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.models.architectures import Architecture, build, cost, cut_shapes
from branchynet.network.graph_halves import GraphHalves
from branchynet.network.normalisation import Normalisation
from branchynet.network.runner import Engine

shipped = pytest.mark.parametrize("name", zoo.shipped())


@pytest.fixture
def folder(tmp_path):
    save_artifact(tmp_path / "example", random_network())
    return tmp_path / "example"


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def edited(folder, change):
    """Rewrite the manifest in *folder* after *change* was made to its JSON."""
    raw = json.loads((folder / "manifest.json").read_text())
    change(raw)
    (folder / "manifest.json").write_text(json.dumps(raw))


@pytest.mark.parametrize("architecture", LIGHT, ids=title)
def test_a_saved_network_comes_back_as_it_was(architecture, tmp_path):
    network = random_network(architecture)
    rule = ExitRule(Criterion.MARGIN, (0.25,) * (network.exits - 1))
    saved = save_artifact(tmp_path, network, architecture, rule)
    artifact = Artifact.open(tmp_path)
    manifest, back = artifact.manifest, artifact.network()
    assert artifact == saved
    spec = manifest.architecture
    assert (spec.name, spec.variant, spec.classes) == (architecture.name, architecture.variant, architecture.classes)
    assert (manifest.cost, manifest.cut_shapes) == (cost(architecture), cut_shapes(architecture))
    assert (manifest.rule, manifest.stages) == (rule, network.total_stages)
    assert back.normalisation == network.normalisation
    assert not back.training
    assert not any(parameter.requires_grad for parameter in back.parameters())
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, rtol=0, atol=0)
    images = pictures(architecture, 3)
    np.testing.assert_array_equal(exit_logits(back, images), exit_logits(network, images))


def test_saving_twice_writes_the_same_bytes(tmp_path):
    first, second = (save_artifact(tmp_path / name, random_network()) for name in ("first", "second"))
    assert first.manifest == second.manifest


@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8"])
def test_a_plain_trunk_of_its_own_comes_back_in_half_precision_at_best(tmp_path, weights):
    other = random_network(seed=5)
    save_artifact(tmp_path, random_network(), plain_trunk=other, weights=weights)
    plain_trunk = Artifact.open(tmp_path).trunk(Engine.EAGER)
    images = pictures(LENET, 3)
    logits = plain_trunk.run(0, images)[1]
    np.testing.assert_allclose(logits, exit_logits(other, images)[-1], rtol=0.05, atol=0.05)
    if weights != "int8":
        kept, given = plain_trunk.stage(0), other.state_dict()
        first, last = kept.trunk[0][0].weight, kept.head.bias
        for tensor, name in ((first, "stages.0.trunk.0.weight"), (last, "stages.1.head.bias")):
            torch.testing.assert_close(tensor, given[name].half().float(), rtol=0, atol=0)


@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8"])
def test_a_plain_trunk_that_is_the_network_s_own_trunk_is_not_kept_twice(tmp_path, weights):
    save_artifact(tmp_path, random_network(), weights=weights)
    assert (tmp_path / "baseline.safetensors").stat().st_size < 100
    artifact = Artifact.open(tmp_path)
    network = artifact.network()
    plain_trunk = Artifact.open(tmp_path).trunk(Engine.EAGER)
    images = pictures(LENET, 3)
    logits = plain_trunk.run(0, images)[1]
    np.testing.assert_array_equal(logits, exit_logits(network, images)[-1])


# --- halves -----------------------------------------------------------------------------------------------


def test_an_edge_half_needs_neither_the_deep_file_nor_its_memory(folder):
    (folder / "stage-1.safetensors").unlink()
    (folder / "baseline.safetensors").unlink()
    edge = Artifact.open(folder).network(0, 1)
    assert parameters(edge) == parameters(random_network().stage(0)) < parameters(random_network()) / 5
    assert not any(parameter.is_meta for parameter in edge.parameters())


def test_a_cloud_half_says_which_file_is_missing(folder):
    (folder / "stage-1.safetensors").unlink()
    for first in (0, 1):
        with pytest.raises(UnknownModel, match=r"does not hold stage-1\.safetensors; this half of example"):
            Artifact.open(folder).network(first)


@pytest.mark.parametrize(
    ("training", "recipe"), [({"recipe": {"seed": 3}}, {"seed": 3}), ({"recipe": "by hand"}, {}), ({}, {})]
)
def test_a_recipe_is_what_the_manifest_tells_of_it(folder, training, recipe):
    assert dataclasses.replace(Artifact.open(folder).manifest, training=training).recipe == recipe


def test_a_missing_plain_trunk_is_named(folder):
    (folder / "baseline.safetensors").unlink()
    with pytest.raises(UnknownModel, match=r"baseline\.safetensors"):
        Artifact.open(folder).trunk(Engine.EAGER)


@pytest.mark.parametrize(("first", "last"), [(0, 3), (-1, 1), (2, 1), (3, 3)])
def test_stages_that_do_not_exist_are_refused_with_those_that_do(folder, first, last):
    with pytest.raises(InvalidInput, match=r"example has the stages \[0, 2\)"):
        Artifact.open(folder).network(first, last)


# --- the content hash -------------------------------------------------------------------------------------


def nudged(network, name):
    """A copy of *network* with one value of one tensor changed by as little as possible."""
    copy = build(LENET, network.normalisation)
    weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    values = weights[name].view(-1)
    values[0] = torch.nextafter(values[0], values[0] + 1)
    copy.load_state_dict(weights)
    return copy


@pytest.mark.parametrize("name", random_network().state_dict())
def test_the_content_hash_changes_with_any_weight(name, tmp_path):
    before = save_artifact(tmp_path / "before", random_network()).manifest.content_hash
    assert save_artifact(tmp_path / "after", nudged(random_network(), name)).manifest.content_hash != before


def test_the_content_hash_changes_with_what_makes_the_function(folder):
    manifest = Artifact.open(folder).manifest
    others = [
        dataclasses.replace(manifest, normalisation=Normalisation((0.451,), (0.2,))),
        dataclasses.replace(manifest, normalisation=Normalisation((0.45,), (0.201,))),
        dataclasses.replace(manifest, architecture=dataclasses.replace(manifest.architecture, variant="code")),
        dataclasses.replace(manifest, architecture=dataclasses.replace(manifest.architecture, classes=9)),
        dataclasses.replace(manifest, files={**manifest.files, "stage-0.safetensors": "0" * 64}),
        dataclasses.replace(manifest, preprocessing=Preprocessing(Resize.CROP)),
        dataclasses.replace(manifest, preprocessing=Preprocessing(ground=(0, 0, 0))),
    ]
    hashes = {manifest.content_hash, *(other.content_hash for other in others)}
    assert len(hashes) == 1 + len(others)


def test_a_preprocessing_is_kept_by_its_words_and_the_default_is_not_written(tmp_path):
    chosen = Preprocessing(Resize.PAD, Interpolation.LANCZOS, (1, 2, 3))
    plain = save_artifact(tmp_path / "plain", random_network())
    assert "preprocessing" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())
    assert plain.manifest.preprocessing == plain.manifest.served((0, 1), 8).preprocessing == Preprocessing()
    save_artifact(tmp_path / "chosen", random_network(), preprocessing=chosen)
    manifest = Artifact.open(tmp_path / "chosen").manifest
    assert manifest.preprocessing == manifest.served((0, 1), 8).preprocessing == chosen
    written = json.loads((tmp_path / "chosen" / "manifest.json").read_text())["preprocessing"]
    assert written == {"resize": "pad", "interpolation": "lanczos", "ground": [1, 2, 3]}


@pytest.mark.parametrize(
    "wrong", [{"resize": "zoom"}, {"ground": [1, 2]}, {"ground": ["a", "b", "c"]}, {"resize": None}]
)
def test_a_preprocessing_that_is_none_is_damage(tmp_path, wrong):
    save_artifact(tmp_path / "chosen", random_network(), preprocessing=Preprocessing(Resize.CROP))

    def change(raw):
        raw["preprocessing"] |= wrong

    edited(tmp_path / "chosen", change)
    with pytest.raises(DamagedData, match=next(iter(wrong))):
        Artifact.open(tmp_path / "chosen")


def test_the_content_hash_stays_with_what_may_change_between_measurements(folder):
    manifest = Artifact.open(folder).manifest
    remeasured = dataclasses.replace(
        manifest,
        rule=ExitRule(Criterion.MARGIN, (0.5,)),
        results={"test": {"accuracy": 1.0}},
        name="another name",
        dataset="another set",
        labels=tuple("abcdefghij"),
        cut=2,
        training={},
        files={**manifest.files, "baseline.safetensors": "0" * 64},
        graphs={f"{stem}.onnx": "0" * 64 for stem in ("stage-0", "stage-1", "baseline")},
    )
    assert remeasured.content_hash == manifest.content_hash
    write_manifest(folder, remeasured)
    assert Artifact.open(folder).manifest == remeasured


def test_a_new_rule_takes_the_old_results_away(folder):
    artifact = Artifact.open(folder)
    rule = ExitRule(Criterion.MARGIN, (0.5,))
    assert artifact.with_rule(rule, {}).manifest == dataclasses.replace(artifact.manifest, rule=rule, results={})


# --- damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["stage-0.safetensors", "stage-1.safetensors", "baseline.safetensors"])
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_flipped_bit_is_damage(folder, file, place):
    blob = bytearray((folder / file).read_bytes())
    blob[round(place * (len(blob) - 1))] ^= 1
    (folder / file).write_bytes(blob)
    with pytest.raises(DamagedData, match=f"{file} has SHA-256"):
        if file.startswith("baseline"):
            Artifact.open(folder).trunk(Engine.EAGER)
        else:
            Artifact.open(folder).network()


def test_a_truncated_file_is_damage(folder):
    blob = (folder / "stage-1.safetensors").read_bytes()
    (folder / "stage-1.safetensors").write_bytes(blob[:-1])
    with pytest.raises(DamagedData, match="SHA-256"):
        Artifact.open(folder).network()


@pytest.mark.parametrize("blob", [b"", b"not safetensors", b"\xff" * 64])
def test_a_file_of_another_format_is_damage_even_with_a_matching_checksum(folder, blob):
    save_with_blob(folder, "stage-0.safetensors", blob)
    with pytest.raises(DamagedData, match=r"stage-0\.safetensors is not a safetensors file"):
        Artifact.open(folder).network(0, 1)


def test_a_stage_of_another_network_is_damage_even_with_a_matching_checksum(folder):
    save_with_blob(folder, "stage-0.safetensors", (folder / "stage-1.safetensors").read_bytes())
    with pytest.raises(DamagedData, match="does not fit the architecture"):
        Artifact.open(folder).network(0, 1)


def save_with_blob(folder, file, blob):
    (folder / file).write_bytes(blob)
    manifest = Artifact.open(folder).manifest
    files = {**manifest.files, file: hashlib.sha256(blob).hexdigest()}
    write_manifest(folder, dataclasses.replace(manifest, files=files))


def test_an_absent_artifact_is_unknown(tmp_path):
    with pytest.raises(UnknownModel, match=r"manifest\.json is missing"):
        Artifact.open(tmp_path)
    with pytest.raises(UnknownModel, match="nowhere' is neither a folder nor a shipped artifact"):
        Artifact.open(tmp_path / "nowhere").network()


def test_a_name_in_the_manifest_never_becomes_a_path(folder):
    """The weights lie outside, under a name that climbs, in a manifest whose content hash fits."""
    manifest = Artifact.open(folder).manifest
    shutil.move(folder / "stage-0.safetensors", folder.parent / "stage-0.safetensors")
    with pytest.raises(UnknownModel, match=r"does not hold stage-0\.safetensors"):
        Artifact.open(folder).network(0, 1)
    digest = manifest.files["stage-0.safetensors"]
    for name in ("../stage-0.safetensors", "stage-/../../stage-0.safetensors", "stage-2.safetensors"):
        write_manifest(folder, dataclasses.replace(manifest, files={**manifest.files, name: digest}))
        with pytest.raises(DamagedData, match="files are"):
            Artifact.open(folder).network(0, 1)


# --- smaller storage --------------------------------------------------------------------------------------


def test_eight_bits_answer_nearly_alike_and_split_as_the_whole(tmp_path):
    save_artifact(tmp_path, random_network(), weights="int8")
    whole = Artifact.open(tmp_path).network()
    images = pictures(LENET, 3)
    logits = exit_logits(whole, images)
    np.testing.assert_allclose(logits, exit_logits(random_network(), images), rtol=0.05, atol=0.05)
    edge = Artifact.open(tmp_path).network(0, 1)
    cloud = Artifact.open(tmp_path).network(1)
    features, early = edge.run(0, images)
    _, late = cloud.run(1, features)
    np.testing.assert_array_equal(early, logits[0])
    np.testing.assert_array_equal(late, logits[1])


def test_half_precision_halves_the_files_and_comes_back_as_float32(folder, tmp_path):
    saved = save_artifact(tmp_path / "half", random_network(), weights="fp16")
    artifact = Artifact.open(tmp_path / "half")
    network = artifact.network()
    assert (artifact, artifact.manifest.weights) == (saved, "fp16")
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, random_network().state_dict()[name].half().float(), rtol=0, atol=0)
    full, half = ((path / "stage-1.safetensors").stat().st_size for path in (folder, tmp_path / "half"))
    assert half < 0.52 * full
    images = pictures(LENET, 3)
    np.testing.assert_allclose(
        exit_logits(network, images), exit_logits(random_network(), images), rtol=0.02, atol=0.02
    )


def test_weights_of_another_precision_than_the_manifest_says_are_damage(folder):
    edited(folder, lambda raw: raw.update(weights="fp16"))
    with pytest.raises(DamagedData, match=r"stage-0\.safetensors holds float32, the manifest says fp16"):
        Artifact.open(folder).network()
    edited(folder, lambda raw: raw.update(weights="int4"))
    with pytest.raises(DamagedData, match="weights"):
        Artifact.open(folder)


def test_a_weight_too_large_for_half_precision_is_refused(tmp_path):
    network = build(LENET, random_network().normalisation)
    network.load_state_dict(random_network().state_dict())
    with torch.no_grad():
        network.stage(1).head.bias[0] = 70_000
    with pytest.raises(InvalidInput, match=r"bias reaches 70000, which float16 cannot hold"):
        save_artifact(tmp_path, network, weights="fp16")
    assert list(tmp_path.iterdir()) == []


# --- what the package ships -------------------------------------------------------------------------------


@shipped
def test_a_shipped_artifact_loads_whole_in_halves_and_with_its_plain_trunk(name):
    artifact = Artifact.open(name)
    manifest, whole = artifact.manifest, artifact.network()
    assert manifest.name == name
    edge = Artifact.open(name).network(0, manifest.cut)
    cloud = Artifact.open(name).network(manifest.cut)
    assert parameters(edge) + parameters(cloud) == parameters(whole)
    logits = Artifact.open(name).trunk(Engine.EAGER).run(0, pictures(manifest.architecture, 2))[1]
    assert np.isfinite(logits).all()


@shipped
def test_a_shipped_artifact_records_its_recipe_and_test_results(name):
    manifest = Artifact.open(name).manifest
    assert manifest.training["command"].startswith("branchynet train --recipe")
    assert manifest.training["recipe"]["architecture"]["name"] == manifest.architecture.name
    results = manifest.results["test"]
    assert results["images"] == 10_000
    assert 0.5 < results["accuracy"] <= 1
    assert sum(results["exit_shares"]) == pytest.approx(1, abs=1e-5)
    assert len(results["exit_accuracies"]) == len(results["exit_shares"]) == len(manifest.rule.thresholds) + 1
    branched = len(results["exit_shares"]) > 1
    assert (results["macs"] < results["trunk_macs"]) is branched
    assert results["accuracy"] > results["trunk_accuracy"] - 0.01


@shipped
def test_recorded_costs_are_those_of_the_layers(name):
    spec = Artifact.open(name).manifest.architecture
    assert spec.cost == cost(Architecture(spec.name, spec.variant, spec.classes))


def test_the_artifacts_with_graphs_take_less_than_five_megabytes():
    with_graphs = [Artifact.open(name) for name in zoo.shipped() if Artifact.open(name).manifest.graphs]
    assert [artifact.manifest.name for artifact in with_graphs] == ["lenet-fashion", "modern-alexnet-cifar10"]
    for artifact in with_graphs:
        spec, rule = artifact.manifest.architecture, artifact.manifest.rule
        images = pictures(spec, 20)
        eager, onnx = (artifact.runner(engine=engine).resume(images, 0, spec.stages, rule) for engine in Engine)
        np.testing.assert_array_equal(onnx.exits, eager.exits)
        np.testing.assert_allclose(onnx.logits, eager.logits, rtol=1e-4, atol=1e-4)
        for cut in artifact.manifest.bottlenecks:
            assert isinstance(artifact.bottleneck(cut).halves, GraphHalves)
    folders = [artifact.folder for artifact in with_graphs]
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) < 5e6


# --- graphs of its own ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[SHAPE, TRANSFORM], ids=["convolution", "transform"])
def with_graphs(tmp_path_factory, request):
    """An artifact with a bottleneck, a plain trunk of its own, rounded weights, and graphs of all these."""
    other = random_network(seed=5)
    folder = tmp_path_factory.mktemp("graphs")
    artifact = save_artifact(folder, random_network(), plain_trunk=other, weights="int8")
    codec = made_bottleneck(request.param)
    return artifact.add_bottleneck(1, codec.halves, codec.tables).export_graphs()


def test_graphs_hold_no_weights_and_change_neither_the_others_nor_the_hash(with_graphs):
    stems = ["baseline", "bottleneck-1-decoder", "bottleneck-1-encoder", "stage-0", "stage-1"]
    assert sorted(with_graphs.manifest.graphs) == [f"{stem}.onnx" for stem in stems]
    assert sum((with_graphs.folder / name).stat().st_size for name in with_graphs.manifest.graphs) < 40_000
    plain = dataclasses.replace(with_graphs.manifest, graphs={})
    assert plain.content_hash == with_graphs.manifest.content_hash
    assert Artifact.open(with_graphs.folder) == with_graphs


def test_on_its_graphs_an_artifact_answers_as_on_torch(with_graphs):
    images = pictures(LENET, 12)
    assert with_graphs.default_engine is Engine.ONNX
    eager, onnx = (with_graphs.runner(engine=engine) for engine in Engine)
    rule = mixing_rule(with_graphs.network(), images)
    expected, got = (runner.resume(images, 0, 2, rule) for runner in (eager, onnx))
    np.testing.assert_array_equal(got.exits, expected.exits)
    np.testing.assert_allclose(got.logits, expected.logits, rtol=1e-5, atol=2e-5)
    expected, got = (with_graphs.trunk(engine).run(0, images)[1] for engine in Engine)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)


def test_a_bottleneck_codes_on_its_graphs_as_in_torch(with_graphs):
    features = with_graphs.network().resume(pictures(LENET, 5), 0, 1, ExitRule.never(2)).features
    graphs, trained = with_graphs.bottleneck(1), with_graphs.trainable_bottleneck(1)
    assert isinstance(graphs.halves, GraphHalves)
    for sample in features:
        levels = graphs.halves.levels(sample)
        np.testing.assert_array_equal(levels, trained.halves.levels(sample))
        expected = trained.halves.features(levels)
        np.testing.assert_allclose(graphs.halves.features(levels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("file", ["stage-0.onnx", "baseline.onnx", "bottleneck-1-encoder.onnx"])
def test_a_changed_graph_is_damage(with_graphs, tmp_path, file):
    artifact = with_graphs.save(tmp_path)
    blob = bytearray((tmp_path / file).read_bytes())
    blob[len(blob) // 2] ^= 1
    (tmp_path / file).unlink()  # another copy has the same data
    (tmp_path / file).write_bytes(blob)
    with pytest.raises(DamagedData, match=rf"{file} has SHA-256"):
        artifact.trunk() if file == "baseline.onnx" else artifact.runner()


# --- copies -----------------------------------------------------------------------------------------------


def test_a_copy_shares_its_files_and_takes_no_change_of_the_other(with_graphs, tmp_path):
    rule = ExitRule(Criterion.MARGIN, (0.5,))
    copy = with_graphs.with_rule(rule, {}).save(tmp_path)
    assert (copy.folder, copy.manifest.rule) == (tmp_path, rule)
    for name in with_graphs.manifest.all_files:
        assert (tmp_path / name).samefile(with_graphs.folder / name)
    written = save_artifact(tmp_path, random_network(seed=9))
    assert written.manifest.content_hash != with_graphs.manifest.content_hash
    Artifact.open(with_graphs.folder).network()


def test_where_there_can_be_no_link_a_file_is_copied(with_graphs, tmp_path, monkeypatch):
    def other_device(source, target):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr("os.link", other_device)
    copy = with_graphs.save(tmp_path)
    assert not (tmp_path / "stage-0.onnx").samefile(with_graphs.folder / "stage-0.onnx")
    assert Artifact.open(tmp_path) == copy
    copy.runner()


def test_a_half_is_copied_as_a_half(folder, tmp_path):
    (folder / "stage-1.safetensors").unlink()
    copy = Artifact.open(folder).save(tmp_path / "copy")
    assert not (tmp_path / "copy" / "stage-1.safetensors").exists()
    copy.network(0, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda artifact: artifact.with_rule(ExitRule(Criterion.MARGIN, (0.5, 0.5)), {}),
        lambda artifact: artifact.with_fields(cut=3),
        lambda artifact: artifact.with_results({}, {"golden": "x"}),
    ],
)
def test_what_does_not_fit_the_network_is_refused_before_it_is_written(folder, change):
    with pytest.raises(InvalidInput):
        change(Artifact.open(folder))
