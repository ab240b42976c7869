"""How a load ends early: by an event, which Ctrl-C sets."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

__all__ = ["stop_on_signal", "stopped"]


@contextlib.contextmanager
def stop_on_signal() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C and SIGTERM set while the block runs; the next one cancels the task that entered it."""
    loop, task, stop = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
    assert task is not None
    signalled = False

    def end() -> None:
        nonlocal signalled
        if signalled:
            task.cancel()
        signalled = True
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, end)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def stopped(stop: asyncio.Event, within_s: float) -> bool:
    """Whether *stop* is set before *within_s* has passed; others run meanwhile."""
    if within_s <= 0:
        await asyncio.sleep(0)
        return stop.is_set()
    try:
        async with asyncio.timeout(within_s):
            await stop.wait()
    except TimeoutError:
        return False
    return True
