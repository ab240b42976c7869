"""Several tasks, one error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any

__all__ = ["run_all", "task_group"]


async def run_all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run *calls* together; when one fails, cancel the others and raise its error alone.

    A task group raises a group, which the callers here would all have to take apart again.
    """
    async with task_group() as group:
        for call in calls:
            group.create_task(call)


@contextlib.asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose tasks, when one fails, are cancelled, and that raises that error alone."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
