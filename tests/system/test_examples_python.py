"""Each example prints what its docstring says, against the programs that it tells the reader to start."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_programs import ROOT, program

EXAMPLES = ROOT / "examples"
# The first word of a line that an example prints.
PRINTED = re.compile(r"^    ((?:/branchynet|lenet-|[A-Z]).*)$", flags=re.M)


@pytest.fixture(scope="module")
def edge() -> Iterator[str]:
    with (
        program("cloud_node", "--port", "0") as cloud,
        program("edge_node", "--port", "0", "--cloud", f"127.0.0.1:{cloud.ready()}", "--offload-timeout-ms", "20000")
        as edge,
    ):  # fmt: skip
        yield f"127.0.0.1:{edge.ready()}"


@pytest.fixture(scope="module")
def lonely_edge() -> Iterator[str]:
    with program("edge_node", "--port", "0", "--cloud", "") as edge:
        yield f"127.0.0.1:{edge.ready()}"


def expected(example: Path) -> list[str]:
    docstring = ast.get_docstring(ast.parse(example.read_text()), clean=False)
    assert docstring
    return PRINTED.findall(docstring.partition("Expected output")[2])


def run(example: Path, target: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(example), target],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["tritonclient_hello.py", "reflection_only.py"])
def test_an_example_prints_what_it_promises(edge: str, name: str) -> None:
    lines = expected(EXAMPLES / name)
    assert len(lines) >= 6
    assert run(EXAMPLES / name, edge) == lines


@pytest.mark.parametrize(
    ("name", "mark"), [("tritonclient_hello.py", "fallback"), ("reflection_only.py", "PLACE_FALLBACK")]
)
def test_without_a_cloud_an_example_shows_the_fallback(lonely_edge: str, name: str, mark: str) -> None:
    told = [line.split() for line in run(EXAMPLES / name, lonely_edge)[-6:]]
    promised = [line.split() for line in expected(EXAMPLES / name)[-6:]]
    assert told[4][-3:] == ["exit", "0", f"({mark})"]
    assert told[:4] + told[5:] == promised[:4] + promised[5:]


def test_the_reflection_example_uses_no_generated_code() -> None:
    text = (EXAMPLES / "reflection_only.py").read_text()
    assert "_pb2" not in text
    assert "protos" not in text
