"""`branchynet study drift`, and what `calibrate --tolerated-loss` prints and records, on the shipped sample."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.data.formats import write_idx
from branchynet.errors import InvalidInput
from branchynet.evaluation.calibrate import calibration_table, copy_with_rule
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.drift import Reference
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.risk_control import Loss, control_risk
from branchynet.exits.rules import Criterion, ExitRule
from cli.studies import drift
from cli.tables import guarantee

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(drift.drift)
FEW = ["--sample", "--images", "200", "--orders", "2", "--clean-orders", "3"]


@pytest.fixture(scope="module")
def table(sample: Dataset) -> OutcomeTable:
    artifact = Artifact.open("lenet-fashion")
    manifest, network = artifact.manifest, artifact.network()
    return measure_outcomes(network, manifest.cost, sample)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(zoo.find("lenet-fashion"), tmp_path / "lenet-fashion"))


def test_drift_prints_a_row_for_each_corruption_and_draws_it(table: OutcomeTable, copied: Path, tmp_path: Path) -> None:
    artifact = Artifact.open(copied)
    artifact.with_calibration(Reference.of(table, artifact.manifest.rule)).save()
    written, picture = tmp_path / "drift.json", tmp_path / "drift.png"
    ended = CliRunner().invoke(app, [str(copied), *FEW, "--json", str(written), "--plot", str(picture)])
    assert ended.exit_code == 0, ended.output
    figures = json.loads(written.read_text())
    rows = {(row["corruption"], row["severity"]): row for row in figures["rows"]}
    assert len(rows) == 1 + 4 * 5
    assert rows["clean", 0]["alarms"] == 0
    assert rows["noise", 5]["alarms"] == rows["contrast", 5]["alarms"] == 1
    assert rows["noise", 5]["accuracy"] < rows["clean", 0]["accuracy"] - 0.3
    assert rows["noise", 5]["macs"] > 1.2 * figures["budget_macs"]
    assert rows["noise", 5]["retuned_macs"] < rows["noise", 5]["macs"]
    assert figures["budget_macs"] == artifact.manifest.results["calibration"]["macs"]
    assert "noise 5" in ended.output
    assert f"{100 * rows['noise', 5]['accuracy']:.2f}" in ended.output
    assert min(np.asarray(Image.open(picture)).shape[:2]) > 300


def test_without_a_record_the_held_out_images_are_measured(sample: Dataset, copied: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(write_idx(sample.images[:, 0]))
    (folder / "train-labels-idx1-ubyte").write_bytes(write_idx(sample.labels.astype(np.uint8)))
    manifest = Artifact.open(copied).manifest
    recipe = {**manifest.training["recipe"], "calibration_images": 500}
    Artifact.open(copied).with_fields(training={"recipe": recipe}, results={}).save()
    written = tmp_path / "drift.json"
    ended = CliRunner().invoke(app, [str(copied), "--data", str(tmp_path), *FEW, "--json", str(written)])
    assert ended.exit_code == 0, ended.output
    held_out = calibration_table(Artifact.open(copied), tmp_path)
    assert len(held_out.labels) == 500
    assert json.loads(written.read_text())["budget_macs"] == held_out.apply(manifest.rule).cost


def test_a_guarantee_is_printed_and_recorded(
    table: OutcomeTable, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = control_risk(table, Criterion.ENTROPY, 0.03, 0.9, Loss.NEW_ERRORS)
    guarantee.print_guarantee("lenet-fashion", found)
    said = " ".join(capsys.readouterr().out.split())
    assert "With confidence 0.9" in said
    assert "mean new-errors on new images like them is below 3 %" in said
    assert f"{found.certified} of {found.tried}" in said
    figures = guarantee.guarantee_figures("lenet-fashion", found)
    assert figures["guarantee"]["samples"] == 800
    assert figures["criterion"] == "entropy"
    copy_with_rule(Artifact.open("lenet-fashion"), copied, table, found.rule, found)
    manifest = Artifact.open(copied).manifest
    assert manifest.rule == found.rule
    assert manifest.results["calibration"]["guarantee"] == found.to_json()
    assert Artifact.open(copied).drift_reference == Reference.of(table, found.rule)


def test_that_nothing_could_be_proved_is_said(table: OutcomeTable, capsys: pytest.CaptureFixture[str]) -> None:
    hopeless = OutcomeTable(np.stack([-table.logits[1], table.logits[1]]), table.labels, table.costs)
    guarantee.print_guarantee("lenet-fashion", control_risk(hopeless, Criterion.ENTROPY, 0.01, 0.9, Loss.NEW_ERRORS))
    assert "No rule that leaves early could be proved" in capsys.readouterr().out


def test_a_rule_without_a_score_cannot_be_watched(copied: Path) -> None:
    Artifact.open(copied).with_rule(ExitRule(Criterion.PATIENCE, (1.0,)), {}).save()
    ended = CliRunner().invoke(app, [str(copied), *FEW])
    assert isinstance(ended.exception, InvalidInput)
    assert "leaves by patience, which has no score to watch" in str(ended.exception)
