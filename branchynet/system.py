"""What is not alike on every system that this runs on; nothing else asks which one it is."""

from __future__ import annotations

import ctypes
import os
import resource
import selectors
import sys

__all__ = ["keep_freed_memory", "peak_rss_bytes", "reserve_room", "rounds_waits", "usable_cores"]

# Options of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEPT_BYTES = 2**30


def usable_cores() -> int:
    """How many cores this process may use; where the system does not say, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """The most memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def keep_freed_memory() -> None:
    """Have the C library keep up to 1 GiB of what is freed for what is asked next, where it is glibc.

    torch asks anew for each layer's result. Those of images of usual sizes would come from the system each time, and
    its fresh pages can cost as much as the arithmetic. For programs that compute and end; nodes would hold on to it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def reserve_room(descriptor: int, size: int) -> None:
    """Have the open file hold *size* bytes, on disk where the system can say so: `OSError` if the disk has no room."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def rounds_waits(selector: type[selectors.BaseSelector]) -> bool:
    """Whether *selector* waits whole milliseconds only, as epoll does."""
    return selector is getattr(selectors, "EpollSelector", None)
