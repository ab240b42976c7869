"""A sweep spread over processes gives what it gives in one, also when a process dies, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sweep_examples import BASE, measured

from branchynet import errors
from branchynet.errors import InvalidInput, SettingsError, Unavailable
from orchestrator.nodes.ray_cluster import ray_session
from orchestrator.runs.sweep import run_sweep
from simulations.sweep.axes import parse_axes
from simulations.sweep.results import Row
from simulations.sweep.sweep import Halves, Point, points_of

HALVES = Halves.of(measured())
# What Ray's workers call themselves, at work and between two chunks.
WORKERS = (["ray::run_points"], ["ray::IDLE"])


def sweep_points() -> list[Point]:
    return points_of(parse_axes(["uplink=0.5,5", "rtt=5,50", "cut=*", "threshold=0.1,1"]), BASE, HALVES)


def ray_processes() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if "ray" in " ".join(command_of(process))]


def command_of(process: psutil.Process) -> list[str]:
    """Its words; none of a process that is just ending."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def folders_of(pid: int) -> list[Path]:
    """Folders of Rays that the process *pid* started; others on this machine may have theirs."""
    return [session.parent for session in Path("/tmp").glob(f"ray-*/session_*_{pid}")]


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers unpickle these tests' measured network, whose module is next to this file."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("importable")
def test_with_and_without_ray_the_rows_are_the_same_even_if_a_worker_dies() -> None:
    points = sweep_points()
    counts: list[int] = []

    def on_rows(rows: list[Row]) -> None:
        if not counts:
            workers = [process for process in ray_processes() if command_of(process)[:1] in WORKERS]
            assert workers
            for worker in workers:
                worker.kill()
        counts.append(len(rows))

    spread = run_sweep(points, HALVES, on_rows=on_rows)
    assert spread == run_sweep(points, HALVES, ray=False)
    assert sum(counts) == len(points)
    assert len(counts) > 1
    assert not folders_of(os.getpid())
    deadline = time.monotonic() + 30
    while ray_processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not ray_processes()


def test_what_a_simulation_refuses_is_raised_as_it_is() -> None:
    points = sweep_points()
    wrong = [Point(p.setting, p.name, p.plan, p.scenario.model_copy(update={"plan": bad_plan(p)})) for p in points[:1]]
    with pytest.raises(InvalidInput, match="cut is 9") as caught:
        run_sweep(wrong, HALVES, ray=False)
    with pytest.raises(InvalidInput, match="cut is 9") as over_ray:
        run_sweep(wrong, HALVES)
    assert str(over_ray.value) == str(caught.value)


def bad_plan(point: Point) -> object:
    return point.scenario.plan.model_copy(update={"cut": 9})


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"ray is not installed: pip install 'branchynet\[simulate\]'"):
        run_sweep(sweep_points(), HALVES)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1"])
def test_a_cluster_that_is_not_there_is_said_at_once(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable, match="no Ray cluster at"), ray_session(address):
        pass
    assert time.monotonic() - started < 30, "Ray itself takes over a minute"


@pytest.mark.parametrize("address", ["127.0.0.1", "ray://127.0.0.1", "http://127.0.0.1:1", "127.0.0.1:99999", "local"])
def test_a_cluster_whose_address_is_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match=r"is no address: .*ray://HOST:PORT or auto"), ray_session(address):
        pass


@pytest.fixture
def session() -> Iterator[subprocess.Popen[str]]:
    """A program with Ray up, asleep; its user has no home to write to."""
    program = (
        "import time; from orchestrator.nodes.ray_cluster import ray_session\n"
        "with ray_session():\n    print('up', flush=True); time.sleep(60)"
    )
    homeless = {**os.environ, "HOME": "/proc/nowhere"}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=homeless) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        yield running
        running.kill()


def test_nobody_else_can_reach_it_and_it_dies_with_its_program(session: subprocess.Popen[str]) -> None:
    program = psutil.Process(session.pid)
    (folder,) = folders_of(program.pid)
    family = program.children(recursive=True)
    listening = {
        socket.laddr.ip
        for process in (program, *family)
        for socket in process.net_connections()
        if socket.status == psutil.CONN_LISTEN
    }
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1", "::1"}
    # Ray's agents go, too, but wait for a minute to tell somebody who is dead.
    family = [process for process in family if not process.name().startswith("ray::") or "Agent" not in process.name()]
    session.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    shutil.rmtree(folder, ignore_errors=True)


def test_ctrl_c_stops_it_in_order(session: subprocess.Popen[str]) -> None:
    assert folders_of(session.pid)
    family = psutil.Process(session.pid).children(recursive=True)
    session.send_signal(signal.SIGINT)
    assert session.wait(30) != 0
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert not folders_of(session.pid)
