"""`branchynet demo`: its figures, its plot, and that no process is left behind however it ends."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from running_programs import Program, program, until

from simulations.model.request_report import Report

SETUPS = ["early exit + split", "edge only", "cloud only"]
KEYS = {*Report(1.0).figures(), "setup", "link_bytes_per_request"}


def demo(out: Path, *arguments: str) -> tuple[str, ...]:
    return ("cli.main", "demo", "--out", str(out), *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """Where a demonstration wrote, what it printed, and its figures."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    with program(*demo(out, "--images", "60", "--json", str(out / "copy.json"))) as running:
        code, printed, err = running.wait(110)
        assert (code, err) == (0, "")
        running.assert_nothing_left(within_s=1)
    return out, printed, json.loads((out / "demo.json").read_text())


def test_the_figures_have_the_documented_keys(finished: tuple[Path, str, dict[str, Any]]) -> None:
    out, _, figures = finished
    assert set(figures) == {"rows"}
    assert [row["setup"] for row in figures["rows"]] == SETUPS
    for row in figures["rows"]:
        assert set(row) == KEYS
    assert json.loads((out / "copy.json").read_text()) == figures


def test_the_figures_make_sense(finished: tuple[Path, str, dict[str, Any]]) -> None:
    split, edge, cloud = finished[2]["rows"]
    for row in (split, edge, cloud):
        assert row["requests"] == row["answered"] == 60
        assert 0.7 < row["accuracy"] <= 1
        assert sum(row["share_by_exit"].values()) == pytest.approx(1)
        assert all(share > 0 for share in row["share_by_exit"].values())
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
        assert row["throughput_per_s"] > 0
    assert set(split["share_by_exit"]) == {"edge/0", "cloud/1"}
    assert set(edge["share_by_exit"]) == {"edge/0"}
    assert set(cloud["share_by_exit"]) == {"cloud/0", "cloud/1"}
    # The same network on the same images, whatever runs where.
    assert split["accuracy"] == cloud["accuracy"]
    assert split["share_by_exit"]["edge/0"] == cloud["share_by_exit"]["cloud/0"]
    # Raw images have 784 bytes each; a ping of gRPC's own may cross an idle link.
    assert edge["link_bytes_per_request"] < 2
    assert 784 < cloud["link_bytes_per_request"] < 784 + 400
    assert 0 < split["link_bytes_per_request"] < 4 * 5 * 15 * 15
    # Each request of the third setup crosses the link, 40 ms to and fro, and none of the second does.
    assert cloud["latency_ms"]["p50"] > 38
    assert edge["latency_ms"]["p50"] < cloud["latency_ms"]["p50"]


def test_the_table_shows_the_figures(finished: tuple[Path, str, dict[str, Any]]) -> None:
    _, printed, figures = finished
    tenths = re.findall(r"\d+\.\d\b", printed)
    for row in figures["rows"]:
        assert row["setup"] in printed
        assert f"{100 * row['accuracy']:.1f} %" in printed
        # The file's figure is rounded already: rounded again it may end one higher than the table's.
        assert row["latency_ms"]["p50"] in [pytest.approx(float(shown), abs=0.051) for shown in tenths]
    assert "10 Mbit/s up, 40 ms round trip" in printed
    assert "demo.json" in printed


def test_the_plot_is_a_picture(finished: tuple[Path, str, dict[str, Any]]) -> None:
    with Image.open(finished[0] / "demo.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1_000
        assert picture.height > 300
        colours = picture.convert("RGB").getcolors(2**24)
    assert colours is not None
    assert len(colours) > 20


def test_every_part_has_a_log(finished: tuple[Path, str, dict[str, Any]]) -> None:
    names = {path.name for path in (finished[0] / "logs").iterdir()}
    assert names == {
        *("cloud-0.log", "edge-0.log", "edge-1.log", "link-0.log", "link-1.log"),
        *("edge-0.plan.json", "edge-1.plan.json"),
    }


def until_edges_serve(running: Program, out: Path, edges: int = 1) -> None:
    logs = [out / "logs" / f"edge-{index}.log" for index in range(edges)]
    until(
        lambda: all(log.exists() and "ready" in log.read_text() for log in logs) or running.process.poll() is not None,
        lambda: "the edges do not serve",
    )


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with program(*demo(tmp_path, "--images", "1000", "--edges", "1")) as running:
        until_edges_serve(running, tmp_path)
        assert len(running.family()) == 3
        running.send(signal.SIGINT)
        code, _, err = running.wait()
        running.assert_nothing_left(within_s=1)
    assert code != 0
    assert "Traceback" not in err
    assert not (tmp_path / "demo.json").exists()


def test_the_parts_end_when_the_demonstration_is_killed(tmp_path: Path) -> None:
    """At that moment the cloud and the link serve, and the edge is still being loaded."""
    with program(*demo(tmp_path, "--edges", "1")) as running:
        until(lambda: len(running.family()) == 3, lambda: "not every part was started")
        running.send(signal.SIGKILL)
        running.wait()
        running.assert_nothing_left()


def test_an_edge_that_dies_ends_the_demonstration_by_name(tmp_path: Path) -> None:
    with program(*demo(tmp_path, "--images", "1000", "--edges", "1")) as running:
        until_edges_serve(running, tmp_path)
        (victim,) = [process for process in running.family() if "edge_node" in process.cmdline()]
        victim.kill()
        code, _, err = running.wait()
        running.assert_nothing_left(within_s=1)
    assert code not in (0, None)
    assert "edge-0" in err
    assert "Traceback" not in err
