"""What is not on every system is asked for in one module only, which does without it."""

import ast
import os
import platform
import selectors
import subprocess
import sys
from pathlib import Path

import pytest

from branchynet.system import peak_rss_bytes, rounds_waits, usable_cores

ROOT = Path(__file__).parents[2]
CODE = [
    path for room in ("branchynet", "edge_node", "cloud_node", "orchestrator", "simulations", "cli")
    for path in sorted((ROOT / room).rglob("*.py"))
]  # fmt: skip
# Names that macOS or the BSDs do not have, of the modules that have such.
LINUX_ONLY = {
    *("sched_getaffinity", "sched_setaffinity", "process_cpu_count", "pidfd_open", "memfd_create", "eventfd"),
    *("epoll", "EpollSelector", "getrandom", "posix_fadvise", "posix_fallocate", "fdatasync", "copy_file_range"),
    *("F_SETPIPE_SZ", "F_GETPIPE_SZ", "O_TMPFILE", "O_PATH", "SO_BINDTODEVICE", "SO_REUSEPORT", "TCP_CORK"),
    *("TCP_QUICKACK", "TCP_USER_TIMEOUT", "CLOCK_BOOTTIME", "sigtimedwait", "setns", "unshare", "splice", "prctl"),
}


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_only_linux_has_is_used_in_one_module(path):
    if path.name == "system.py":
        return
    nodes = list(ast.walk(ast.parse(path.read_text())))
    named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    named |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not named & LINUX_ONLY


def test_cores_and_memory_are_known_without_what_only_linux_has(monkeypatch):
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()
    monkeypatch.setattr("sys.platform", "linux")
    kilobytes = peak_rss_bytes()
    monkeypatch.setattr("sys.platform", "darwin")
    assert kilobytes == pytest.approx(1024 * peak_rss_bytes(), rel=0.1)


def test_only_epoll_rounds_its_waits():
    assert not rounds_waits(selectors.PollSelector)
    assert rounds_waits(selectors.DefaultSelector) is hasattr(selectors, "EpollSelector")


COUNT_FAULTS = """
import resource, sys
import numpy as np
from branchynet.system import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for turn in range(11):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt if turn == 1 else before if turn else 0
    np.ones(40 * 2**20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_needs_no_fresh_pages():
    faults = {
        what: int(subprocess.run([sys.executable, "-c", COUNT_FAULTS, what], stdout=-1, check=True, cwd=ROOT).stdout)
        for what in ("keep", "as it is")
    }
    assert faults["as it is"] >= 10 * 40 * 2**20 / os.sysconf("SC_PAGE_SIZE") / 512  # pages may be huge ones
    assert faults["keep"] < faults["as it is"] / 10
