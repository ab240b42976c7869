"""An evaluation is written into the manifest and found there again; nothing else of the artifact changes."""

import json

import pytest
from network_examples import random_network, save_artifact

from branchynet.artifact.artifact import Artifact
from branchynet.errors import DamagedData
from branchynet.evaluation.machine import describe_machine
from branchynet.evaluation.recorded_results import record, summary
from branchynet.exits.outcomes import wilson_interval
from branchynet.models.architectures import Architecture

FIGURES = {
    "artifact": "example",
    "dataset": "mnist",
    "images": 10_000,
    "command": "branchynet evaluate example --engine=eager",
    "engine": "eager",
    "machine": {"cpu": "a processor", "cores": 2},
    "trunk": {"accuracy": 0.91, "macs": 2_000_000, "ms": 1.23456789},
    "early_exit": {
        "accuracy": 0.9, "exit_shares": [0.75, 0.25], "macs": 800_000.0, "exit_accuracies": [0.8, 0.9],
        "gain_ms": 2.0, "ms": 0.61728394,
    },
    "baselines": {},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    save_artifact(tmp_path, random_network())
    return tmp_path


def test_a_record_keeps_the_network_its_hash_and_its_other_results(folder):
    before = Artifact.open(folder).manifest
    recorded = record(Artifact.open(folder), FIGURES, {"static": "small"})
    artifact = Artifact.open(folder)
    after, network = artifact.manifest, artifact.network()
    assert artifact == recorded
    assert (after.content_hash, after.rule, after.training) == (before.content_hash, before.rule, before.training)
    assert after.baselines == {"static": "small"}
    assert network.exits == 2
    test = after.results["test"]
    assert (test["images"], test["accuracy"], test["trunk_accuracy"]) == (10_000, 0.9, 0.91)
    assert (test["macs"], test["trunk_macs"], test["exit_shares"]) == (800_000, 2_000_000, [0.75, 0.25])
    assert test["evaluation"]["trunk"]["ms"] == 1.23457, "six digits are enough"
    assert test["evaluation"]["machine"] == FIGURES["machine"]
    assert test["evaluation"]["command"] == FIGURES["command"]


def test_recording_the_same_twice_changes_nothing(folder):
    record(Artifact.open(folder), FIGURES, {})
    text = (folder / "manifest.json").read_text()
    record(Artifact.open(folder), FIGURES, {})
    assert (folder / "manifest.json").read_text() == text
    assert "baselines" not in json.loads(text)


def test_a_summary_is_read_from_the_manifest(folder):
    record(Artifact.open(folder), FIGURES, {})
    row = summary(Artifact.open(folder))
    assert (row["name"], row["network"], row["dataset"], row["criterion"]) == ("example", "b-lenet", "mnist", "entropy")
    assert (row["accuracy"], row["interval"]) == (0.9, list(wilson_interval(0.9, 10_000)))
    assert (row["gain_macs"], row["gain_ms"], row["engine"]) == (2.5, 2.0, "eager")
    assert row["weight_bytes"] == sum(path.stat().st_size for path in folder.glob("stage-*"))


def test_a_summary_says_none_for_what_was_never_measured(folder):
    row = summary(Artifact.open(folder))
    assert [row[key] for key in ("images", "interval", "trunk_accuracy", "gain_macs", "gain_ms")] == [None] * 5


def test_a_network_without_branches_gains_nothing_over_itself(tmp_path):
    plain = Architecture("lenet-small", "plain")
    save_artifact(tmp_path, random_network(plain), plain)
    record(Artifact.open(tmp_path), FIGURES, {})
    row = summary(Artifact.open(tmp_path))
    assert row["accuracy"] == 0.9
    assert (row["gain_macs"], row["gain_ms"]) == (None, None)


def test_baselines_that_no_program_knows_are_refused(folder):
    raw = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(raw | {"baselines": {"golden": "x"}}))
    with pytest.raises(DamagedData, match="golden"):
        Artifact.open(folder)


def test_the_machine_is_described_without_dates_or_names():
    machine = describe_machine()
    assert {"cpu", "cores", "system", "python", "torch", "numpy"} <= set(machine)
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert describe_machine() == machine
