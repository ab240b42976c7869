"""What a sweep leaves on disk: rows, a page that a browser draws without any network, pictures."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from plotly.graph_objects import Figure
from sweep_examples import BASE, measured

from cli.commands.simulate import write_sweep
from orchestrator.runs.sweep import run_sweep
from simulations.sweep import html_report
from simulations.sweep.axes import parse_axes
from simulations.sweep.best_plans import Sweep, by_setting
from simulations.sweep.results import BASELINES
from simulations.sweep.style import spread
from simulations.sweep.sweep import Halves, points_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome here")


def finished(*texts: str) -> Sweep:
    halves = Halves.of(measured())
    rows = run_sweep(points_of(parse_axes(texts), BASE, halves), halves, ray=False)
    return Sweep(rows, BASE, halves.reported.profile, (200, 200), 0.5)


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    return finished("uplink=0.25,2,20", "rtt=5,100", "cut=*", "threshold=*", "slowdown=1,8")


@pytest.fixture(scope="module")
def out(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "new" / "folder"
    paths = write_sweep(sweep, folder, "some <images>")
    assert sorted(paths) == sorted(folder.iterdir())
    return folder


@dataclass(frozen=True)
class Page:
    """*dom*: after the scripts have run. *console*: what they, and the browser about them, said."""

    dom: str
    console: list[str]


def opened(page: Path, profile: Path) -> Page:
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
            f"--user-data-dir={profile}",
            *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return Page(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])


def test_rows_can_be_read_back(sweep: Sweep, out: Path) -> None:
    table = pq.read_table(out / "results.parquet")
    assert table.to_pylist() == [row.flat() for row in sweep.rows]
    assert {"uplink_mbps", "rtt_ms", "cut", "thresholds", "accuracy", "selection_accuracy"} <= set(table.column_names)


@browser
def test_a_browser_draws_the_page(sweep: Sweep, out: Path, tmp_path: Path) -> None:
    page = opened(out / "report.html", tmp_path)
    assert page.console == []
    drawn = re.findall(r"<[^>]*js-plotly-plot[^>]*>", page.dom)
    names = {re.sub(r'.* id="([^"]+)".*', r"\1", tag) for tag in drawn}
    assert names == {"map-0", "map-1", "map-2", "map-3", "fronts"}
    assert page.dom.count('class="main-svg"') >= 5
    # Three values of the uplink, two round trips, two slowdowns; nothing to slide for the rest.
    assert page.dom.count('type="range"') == 3
    assert "some &lt;images&gt;" in page.dom
    rows = len(by_setting(sweep.rows)) * (len(BASELINES) + len(sweep.holdings()))
    assert page.dom.count("<tr") - page.dom.count('colspan="') >= rows


@browser
def test_an_error_in_the_page_would_be_seen(out: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        (out / "report.html").read_text().replace("show();\n</script>", "nothing_of_the_kind();</script>")
    )
    page = opened(broken, tmp_path / "profile")
    assert any("nothing_of_the_kind is not defined" in line for line in page.console)


@browser
@pytest.mark.parametrize(
    "planted", ['<img src="http://192.0.2.1/x.png">', '<script src="https://192.0.2.1/x.js"></script>']
)
def test_a_request_to_the_network_would_be_refused_and_seen(out: Path, tmp_path: Path, planted: str) -> None:
    asking = tmp_path / "asking.html"
    asking.write_text((out / "report.html").read_text().replace("</body>", f"{planted}</body>"))
    page = opened(asking, tmp_path / "profile")
    assert any("192.0.2.1" in line and "Content Security Policy" in line for line in page.console)


def test_the_page_itself_names_nothing_to_fetch(out: Path) -> None:
    text = (out / "report.html").read_text()
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert "://" not in own
    assert "<link" not in own
    assert "src=" not in own


def test_a_name_cannot_break_out_of_the_page(sweep: Sweep, tmp_path: Path) -> None:
    html_report.write_report(sweep, tmp_path / "report.html", "</script><script>alert(1)</script>")
    assert "<script>alert(1)" not in (tmp_path / "report.html").read_text()


def test_the_plots_are_what_plotly_knows(sweep: Sweep) -> None:
    """Plotly's script ignores what it does not know; its Python classes do not."""
    for setting, rows in by_setting(sweep.rows).items():
        Figure(html_report._front_traces(rows, sweep), html_report._fronts_layout(sweep.rows))
        assert setting in by_setting(sweep.rows)
    for found in sweep.holdings().values():
        plot = html_report._map("title", [best for place, best in found.items() if place.slowdown == 1], sweep.stages)
        figure = Figure(plot["data"], plot["layout"])
        assert len(figure.data[0].z) == 2
        assert len(figure.data[0].z[0]) == 3


@pytest.mark.parametrize("name", ["fronts.png", "best_plans.png"])
def test_the_pictures_are_pictures(out: Path, name: str) -> None:
    with Image.open(out / name) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
        colours = picture.convert("RGB").getcolors(2**24)
    assert colours is not None
    assert len(colours) > 100


def test_a_single_point_makes_all_files(tmp_path: Path) -> None:
    assert all(path.stat().st_size > 1_000 for path in write_sweep(finished("cut=1"), tmp_path, "images"))


def test_spread_keeps_the_ends() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0], 3) == [1, 3, 5]
    assert spread([1.0, 2.0], 4) == [1, 2]
    assert spread([1.0], 4) == [1]
