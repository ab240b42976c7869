"""`branchynet …`, run in this process as the installed command runs: what it prints, writes and refuses."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running_nodes import closed_port, in_process
from running_programs import ROOT, program
from typer.testing import CliRunner

import branchynet
from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.data.formats import write_idx
from branchynet.exits.rules import Criterion, softmax
from cli.main import app
from edge_node.settings import EdgeSettings

Command = Callable[..., "Ended"]
COMMANDS = (
    *("demo", "edge", "cloud", "classify", "bench", "profile", "plan", "calibrate"),
    *("train", "attach", "evaluate", "models", "simulate", "fleet", "study"),
)
STUDIES = ("criteria", "codecs", "drift", "paper", "validate", "replay")
EVALUATION_KEYS = {
    "accuracy",
    "interval",
    "thresholds",
    "exit_shares",
    "ms",
    "macs",
    "macs_without_heads",
    "gain_ms",
    "gain_ms_without_heads",
    "gain_macs",
    "gain_macs_without_heads",
}
ANSWER_KEYS = {
    "image",
    "label",
    "class",
    "probabilities",
    "exit",
    "where",
    "edge_ms",
    "network_ms",
    "cloud_ms",
    "uplink_bytes",
    "fallback_reason",
}


class Ended:
    """How a command ended."""

    def __init__(self, code: int | str | None, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.words = " ".join(out.split())


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the function behind the console script `branchynet`."""
    (script,) = entry_points(group="console_scripts", name="branchynet")
    main = script.load()
    monkeypatch.delenv("BRANCHYNET_DATA", raising=False)
    monkeypatch.delenv("BRANCHYNET_EDGE", raising=False)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["branchynet", *arguments])
        code: int | str | None = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return run


@pytest.fixture(scope="module")
def edge() -> Iterator[str]:
    """The target of a real edge whose cloud is real, too."""
    with (
        program("cloud_node", "--port", "0") as cloud,
        program("edge_node", "--port", "0", "--cloud", f"127.0.0.1:{cloud.ready()}") as running,
    ):
        yield f"127.0.0.1:{running.ready()}"


def test_help_lists_every_command(command: Command) -> None:
    ended = command("--help")
    assert ended.code == 0
    for name in COMMANDS:
        assert f"│ {name} " in ended.out


@pytest.mark.parametrize(
    "words", [*([name] for name in COMMANDS if name != "study"), *(["study", name] for name in STUDIES)], ids=" ".join
)
def test_the_help_of_a_command_shows_two_examples_of_it(words: list[str]) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert shown.output.count("branchynet " + " ".join(words)) >= 2


def test_no_command_imports_another() -> None:
    for path in (ROOT / "cli" / "commands").glob("*.py"):
        imported = set(re.findall(r"from cli\.(?:commands|studies)[.\w]* import (\w+)", path.read_text()))
        assert imported <= {"train_bottleneck_of", "soak_test"}, path.name


def test_the_edge_command_has_the_flags_of_the_edge_program(command: Command) -> None:
    ended = command("edge", "--help")
    assert ended.code == 0
    assert "usage: branchynet edge" in ended.words
    for name in EdgeSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in ended.words
    refused = command("edge", "--artifact", "resnet-5000")
    assert refused.code == 2
    assert "branchynet edge: 'resnet-5000'" in refused.err


def test_version_is_that_of_the_package(command: Command) -> None:
    assert command("--version").words == f"branchynet {branchynet.__version__}"


def test_the_shipped_sample_is_classified(command: Command, edge: str, sample: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "new" / "answers.json"
    ended = command("classify", "--edge", edge, "--sample", "20", "--json", str(file))
    assert (ended.code, ended.err) == (0, "")
    manifest = Artifact.open("lenet-fashion").manifest
    written = json.loads(file.read_text())
    assert (written["model"], written["content_hash"]) == (manifest.name, manifest.content_hash)
    expected = in_process(sample.images[:20])
    probabilities = softmax(expected.logits)
    answers = written["answers"]
    assert len(answers) == 20
    for position, answer in enumerate(answers):
        assert set(answer) == {*ANSWER_KEYS, "true_class"}
        assert answer["label"] == expected.logits[position].argmax()
        assert answer["class"] == manifest.labels[answer["label"]]
        assert answer["class"] in ended.out
        assert answer["exit"] == expected.exits[position]
        assert answer["probabilities"] == pytest.approx(probabilities[position].tolist(), abs=1e-4)
        assert answer["where"] == ("edge" if answer["exit"] == 0 else "cloud")
        assert (answer["uplink_bytes"] > 0) == (answer["where"] == "cloud")
    assert {answer["where"] for answer in answers} == {"edge", "cloud"}


def test_pictures_are_scaled_and_classified(command: Command, edge: str, sample: Dataset, tmp_path: Path) -> None:
    plain, large, inverted = tmp_path / "plain.png", tmp_path / "large.png", tmp_path / "inverted.png"
    pixels = sample.images[0, 0]
    Image.fromarray(pixels).save(plain)
    Image.fromarray(pixels).resize((280, 280)).convert("RGB").save(large)
    Image.fromarray(255 - pixels).save(inverted)
    file = tmp_path / "answers.json"

    def labels(*arguments: str) -> list[int]:
        ended = command("classify", "--edge", edge, "--json", str(file), *arguments)
        assert ended.code == 0
        return [answer["label"] for answer in json.loads(file.read_text())["answers"]]

    expected = int(in_process(sample.images[:1]).logits[0].argmax())
    assert labels(str(plain), str(large)) == [expected, expected]
    assert labels("--invert", str(inverted)) == [expected]
    assert [answer["image"] for answer in json.loads(file.read_text())["answers"]] == ["inverted.png"]
    turned, clear = tmp_path / "turned.jpg", tmp_path / "clear.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).rotate(90).save(turned, exif=exif, quality=100)
    white = np.full_like(pixels, 255)
    Image.fromarray(np.dstack([white, white, white, pixels])).save(clear)
    assert labels("--ground", "black", str(turned), str(clear)) == [expected, expected]


def test_policy_rule_and_environment_are_taken(
    command: Command, edge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "answers.json"
    monkeypatch.setenv("BRANCHYNET_EDGE", edge)

    def exits(*arguments: str) -> set[tuple[int, str]]:
        assert command("classify", "--sample", "8", "--json", str(file), *arguments).code == 0
        return {(answer["exit"], answer["where"]) for answer in json.loads(file.read_text())["answers"]}

    assert exits("--threshold", "0") == {(1, "cloud")}
    assert exits("--threshold", "1e9") == {(0, "edge")}
    assert exits("--criterion", "max-probability", "--threshold", "1") == {(1, "cloud")}
    assert exits("--threshold", "0", "--policy", "edge-only") == {(0, "edge")}
    assert exits("--threshold", "1e9", "--policy", "cloud-only") == {(0, "cloud")}
    assert exits("--accuracy-target", "0") == {(0, "edge")}


MISTAKES: dict[str, tuple[list[str], str]] = {
    "neither pictures nor a sample": (["classify"], "--sample"),
    "no picture": (["classify", __file__], "not an image"),
    "half a picture": (["classify", "half.png"], "half.png"),
    "a ground that is no colour": (["classify", "half.png", "--ground", "dirt"], "'dirt'"),
    "an inverted sample": (["classify", "--sample", "1", "--invert"], "--invert and --ground are for image files"),
    "a folder as picture": (["classify", "folder"], "folder"),
    "figures to nowhere": (["classify", "--sample", "1", "--json", "half.png/answers.json"], "half.png"),
    "two thresholds": (["classify", "--sample", "1", "--threshold", "1", "--threshold", "2"], "2 thresholds"),
    "threshold is NaN": (["classify", "--sample", "1", "--threshold", "nan"], "nan"),
    "an accuracy that no rule has": (["classify", "--sample", "1", "--accuracy-target", "0.999"], "the best there is"),
    "unknown artifact": (["evaluate", "--artifact", "resnet-5000"], "lenet-fashion"),
    "unknown recipe": (["train", "--recipe", "resnet-5000"], "lenet-fashion"),
    "workers for a bottleneck": (["train", "--bottleneck", "--workers", "2"], "--workers is not for --bottleneck"),
    "no such data folder": (["evaluate", "--data", "nowhere"], "nowhere"),
    "demo of no artifact": (["demo", "--artifact", "resnet-5000"], "resnet-5000"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_with_2_and_is_named(
    command: Command, edge: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mistake: str
) -> None:
    monkeypatch.setenv("BRANCHYNET_EDGE", edge)
    monkeypatch.chdir(tmp_path)
    picture = io.BytesIO()
    Image.effect_noise((300, 300), 50).save(picture, "png")
    Path("half.png").write_bytes(picture.getvalue()[:20_000])
    Path("folder").mkdir()
    arguments, word = MISTAKES[mistake]
    ended = command(*arguments)
    assert ended.code == 2
    assert word in ended.err


def test_an_edge_that_is_not_there_is_named(command: Command) -> None:
    with closed_port() as port:
        ended = command("classify", "--edge", f"127.0.0.1:{port}", "--sample", "1")
    assert ended.code == 2
    assert str(port) in ended.err


def test_evaluate_writes_the_documented_keys(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    ended = command("evaluate", "--sample", "--timing-images", "20", "--passes", "1", "--json", str(file))
    assert (ended.code, ended.err) == (0, "")
    figures: dict[str, Any] = json.loads(file.read_text())
    assert {"artifact", "dataset", "images", "engine", "trunk", "early_exit"} <= set(figures)
    assert (figures["artifact"], figures["dataset"], figures["images"]) == ("lenet-fashion", "fashion-mnist", 1000)
    trunk, early = figures["trunk"], figures["early_exit"]
    assert {"accuracy", "ms", "macs"} <= set(trunk)
    assert set(early) >= EVALUATION_KEYS
    low, high = early["interval"]
    assert 0.8 < low < early["accuracy"] < high < 1
    assert sum(early["exit_shares"]) == pytest.approx(1, abs=1e-5)
    assert early["macs_without_heads"] < early["macs"] < trunk["macs"]
    assert early["gain_macs"] == pytest.approx(trunk["macs"] / early["macs"], rel=0.01)
    assert early["gain_ms"] == pytest.approx(trunk["ms"] / early["ms"], rel=0.01)
    assert early["gain_macs_without_heads"] > early["gain_macs"] > 1
    assert f"{100 * early['accuracy']:.2f}" in ended.out
    assert f"{early['gain_macs']:.2f}x" in ended.out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,300 images for training and 200 to test: a bright bar for each class, on noise."""
    folder = tmp_path_factory.mktemp("data") / "fashion-mnist"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 5_300), ("t10k", 200)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = generator.integers(0, 120, (count, 28, 28), dtype=np.uint8)
        for label in range(10):
            images[labels == label, 2 * label + 4 : 2 * label + 6, 6:22] = 250
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(write_idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(write_idx(labels))
    return folder.parent


def test_an_artifact_is_trained_evaluated_and_calibrated(command: Command, data: Path, tmp_path: Path) -> None:
    run, trained, calibrated = tmp_path / "run", tmp_path / "bars", tmp_path / "frugal"
    arguments = ["train", "--recipe", "lenet-fashion", "--trunk-epochs", "1", "--joint-epochs", "1", "--threads", "1"]
    arguments += ["--data", str(data), "--run", str(run), "--out", str(trained)]
    first = command(*arguments)
    assert (first.code, first.err) == (0, "")
    assert "300 images to train on, 5,000 held out" in first.words
    manifest = Artifact.open(trained).manifest
    assert manifest.name == "bars"
    assert manifest.training["recipe"]["trunk_epochs"] == 1
    assert manifest.results["test"]["images"] == 200

    again = command(*arguments)
    assert again.code == 0
    assert Artifact.open(trained).manifest.content_hash == manifest.content_hash, "a finished run trained on"

    file = tmp_path / "table.json"
    options = ["--artifact", str(trained), "--data", str(data), "--json", str(file)]
    assert command("evaluate", *options, "--timing-images", "5", "--passes", "1").code == 0
    figures = json.loads(file.read_text())
    assert (figures["artifact"], figures["images"]) == ("bars", 200)
    assert figures["early_exit"]["accuracy"] == pytest.approx(manifest.results["test"]["accuracy"])

    chosen = ["--criterion", "margin", "--accuracy-drop", "50", "--temperature"]
    ended = command("calibrate", *options, *chosen, "--out", str(calibrated))
    assert (ended.code, ended.err) == (0, "")
    figures = json.loads(file.read_text())
    assert (figures["artifact"], figures["images"], figures["criterion"]) == ("bars", 5_000, "margin")
    copied = Artifact.open(calibrated).manifest
    assert copied.content_hash == manifest.content_hash
    assert copied.rule.criterion is Criterion.MARGIN
    assert list(copied.rule.thresholds) == figures["thresholds"]
    assert list(copied.rule.temperatures) == figures["temperatures"]
    assert len(copied.rule.temperatures) == 2
    assert "test" not in copied.results
    Artifact.open(calibrated).network()
    check_budgets(command, options, file, tmp_path)
    check_comparison(command, options, file, tmp_path)


def test_workers_train_together_and_go_on_where_one_stopped(command: Command, data: Path, tmp_path: Path) -> None:
    run, trained = tmp_path / "run", tmp_path / "bars"
    arguments = ["train", "--recipe", "lenet-fashion", "--trunk-epochs", "1", "--joint-epochs", "1", "--threads", "1"]
    arguments += ["--data", str(data), "--run", str(run), "--out", str(trained)]
    assert command(*arguments, "--phase", "trunk").code == 0
    ended = command(*arguments, "--workers", "2")
    assert ended.code == 0, ended.err
    phases = [json.loads(line)["phase"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert phases == ["trunk", "joint", "baseline"], "only the first worker writes, and each phase is trained once"
    assert Artifact.open(trained).manifest.results["test"]["images"] == 200


def check_budgets(command: Command, options: list[str], file: Path, folder: Path) -> None:
    """Instead of a drop, what may be spent; and the frontier it is chosen on."""
    assert command("calibrate", *options, "--macs", "600000", "--frontier").code == 0
    figures = json.loads(file.read_text())
    affordable = [accuracy for _, accuracy, macs in figures["frontier"] if macs <= 600_000]
    assert figures["macs"] <= 600_000
    assert figures["accuracy"] == max(affordable)

    drawn = folder / "frontier.png"
    ended = command("calibrate", *options, "--ms", "5", "--stage-ms", "1,4", "--plot", str(drawn), "--fix", "0=0.5")
    assert ended.code == 0
    figures = json.loads(file.read_text())
    assert figures["thresholds"] == [0.5]
    assert figures["ms"] == pytest.approx(1 + 4 * figures["exit_shares"][1])
    assert drawn.read_bytes().startswith(b"\x89PNG")

    for arguments, words in (
        (["--macs", "10"], "no rule keeps to a mean cost of 10; the cheapest one takes 220,150"),
        (["--ms", "1"], "--stage-ms or --profile, one of them"),
        (["--ms", "1", "--stage-ms", "1,2,3"], "has 2 stages"),
        (["--ms", "1", "--stage-ms", "1,x"], "1,x is not numbers"),
        (["--ms", "1", "--macs", "1"], "there is one budget"),
        (["--keep-rule", "--macs", "1"], "--keep-rule chooses no rule"),
        (["--fix", "first=1"], "--fix first=1 is not EXIT=THRESHOLD"),
    ):
        ended = command("calibrate", *options, *arguments)
        assert ended.code == 2
        assert words in " ".join(ended.err.split())


def check_comparison(command: Command, options: list[str], file: Path, folder: Path) -> None:
    """All criteria on the held-out images and on the test set."""
    drawn = folder / "trust.png"
    ended = command("study", "criteria", *options[1:], "--halvings", "2", "--plot", str(drawn))
    assert (ended.code, ended.err) == (0, "")
    assert "Test: 200 images" in ended.words
    assert "2 random halvings" in ended.words
    figures = json.loads(file.read_text())
    assert (figures["images"], figures["test_images"], figures["halvings"]) == (5_000, 200, 2)
    assert len(figures["criteria"]) == 9
    assert drawn.read_bytes().startswith(b"\x89PNG")
