"""Several tasks, one error."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

__all__ = ["run_all"]


async def run_all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run *calls* together; when one fails, cancel the others and raise its error alone.

    A task group raises a group, which the callers here would all have to take apart again.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
