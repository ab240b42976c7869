"""Commands where little is as it usually is, all of it together, as a container or a cron job may have it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running_programs import ROOT, program

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import load_sample
from branchynet.models.architectures import Architecture, build
from branchynet.network.normalisation import Normalisation
from branchynet.terminal import shown

# Blanks, brackets, another alphabet and a byte that is no text.
NAME = os.fsdecode(b"cam [front] [bold] :bug: \xc3\xbc\xff")
PROXY = "http://127.0.0.1:9"  # where nobody listens
ODD = {
    "LANG": "C",
    "PYTHONIOENCODING": "ascii",
    **dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"), PROXY),
    "PYTHONPATH": str(ROOT),
    "PATH": os.environ["PATH"],
    "OMP_NUM_THREADS": "1",
}


def stranger() -> list[str]:
    """What makes a command run under a number that no user has; nothing where the system forbids it."""
    prefix = ["unshare", "--user", "--map-user=54321"]
    with contextlib.suppress(OSError):
        if (
            shutil.which(prefix[0])
            and subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0
        ):
            return prefix
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an odd name, to work in."""
    (tmp_path / NAME).mkdir()
    (tmp_path / "tmp").mkdir()
    return tmp_path / NAME


def branchynet(folder: Path, *arguments: str | Path, redirection: str = "") -> subprocess.CompletedProcess[bytes]:
    command = [*stranger(), sys.executable, "-m", "cli.main", *map(str, arguments)]
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *command],
        cwd=folder, env={**ODD, "TMPDIR": str(folder.parent / "tmp")}, capture_output=True, timeout=110, check=False,
    )  # fmt: skip


def test_lists_and_help(folder: Path) -> None:
    done = branchynet(folder, "models", "--json", f"{NAME}.json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"lenet-fashion" in done.stdout
    assert "lenet-fashion" in {one["name"] for one in json.loads((folder / f"{NAME}.json").read_text())["models"]}
    done = branchynet(folder, "plan", "--help")
    assert (done.returncode, done.stderr, done.stdout.isascii()) == (0, b"", True)


@pytest.mark.parametrize(
    ("redirection", "code"), [(">&-", 0), (">&- 2>&- <&-", 0), ("| head -1", 0), (">/dev/full", 2)]
)
def test_figures_are_written_whatever_becomes_of_the_output(folder: Path, redirection: str, code: int) -> None:
    """The code is that of `head` where there is one."""
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    done = branchynet(folder, "models", "--json", f"{NAME}.json", redirection=redirection)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert json.loads((folder / f"{NAME}.json").read_text())["models"]


def test_an_artifact_is_evaluated_on_graphs_that_are_made_anew(folder: Path) -> None:
    architecture = Architecture("b-lenet", "code")
    network = build(architecture, Normalisation((0.5,), (0.5,)))
    labels = load_sample().classes
    Artifact.create(
        folder / NAME, network, name=NAME, architecture=architecture, labels=labels, dataset="fashion-mnist"
    )
    written = ("--json", f"{NAME}.json", "--plot", f"{NAME}.svg")
    short = ("--sample", "--engine", "onnx", "--timing-images", "3", "--passes", "1")
    done = branchynet(folder, "evaluate", folder / NAME, *short, *written)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert rb"cam [front] [bold] :bug: \xfc\xff on 1,000 images" in done.stdout
    assert b"Traceback" not in done.stderr
    if stranger():
        assert done.stderr.count(b"the user has no home folder") == 1
    figures = json.loads((folder / f"{NAME}.json").read_text())
    assert figures["artifact"] == shown(NAME)
    assert (folder / f"{NAME}.svg").read_bytes().startswith(b"<?xml")


@contextlib.contextmanager
def pair() -> Iterator[str]:
    with program("cloud_node", "--port", "0", env=ODD) as cloud:
        port = cloud.ready()
        with program("edge_node", "--port", "0", "--cloud", f"127.0.0.1:{port}", env=ODD) as edge:
            yield f"127.0.0.1:{edge.ready()}"


def test_images_are_classified_by_nodes_that_have_it_no_better(folder: Path) -> None:
    names = [os.fsdecode(b"[front] \xff.png"), "[rear] :bug:.png"]  # short enough for a line of the table
    for name, image in zip(names, load_sample().images, strict=False):
        Image.fromarray(np.squeeze(image)).save(folder / name)
    with pair() as edge:
        sample = branchynet(folder, "classify", "--sample", "5", "--edge", edge, "--json", f"{NAME}.json")
        files = branchynet(folder, "classify", *names, "--edge", edge, "--json", "files.json")
    for done, answers, written in ((sample, 5, f"{NAME}.json"), (files, 2, "files.json")):
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.isascii()
        found = json.loads((folder / written).read_text())["answers"]
        assert len(found) == answers
        assert {one["where"] for one in found} <= {"edge", "cloud"}
    assert [one["image"] for one in found] == names
    assert rb"[front] \xff.png" in files.stdout
    assert b"[rear] :bug:.png" in files.stdout
