"""A child process that never outlives its parent.

Each child holds the read end of a pipe from us on its standard input and stops when that pipe ends. The kernel closes
our end however we die, by an exception, Ctrl-C or SIGKILL. Children get a session of their own, so that a Ctrl-C on the
terminal reaches us alone and we stop them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from branchynet.errors import Unavailable

__all__ = ["Child"]

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
LOG_TAIL_LINES = 8


class Child:
    """`python -m MODULE` as a child; it must print one JSON line with `event: ready` and a `port`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.port = 0
        self._process = process
        self._log = log
        self._asking = asyncio.Lock()

    @classmethod
    async def start(cls, name: str, module: str, arguments: Sequence[str], log_folder: Path, threads: int = 1) -> Child:
        """Start it and wait until it is ready; its standard error is added to `NAME.log`.

        Raises `Unavailable`, with the end of that log, if it dies first or takes longer than a minute.
        """
        log_folder.mkdir(parents=True, exist_ok=True)
        log = log_folder / f"{name}.log"
        with log.open("ab") as sink:  # a restarted child must not wipe the log of its crash
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", module, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
                # Thread pools look at the machine's cores, not at our share of them.
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        child = cls(name, process, log)
        try:
            ready = await asyncio.wait_for(child._read_line(), START_TIMEOUT_S)
        except BaseException as error:
            await child.stop()
            if isinstance(error, TimeoutError):
                raise Unavailable(f"{name} was not ready within {START_TIMEOUT_S:g} s; {child._log_tail()}") from None
            raise
        child.port = int(ready["port"])
        return child

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def ask(self, command: str) -> dict[str, Any]:
        """Send one line and read the JSON line that answers it (link proxies take such commands)."""
        assert self._process.stdin is not None
        async with self._asking:
            self._process.stdin.write(f"{command}\n".encode())
            await self._process.stdin.drain()
            return await self._read_line()

    async def watch(self) -> None:
        """Return never; raise `Unavailable` when the process ends."""
        code = await self._process.wait()
        raise Unavailable(f"{self.name} ended with code {code}; {self._log_tail()}")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self) -> None:
        """End its input, which asks it to drain; kill it if it has not ended after ten seconds."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    async def _read_line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            code = await self._process.wait()
            raise Unavailable(f"{self.name} ended with code {code}; {self._log_tail()}")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def _log_tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{self._log} ends with: " + " | ".join(lines[-LOG_TAIL_LINES:])
