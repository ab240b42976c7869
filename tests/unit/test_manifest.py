"""A manifest says what its artifact is; one that is damaged or contradicts itself is refused."""

import dataclasses
import json

import pytest
from network_examples import gates, random_network, save_artifact

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.manifest import write_manifest
from branchynet.codecs import FixedRanges
from branchynet.errors import DamagedData
from branchynet.exits.rules import Criterion, ExitRule


@pytest.fixture
def folder(tmp_path):
    save_artifact(tmp_path / "example", random_network())
    return tmp_path / "example"


def edited(folder, change):
    """Rewrite the manifest in *folder* after *change* was made to its JSON."""
    raw = json.loads((folder / "manifest.json").read_text())
    change(raw)
    (folder / "manifest.json").write_text(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"text"', '{"format_version": 1', "\ufeff{}"])
def test_a_manifest_that_is_no_json_object_is_damage(folder, text):
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(DamagedData, match=r"manifest\.json"):
        Artifact.open(folder)


def test_a_manifest_that_is_not_utf_8_is_damage(folder):
    (folder / "manifest.json").write_bytes(b'{"name": "\xff"}')
    with pytest.raises(DamagedData, match="not JSON"):
        Artifact.open(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_named(folder, version):
    edited(folder, lambda raw: raw.update(format_version=version))
    with pytest.raises(DamagedData, match=f"version {version!r}"):
        Artifact.open(folder)


KEYS = ["format_version", "name", "content_hash", "architecture", "stages", "normalisation", "labels"]
KEYS += ["dataset", "cut", "exit_rule", "files", "training", "results"]


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_damage(folder, key):
    edited(folder, lambda raw: raw.pop(key))
    with pytest.raises(DamagedData, match=r"manifest\.json"):
        Artifact.open(folder)


@pytest.mark.parametrize("value", [None, [], {}, 5, -1, True, "x", [1], {"x": 1}])
@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_another_kind_never_passes_for_a_manifest(folder, key, value):
    before = Artifact.open(folder).manifest
    edited(folder, lambda raw: raw.update({key: value}))
    try:
        after = Artifact.open(folder).manifest
    except DamagedData:
        return
    # What is free to be anything of its own kind may have changed; nothing else.
    free = {"name": str, "dataset": str, "training": dict, "results": dict}
    assert key in free
    assert isinstance(value, free[key])
    assert dataclasses.replace(after, **{key: getattr(before, key)}) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(content_hash="0" * 64),
        lambda raw: raw["normalisation"].update(mean=[0.46]),
        lambda raw: raw["normalisation"].update(std=[0.0]),
        lambda raw: raw["normalisation"].update(mean=[0.45, 0.45]),
        lambda raw: raw["architecture"].update(variant="code"),
        lambda raw: raw["architecture"].update(name="b-vgg"),
        lambda raw: raw["architecture"].update(classes=1),
        lambda raw: raw["architecture"].update(input_shape=[3, 28, 28]),
        lambda raw: raw["files"].update({"stage-0.safetensors": "0" * 64}),
        lambda raw: raw["files"].pop("stage-1.safetensors"),
        lambda raw: raw["exit_rule"].update(criterion="luck"),
        lambda raw: raw["exit_rule"].update(thresholds=[float("nan")]),
        lambda raw: raw["exit_rule"].update(thresholds=[float("inf")]),
        lambda raw: raw["exit_rule"].update(thresholds=[0.1, 0.2]),
        lambda raw: raw["exit_rule"].update(thresholds=["0.1"]),
        lambda raw: raw.update(labels=["a", "b"]),
        lambda raw: raw.update(cut=3),
        lambda raw: raw.update(cut=0),
    ],
)
def test_a_manifest_that_contradicts_itself_is_damage(folder, change):
    edited(folder, change)
    with pytest.raises(DamagedData, match=r"manifest\.json"):
        Artifact.open(folder).network()


def test_a_manifest_is_replaced_in_one_step(folder, monkeypatch):
    """A write that breaks off leaves the old manifest whole."""
    before = Artifact.open(folder).manifest

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_manifest(folder, dataclasses.replace(before, name="new"))
    assert Artifact.open(folder).manifest == before


def test_a_manifest_is_json_that_any_program_reads(folder):
    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    for criterion in set(Criterion) - {Criterion.GATE}:
        for threshold in (criterion.never, criterion.always):
            artifact = Artifact.open(folder).with_rule(ExitRule(criterion, (threshold,)), {})
            artifact.save()
            json.loads((folder / "manifest.json").read_text(), parse_constant=refuse)
            assert Artifact.open(folder) == artifact


def test_a_rule_keeps_its_temperatures_and_gates_on_disk(folder):
    manifest = Artifact.open(folder).manifest
    fitted = gates(2, manifest.architecture.classes)
    for rule in (ExitRule("margin", (0.5,), (1.5, 0.5)), ExitRule("gate", (0.5,), (1.5, 0.5), fitted)):
        Artifact.open(folder).with_rule(rule, {}).save()
        assert Artifact.open(folder).manifest.rule == rule


def test_a_rule_of_thresholds_alone_is_written_as_it_always_was(folder):
    Artifact.open(folder).with_rule(ExitRule("margin", (0.5,)), {}).save()
    written = json.loads((folder / "manifest.json").read_text())["exit_rule"]
    assert written == {"criterion": "margin", "thresholds": [0.5]}


@pytest.mark.parametrize(
    "rule",
    [
        {"criterion": "margin", "thresholds": [0.5], "temperatures": [1.0]},
        {"criterion": "margin", "thresholds": [0.5], "temperatures": ["1.0", 1.0]},
        {"criterion": "gate", "thresholds": [0.5]},
        {"criterion": "gate", "thresholds": [0.5], "gates": [{"weights": [1.0], "bias": 0.0}]},
        {"criterion": "gate", "thresholds": [0.5], "gates": [{"weights": [1.0]}]},
    ],
)
def test_a_manifest_with_temperatures_or_gates_that_are_none_is_damage(folder, rule):
    raw = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**raw, "exit_rule": rule}))
    with pytest.raises(DamagedData, match=r"(?s)incomplete or wrong: .*(temperature|gate)"):
        Artifact.open(folder)


RANGES = FixedRanges((0.0, -1.0, 0.0, 0.0, -0.5), (1.0, 2.0, 0.0, 3.0, 0.25))


def test_calibrated_ranges_come_back_and_a_manifest_without_any_names_none(folder):
    manifest = Artifact.open(folder).manifest
    assert "codec_ranges" not in json.loads((folder / "manifest.json").read_text())
    ranged = dataclasses.replace(manifest, codec_ranges={1: RANGES})
    write_manifest(folder, ranged)
    assert Artifact.open(folder).manifest == ranged
    assert ranged.content_hash == manifest.content_hash


@pytest.mark.parametrize(
    "ranges",
    [
        {"0": {"low": [0.0], "high": [1.0]}},
        {"2": {"low": [0.0] * 5, "high": [1.0] * 5}},
        {"one": {"low": [0.0] * 5, "high": [1.0] * 5}},
        {"1": {"low": [0.0] * 4, "high": [1.0] * 4}},
        {"1": {"low": [0.0] * 5, "high": [-1.0] * 5}},
        {"1": {"low": [0.0] * 5}},
        {"1": [1.0]},
        [],
    ],
)
def test_ranges_that_do_not_fit_the_cuts_are_damage(folder, ranges):
    edited(folder, lambda raw: raw.update(codec_ranges=ranges))
    with pytest.raises(DamagedData, match=r"manifest\.json"):
        Artifact.open(folder)
