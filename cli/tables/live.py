"""A display that follows a run: redrawn in place on a terminal, a line of text now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.live import Live

from cli.options import console

__all__ = ["LiveView"]

REFRESHES_PER_S = 4
# A log wants a line now and then.
LINE_EVERY_S = 5.0


class LiveView:
    """A context manager; on a terminal it leaves nothing behind."""

    def __init__(self) -> None:
        self._live = (
            Live(console=console, refresh_per_second=REFRESHES_PER_S, transient=True) if console.is_terminal else None
        )
        self._started_s = self._printed_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, table: Callable[[], RenderableType], line: Callable[[], str]) -> None:
        """Show how things stand: what *table* returns, or what *line* does behind the seconds that have passed."""
        now_s = time.monotonic()
        if self._live is not None:
            self._live.update(table())
        elif now_s - self._printed_s >= LINE_EVERY_S:
            self._printed_s = now_s
            console.print(f"{now_s - self._started_s:5.0f} s  {line()}")
