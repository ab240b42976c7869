"""Programs of this project as processes, and a way to find what they left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
MARK = "BRANCHYNET_TEST_FAMILY"


def behind_proxy(port: int) -> dict[str, str]:
    """The variables of an office whose proxy for the web is at *port* of this machine, with no exceptions."""
    names = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    exceptions = dict.fromkeys(("no_proxy", "NO_PROXY", "no_grpc_proxy"), "")
    return {**dict.fromkeys(names, f"http://127.0.0.1:{port}"), **exceptions}


class Program:
    """`python -m MODULE …`; everything that it starts, however far away, carries its mark in the environment."""

    def __init__(self, module: str, *arguments: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
        self._family = uuid.uuid4().hex
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BRANCHYNET_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**inherited, "OMP_NUM_THREADS": "1", MARK: self._family, **(env or {})},
        )
        # Its end is a message to a node; `communicate` would send it at once if it knew of it.
        assert self.process.stdin is not None
        self._input, self.process.stdin = self.process.stdin, None

    def ready(self) -> int:
        """Wait until the node listens; its port."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"it ended instead of being ready: {self.process.communicate()[1]}")
        message: dict[str, Any] = json.loads(line)
        assert message["event"] == "ready"
        return int(message["port"])

    def wait(self, within_s: float = 60) -> tuple[int, str, str]:
        """Exit code, and what was written to standard output and standard error."""
        out, err = self.process.communicate(timeout=within_s)
        return self.process.returncode, out, err

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close_input(self) -> None:
        self._input.close()

    def family(self) -> list[psutil.Process]:
        """Every living process that descends from this one, whoever is its parent now; the program left out."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                marked = process.environ().get(MARK) == self._family
                if marked and process.pid != self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def assert_nothing_left(self, within_s: float = 30) -> None:
        until(lambda: not self.family(), lambda: f"left behind: {[process.cmdline() for process in self.family()]}",
              within_s)  # fmt: skip

    def end(self) -> None:
        """Kill whatever still lives, so that one test's failure is not the next one's."""
        for process in [*self.family(), self.process]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._input.close()
        with contextlib.suppress(ValueError):  # its output has been read and closed
            self.process.communicate()


@contextlib.contextmanager
def program(module: str, *arguments: str, **options: Any) -> Iterator[Program]:
    running = Program(module, *arguments, **options)
    try:
        yield running
    finally:
        running.end()


def until(check: Callable[[], object], what: Callable[[], str], within_s: float = 60) -> None:
    """Poll *check* until it holds."""
    deadline_s = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s; {what()}"
        time.sleep(0.1)
