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
    pictures,
    random_network,
    save_artifact,
    title,
)

from branchynet import artifact
from branchynet.decisions.exits import Criterion, ExitRule
from branchynet.errors import DamagedData, InvalidInput, UnknownModel
from branchynet.models import Architecture, build, zoo
from branchynet.network import Normalisation

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
    manifest, back = artifact.load(tmp_path)
    assert manifest == saved == artifact.read_manifest(tmp_path)
    assert (manifest.architecture, manifest.rule, manifest.stages) == (architecture, rule, network.total_stages)
    assert back.normalisation == network.normalisation
    assert not back.training
    assert not any(parameter.requires_grad for parameter in back.parameters())
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, rtol=0, atol=0)
    images = pictures(architecture, 3)
    np.testing.assert_array_equal(exit_logits(back, images), exit_logits(network, images))


def test_saving_twice_writes_the_same_bytes(tmp_path):
    first, second = (save_artifact(tmp_path / name, random_network()) for name in ("first", "second"))
    assert first == second


@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8"])
def test_a_baseline_of_its_own_comes_back_in_half_precision_at_best(tmp_path, weights):
    other = random_network(seed=5)
    save_artifact(tmp_path, random_network(), baseline=other, weights=weights)
    baseline = artifact.load_baseline(tmp_path, artifact.read_manifest(tmp_path))
    images = pictures(LENET, 3)
    with torch.inference_mode():
        logits = baseline.trunk(baseline.normalisation(torch.from_numpy(images)))
    np.testing.assert_allclose(logits.numpy(), exit_logits(other, images)[-1], rtol=0.05, atol=0.05)
    if weights != "int8":
        kept, given = baseline.state_dict(), other.state_dict()
        for name in ("stages.0.trunk.0.weight", "stages.1.head.bias"):
            torch.testing.assert_close(kept[name], given[name].half().float(), rtol=0, atol=0)


@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8"])
def test_a_baseline_that_is_the_network_s_own_trunk_is_not_kept_twice(tmp_path, weights):
    save_artifact(tmp_path, random_network(), weights=weights)
    assert (tmp_path / "baseline.safetensors").stat().st_size < 100
    manifest, network = artifact.load(tmp_path)
    baseline = artifact.load_baseline(tmp_path, manifest)
    images = pictures(LENET, 3)
    with torch.inference_mode():
        logits = baseline.trunk(baseline.normalisation(torch.from_numpy(images)))
    np.testing.assert_array_equal(logits.numpy(), exit_logits(network, images)[-1])


# --- halves -----------------------------------------------------------------------------------------------


def test_an_edge_half_needs_neither_the_deep_file_nor_its_memory(folder):
    (folder / "stage-1.safetensors").unlink()
    (folder / "baseline.safetensors").unlink()
    _, edge = artifact.load(folder, 0, 1)
    assert parameters(edge) == parameters(random_network().stage(0)) < parameters(random_network()) / 5
    assert not any(parameter.is_meta for parameter in edge.parameters())


def test_a_cloud_half_says_which_file_is_missing(folder):
    (folder / "stage-1.safetensors").unlink()
    for first in (0, 1):
        with pytest.raises(UnknownModel, match=r"does not hold stage-1\.safetensors; this half of example"):
            artifact.load(folder, first)


@pytest.mark.parametrize(
    ("training", "recipe"), [({"recipe": {"seed": 3}}, {"seed": 3}), ({"recipe": "by hand"}, {}), ({}, {})]
)
def test_a_recipe_is_what_the_manifest_tells_of_it(folder, training, recipe):
    assert dataclasses.replace(artifact.read_manifest(folder), training=training).recipe == recipe


def test_a_missing_baseline_is_named(folder):
    (folder / "baseline.safetensors").unlink()
    with pytest.raises(UnknownModel, match=r"baseline\.safetensors"):
        artifact.load_baseline(folder, artifact.read_manifest(folder))


@pytest.mark.parametrize(("first", "last"), [(0, 3), (-1, 1), (2, 1), (3, 3)])
def test_stages_that_do_not_exist_are_refused_with_those_that_do(folder, first, last):
    with pytest.raises(InvalidInput, match=r"example has the stages \[0, 2\)"):
        artifact.load(folder, first, last)


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
    before = save_artifact(tmp_path / "before", random_network()).content_hash
    assert save_artifact(tmp_path / "after", nudged(random_network(), name)).content_hash != before


def test_the_content_hash_changes_with_what_makes_the_function(folder):
    manifest = artifact.read_manifest(folder)
    others = [
        dataclasses.replace(manifest, normalisation=Normalisation((0.451,), (0.2,))),
        dataclasses.replace(manifest, normalisation=Normalisation((0.45,), (0.201,))),
        dataclasses.replace(manifest, architecture=Architecture("b-lenet", "code")),
        dataclasses.replace(manifest, architecture=Architecture("b-lenet", classes=9)),
        dataclasses.replace(manifest, files={**manifest.files, "stage-0.safetensors": "0" * 64}),
    ]
    hashes = {manifest.content_hash, *(other.content_hash for other in others)}
    assert len(hashes) == 1 + len(others)


def test_the_content_hash_stays_with_what_may_change_between_measurements(folder):
    manifest = artifact.read_manifest(folder)
    remeasured = dataclasses.replace(
        manifest.with_rule(ExitRule(Criterion.MARGIN, (0.5,)), {"test": {"accuracy": 1.0}}),
        name="another name",
        dataset="another set",
        labels=tuple("abcdefghij"),
        cut=2,
        training={},
        files={**manifest.files, "baseline.safetensors": "0" * 64},
    )
    assert remeasured.content_hash == manifest.content_hash
    artifact.write_manifest(folder, remeasured)
    assert artifact.read_manifest(folder) == remeasured


def test_a_new_rule_takes_the_old_results_away(folder):
    manifest = artifact.read_manifest(folder)
    rule = ExitRule(Criterion.MARGIN, (0.5,))
    assert manifest.with_rule(rule, {}) == dataclasses.replace(manifest, rule=rule, results={})


# --- damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["stage-0.safetensors", "stage-1.safetensors", "baseline.safetensors"])
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_flipped_bit_is_damage(folder, file, place):
    blob = bytearray((folder / file).read_bytes())
    blob[round(place * (len(blob) - 1))] ^= 1
    (folder / file).write_bytes(blob)
    with pytest.raises(DamagedData, match=f"{file} has SHA-256"):
        if file.startswith("baseline"):
            artifact.load_baseline(folder, artifact.read_manifest(folder))
        else:
            artifact.load(folder)


def test_a_truncated_file_is_damage(folder):
    blob = (folder / "stage-1.safetensors").read_bytes()
    (folder / "stage-1.safetensors").write_bytes(blob[:-1])
    with pytest.raises(DamagedData, match="SHA-256"):
        artifact.load(folder)


@pytest.mark.parametrize("blob", [b"", b"not safetensors", b"\xff" * 64])
def test_a_file_of_another_format_is_damage_even_with_a_matching_checksum(folder, blob):
    save_with_blob(folder, "stage-0.safetensors", blob)
    with pytest.raises(DamagedData, match=r"stage-0\.safetensors is not a safetensors file"):
        artifact.load(folder, 0, 1)


def test_a_stage_of_another_network_is_damage_even_with_a_matching_checksum(folder):
    save_with_blob(folder, "stage-0.safetensors", (folder / "stage-1.safetensors").read_bytes())
    with pytest.raises(DamagedData, match="does not fit the architecture"):
        artifact.load(folder, 0, 1)


def save_with_blob(folder, file, blob):
    (folder / file).write_bytes(blob)
    manifest = artifact.read_manifest(folder)
    files = {**manifest.files, file: hashlib.sha256(blob).hexdigest()}
    artifact.write_manifest(folder, dataclasses.replace(manifest, files=files))


def test_an_absent_artifact_is_unknown(tmp_path):
    with pytest.raises(UnknownModel, match=r"manifest\.json is missing"):
        artifact.load(tmp_path / "nowhere")


def test_a_name_in_the_manifest_never_becomes_a_path(folder):
    """The weights lie outside, under a name that climbs, in a manifest whose content hash fits."""
    manifest = artifact.read_manifest(folder)
    shutil.move(folder / "stage-0.safetensors", folder.parent / "stage-0.safetensors")
    with pytest.raises(UnknownModel, match=r"does not hold stage-0\.safetensors"):
        artifact.load(folder, 0, 1)
    digest = manifest.files["stage-0.safetensors"]
    for name in ("../stage-0.safetensors", "stage-/../../stage-0.safetensors", "stage-2.safetensors"):
        artifact.write_manifest(folder, dataclasses.replace(manifest, files={**manifest.files, name: digest}))
        with pytest.raises(DamagedData, match="files are"):
            artifact.load(folder, 0, 1)


# --- smaller storage --------------------------------------------------------------------------------------


def test_eight_bits_answer_nearly_alike_and_split_as_the_whole(tmp_path):
    save_artifact(tmp_path, random_network(), weights="int8")
    _, whole = artifact.load(tmp_path)
    images = pictures(LENET, 3)
    logits = exit_logits(whole, images)
    np.testing.assert_allclose(logits, exit_logits(random_network(), images), rtol=0.05, atol=0.05)
    _, edge = artifact.load(tmp_path, 0, 1)
    _, cloud = artifact.load(tmp_path, 1)
    features, early = edge.run(0, images)
    _, late = cloud.run(1, features)
    np.testing.assert_array_equal(early, logits[0])
    np.testing.assert_array_equal(late, logits[1])


def test_half_precision_halves_the_files_and_comes_back_as_float32(folder, tmp_path):
    saved = save_artifact(tmp_path / "half", random_network(), weights="fp16")
    manifest, network = artifact.load(tmp_path / "half")
    assert (manifest, manifest.weights) == (saved, "fp16")
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
    with pytest.raises(DamagedData, match=r"stage-0\.safetensors holds torch\.float32, the manifest says fp16"):
        artifact.load(folder)
    edited(folder, lambda raw: raw.update(weights="int4"))
    with pytest.raises(DamagedData, match="weights"):
        artifact.read_manifest(folder)


def test_a_weight_too_large_for_half_precision_is_refused(tmp_path):
    network = build(LENET, random_network().normalisation)
    network.load_state_dict(random_network().state_dict())
    with torch.no_grad():
        network.stage(1).head.bias[0] = 70_000
    with pytest.raises(InvalidInput, match=r"bias reaches 70000, which torch\.float16 cannot hold"):
        save_artifact(tmp_path, network, weights="fp16")
    assert list(tmp_path.iterdir()) == []


# --- what the package ships -------------------------------------------------------------------------------


@shipped
def test_a_shipped_artifact_loads_whole_in_halves_and_with_its_baseline(name):
    manifest, whole = artifact.load(zoo.find(name))
    assert manifest.name == name
    _, edge = artifact.load(zoo.find(name), 0, manifest.cut)
    _, cloud = artifact.load(zoo.find(name), manifest.cut)
    assert parameters(edge) + parameters(cloud) == parameters(whole)
    images = torch.from_numpy(pictures(manifest.architecture, 2))
    baseline = artifact.load_baseline(zoo.find(name), manifest)
    with torch.inference_mode():
        assert baseline.trunk(baseline.normalisation(images)).isfinite().all()


@shipped
def test_a_shipped_artifact_records_its_recipe_and_test_results(name):
    manifest = artifact.read_manifest(zoo.find(name))
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
