"""`branchynet demo --edge …`: the table and the soak test over nodes that somebody else runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from running_nodes import CLEAR, Split
from running_programs import ROOT
from typer.testing import CliRunner

from branchynet.errors import InvalidInput
from cli.main import app
from simulations.link.control import serve_control
from simulations.link.proxy import LinkProxy
from simulations.model.request_report import Report


@contextlib.asynccontextmanager
async def demo(*arguments: str, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "demo", *arguments),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def finished(process: asyncio.subprocess.Process, within_s: float = 60) -> tuple[int | None, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), within_s)
    return process.returncode, out.decode(), err.decode()


async def test_the_table_is_measured_over_nodes_that_run(split: Split, tmp_path: Path) -> None:
    async with serve_control(split.link, "127.0.0.1", 0) as port:
        attached = ("--edge", split.edge.target, "--link-control", f"127.0.0.1:{port}")
        async with demo(*attached, "--images", "50", "--out", str(tmp_path)) as process:
            code, out, err = await finished(process)
    assert (code, err) == (0, "")
    assert "50 Fashion-MNIST test images, 1 edges, no limit up, 0 ms round trip" in out
    rows = json.loads((tmp_path / "demo.json").read_text())["rows"]
    assert [row["setup"] for row in rows] == ["early exit + split", "edge only", "cloud only"]
    assert rows[1]["link_bytes_per_request"] < 2
    assert 784 < rows[2]["link_bytes_per_request"] < 784 + 400
    assert (tmp_path / "demo.png").exists()
    assert not (tmp_path / "logs").exists()


async def test_a_soak_test_ends_at_ctrl_c_with_its_sum(split: Split, tmp_path: Path) -> None:
    """The addresses come from the environment, as they do in a container."""
    arguments = ("--soak", "600", "--rate", "50", "--images", "20", "--json", str(tmp_path / "copy.json"))
    environment = {"BRANCHYNET_DEMO_EDGE": split.edge.target, "BRANCHYNET_DEMO_OUT": str(tmp_path)}
    async with demo(*arguments, **environment) as process:
        assert process.stdout is not None
        while b" sent: " not in await asyncio.wait_for(process.stdout.readline(), 60):
            pass
        process.send_signal(signal.SIGINT)
        code, out, err = await finished(process)
    assert (code, err) == (0, "")
    assert "no request was lost, no answer was wrong" in out
    figures = json.loads((tmp_path / "soak.json").read_text())
    assert figures["requests"] == figures["answered"] >= 50
    assert set(figures) == {*Report(1.0).figures(), "rate_per_s", "by_edge"}
    assert figures["by_edge"] == {split.edge.target: figures["answered"]}
    assert figures["accuracy"] > 0.7
    assert json.loads((tmp_path / "copy.json").read_text()) == figures


async def test_a_lost_request_is_code_1_and_said(split: Split, tmp_path: Path) -> None:
    """The only edge goes away for longer than a request waits."""
    async with LinkProxy("127.0.0.1", split.edge.port, CLEAR) as way:
        arguments = ("--edge", f"127.0.0.1:{way.port}", "--soak", "3", "--rate", "20", "--images", "20")
        async with demo(*arguments, "--out", str(tmp_path)) as process:
            assert process.stdout is not None
            while b"sending" not in await asyncio.wait_for(process.stdout.readline(), 60):
                pass
            await asyncio.sleep(1.0)
            way.cut()
            code, out, _ = await finished(process)
    assert code == 1
    figures = json.loads((tmp_path / "soak.json").read_text())
    assert 0 < figures["lost"] == figures["requests"] - figures["answered"]
    assert f"requests lost: {figures['lost']}, answers wrong: 0" in out
    assert "UNAVAILABLE" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--edge", "127.0.0.1:1"], "links' controls"),
        (["--edge", "127.0.0.1:1", "--link-control", "127.0.0.1:2", "--edges", "3"], "--edges"),
        (["--edge", "127.0.0.1:1", "--link-control", "127.0.0.1:2", "--rtt-ms", "3"], "--rtt-ms"),
        (["--link-control", "127.0.0.1:2"], "--link-control goes with --edge"),
        (["--soak", "5", "--edges", "1"], "edges is 1"),
    ],
)
def test_options_that_cannot_be_met_are_refused(arguments: list[str], message: str) -> None:
    error = CliRunner().invoke(app, ["demo", *arguments]).exception
    assert isinstance(error, InvalidInput)
    assert message in str(error)
