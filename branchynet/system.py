"""What is not alike on every system that this runs on; nothing else asks which one it is."""

from __future__ import annotations

import os
import resource
import selectors
import sys

__all__ = ["peak_rss_bytes", "reserve_room", "rounds_waits", "usable_cores"]


def usable_cores() -> int:
    """How many cores this process may use; where the system does not say, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """The most memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def reserve_room(descriptor: int, size: int) -> None:
    """Have the open file hold *size* bytes, on disk where the system can say so: `OSError` if the disk has no room."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def rounds_waits(selector: type[selectors.BaseSelector]) -> bool:
    """Whether *selector* waits whole milliseconds only, as epoll does."""
    return selector is getattr(selectors, "EpollSelector", None)
