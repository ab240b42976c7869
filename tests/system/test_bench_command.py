"""`branchynet bench` as it is typed, against real nodes in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from running_nodes import Split, closed_port
from running_programs import ROOT
from typer.testing import CliRunner

from branchynet.errors import InvalidInput
from cli.main import app
from simulations.model.request_report import Report

KEYS = {
    *Report(1.0).figures(),
    *("target", "role", "protocol", "model", "content_hash", "loop", "rate_per_s", "arrivals", "concurrency", "batch"),
    *("policy", "warm_up", "interrupted", "sent_late_ms", "errors", "histogram", "images"),
}


@contextlib.asynccontextmanager
async def bench(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "bench", *arguments),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
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


async def test_an_edge_is_measured_and_the_figures_are_written(split: Split, tmp_path: Path) -> None:
    file = tmp_path / "new" / "bench.json"
    asked = (split.edge.target, "--rate", "100", "--requests", "50", "--warm-up", "5", "--json", str(file))
    async with bench(*asked) as process:
        code, out, err = await finished(process)
    assert (code, err) == (0, "")
    figures: dict[str, Any] = json.loads(file.read_text())
    assert set(figures) == KEYS
    assert (figures["requests"], figures["answered"], figures["lost"]) == (50, 50, 0)
    assert (figures["role"], figures["protocol"], figures["loop"]) == ("edge", "branchynet", "open")
    assert 0.7 < figures["accuracy"] <= 1
    assert sum(count for _, _, count in figures["histogram"]) == 50
    for text in (
        "latency p99.9",
        "latency max",
        "goodput",
        "answered by edge/0",
        "answered by cloud/1",
        "█",
        "throughput",
    ):
        assert text in out


async def test_a_cloud_is_measured_by_the_open_inference_protocol(split: Split, tmp_path: Path) -> None:
    asked = ("--concurrency", "2", "--requests", "6", "--batch", "8", "--protocol", "open-inference", "--random")
    async with bench(split.cloud.target, *asked, "--json", str(tmp_path / "bench.json")) as process:
        code, out, err = await finished(process)
    assert (code, err) == (0, "")
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert (figures["role"], figures["protocol"], figures["loop"]) == ("cloud", "open-inference", "closed")
    assert (figures["requests"], figures["by_place"]["cloud"], figures["accuracy"]) == (48, 48, None)
    assert (figures["images"], figures["policy"]) == ("random pixels", None)
    assert "48 images, 8 in a request" in out


async def test_ctrl_c_ends_it_in_order_and_shows_what_was_measured(split: Split, tmp_path: Path) -> None:
    asked = (split.edge.target, "--seconds", "600", "--rate", "50", "--json", str(tmp_path / "bench.json"))
    async with bench(*asked) as process:
        assert process.stdout is not None
        while b"answered" not in await asyncio.wait_for(process.stdout.readline(), 60):
            pass
        process.send_signal(signal.SIGINT)
        code, out, err = await finished(process)
    assert (code, err) == (130, "")
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["interrupted"]
    assert figures["requests"] == figures["answered"] > 0
    assert "stopped early" in out
    assert "latency p99.9" in out


async def test_nobody_there_is_code_2_with_the_address() -> None:
    with closed_port() as port:
        async with bench(f"127.0.0.1:{port}") as process:
            code, _, err = await finished(process)
    assert code == 2
    assert f"127.0.0.1:{port}" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "5", "--concurrency", "2"], "--rate 5 is an open loop and --concurrency 2 a closed one"),
        (["--protocol", "http"], "--protocol is 'http'; it must be branchynet or open-inference"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], message: str) -> None:
    error = CliRunner().invoke(app, ["bench", "127.0.0.1:1", *arguments]).exception
    assert isinstance(error, InvalidInput)
    assert message in str(error)
