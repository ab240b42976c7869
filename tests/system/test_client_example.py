"""`examples/classify.py` prints what its first lines say, for its own images and for pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from running_programs import ROOT, program

from branchynet.data.datasets import Dataset

EXAMPLE = ROOT / "examples" / "classify.py"
LINE = re.compile(r"(\S.*?) +([01]\.\d{3})  exit (\d)  (edge|cloud|fallback)")


@pytest.fixture(scope="module")
def edge() -> Iterator[str]:
    """The target of a real edge whose cloud is real, too."""
    with (
        program("cloud_node", "--port", "0") as cloud,
        program("edge_node", "--port", "0", "--cloud", f"127.0.0.1:{cloud.ready()}") as running,
    ):
        yield f"127.0.0.1:{running.ready()}"


def printed(edge: str, *pictures: Path) -> list[tuple[str, ...]]:
    """Class, probability, exit and place, line by line."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *map(str, pictures)],
        env={**os.environ, "BRANCHYNET_EDGE": edge, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return parsed(done.stdout)


def parsed(text: str) -> list[tuple[str, ...]]:
    matches = [LINE.fullmatch(line.strip()) for line in text.splitlines()]
    return [match.groups() for match in matches if match]


def test_it_prints_what_it_shows(edge: str) -> None:
    shown = parsed(EXAMPLE.read_text(encoding="utf-8"))
    answers = printed(edge)
    assert len(shown) == 6
    assert [(name, *rest) for name, _, *rest in answers] == [(name, *rest) for name, _, *rest in shown]
    for (_, probability, *_), (_, promised, *_) in zip(answers, shown, strict=True):
        assert float(probability) == pytest.approx(float(promised), abs=2e-3)


def test_it_takes_pictures(edge: str, sample: Dataset, tmp_path: Path) -> None:
    paths = [tmp_path / f"{position}.png" for position in range(6)]
    for image, path in zip(sample.images, paths, strict=False):
        Image.fromarray(image[0]).save(path)
    assert printed(edge, *paths) == printed(edge)
