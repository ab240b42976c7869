"""Break the product in known ways, one at a time, and see that the tests notice: `make breaks`.

A test suite is believed because it fails when it should. Each entry of `tests/deliberate_breaks.toml` is a mistake that
somebody could make: *old* text of a *file* becomes *new*, and the *tests* named must then fail. They run in throw-away
copies of the tracked files, never in the checkout. The exit code is 0 only if all tests pass on the unbroken code and
each break is caught.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[1]
LIST = Path("tests/deliberate_breaks.toml")
# A broken product may wait for ever: given up is one test, a whole run, and a process that has said how it ended.
TEST_TIMEOUT_S = 60
RUN_TIMEOUT_S = 600
END_TIMEOUT_S = 10
PASSED, FAILED = 0, 1  # pytest's exit codes; any other says that no test was run

# Each run is forked from a process that has imported what takes long and is not ours; that is most of a short run.
HEAVY = ("numpy", "torch", "torch.onnx", "torch.utils.flop_counter", "grpc", "pydantic_settings", "PIL.Image", "rich")
_FRESH = get_context("forkserver")
_ENVIRONMENT = {
    # A process with threads cannot be forked, and several jobs share the cores.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Break:
    """*name* says what breaks when *old* becomes *new* in *file*; *tests* are the pytest arguments that catch it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """How pytest ended on a tree: its exit *code*, the *first* test that failed, and how long it took."""

    code: int
    first: str
    seconds: float


def read_breaks(root: Path = ROOT) -> list[Break]:
    """The entries of the list under *root*, in its order."""
    entries = tomllib.loads((root / LIST).read_text(encoding="utf-8"))["break"]
    return [Break(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def faults(breaks: Sequence[Break], root: Path = ROOT) -> list[str]:
    """What is wrong with the list itself, a line for each fault: an entry that cannot break what it says it breaks."""
    found = [f"{one.name}: {fault}" for one in breaks for fault in _faults_of(one, root)]
    names = [one.name for one in breaks]
    return found + [f"{name}: two entries have this name" for name in sorted({n for n in names if names.count(n) > 1})]


def _faults_of(one: Break, root: Path) -> list[str]:
    path = root / one.file
    if not path.is_file():
        return [f"{one.file} is not there"]
    text, found = path.read_text(encoding="utf-8"), []
    if (count := text.count(one.old)) != 1:
        found.append(f"{one.old!r} is {count} times in {one.file}; it must be there once")
    elif path.suffix == ".py":
        try:
            compile(text.replace(one.old, one.new), one.file, "exec")
        except SyntaxError as error:  # any test would catch that, and prove nothing
            found.append(f"the broken {one.file} is no Python: {error}")
    if not one.tests:
        found.append("it names no tests")
    return found + [f"{test} is not there" for test in one.tests if not _is_there(test, root)]


def _is_there(test: str, root: Path) -> bool:
    """Whether *test*, a file or a test in it, is one that pytest would find."""
    file, *names = test.split("::")
    if not (root / file).is_file():
        return False
    text = (root / file).read_text(encoding="utf-8")
    # A method stands deeper than its class.
    starts = (
        " " * 4 * depth + rf"(async def|def|class) {name.partition('[')[0]}\b" for depth, name in enumerate(names)
    )
    return all(re.search(f"^{start}", text, re.MULTILINE) for start in starts)


def copy_tracked(root: Path, folder: Path) -> Path:
    """Copy the files that git tracks under *root*, as they are now, to a new tree in *folder*; its path."""
    tree = folder / "tree"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout  # noqa: S607
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():  # a file that was deleted but not committed is still listed
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name)
    return tree


def run_tests(tree: Path, tests: Sequence[str], *, broken: bool) -> Outcome:
    """Run *tests* on the code in *tree*, in a process of their own, until the first one fails.

    Only code that is not *broken* is kept compiled for the next run.
    """
    started_s = time.perf_counter()
    receiver, sender = _FRESH.Pipe(duplex=False)
    process = _FRESH.Process(target=_run_pytest, args=(str(tree), list(tests), broken, sender))
    process.start()
    sender.close()  # the process has its own; so the end of the process is the end of the pipe
    try:
        code, first = receiver.recv() if receiver.poll(RUN_TIMEOUT_S) else (FAILED, f"no end within {RUN_TIMEOUT_S} s")
    except EOFError:
        code, first = FAILED, "the whole process ended"
    process.join(END_TIMEOUT_S)
    process.kill()
    process.join()
    return Outcome(code, first, time.perf_counter() - started_s)


def _run_pytest(tree: str, tests: list[str], broken: bool, sender: Connection) -> None:
    """What the process does: send pytest's exit code, and the first test that failed."""
    import pytest

    first: list[str] = []

    class FirstFailure:
        def pytest_configure(self) -> None:
            from hypothesis import Phase, settings

            # Whether an example fails is asked, not for the smallest one; and the same examples each time.
            settings.register_profile("breaks", phases=(Phase.explicit, Phase.generate), derandomize=True)
            settings.load_profile("breaks")

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed and not first:
                first.append(report.nodeid)

    os.chdir(tree)
    sys.path.insert(0, tree)
    sys.dont_write_bytecode = broken
    if broken:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    # What a broken exporter makes must not wait in the user's cache for the sound one.
    os.environ.update(PYTHONPATH=tree, XDG_CACHE_HOME=str(Path(tree).parent / "cache"))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    options = ["-x", f"--timeout={TEST_TIMEOUT_S}", "-p", "no:cacheprovider", "-p", "no:xdist"]
    code = int(pytest.main([*options, *tests], plugins=[FirstFailure()]))
    sender.send((code, first[0] if first else f"pytest ended with code {code}"))


def try_break(tree: Path, one: Break) -> Outcome:
    """How its tests end on *tree* with *one* in it; the tree is whole again afterwards."""
    path = tree / one.file
    whole, times = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(whole.replace(one.old, one.new), encoding="utf-8")
    # Python compares whole seconds and the size, so a break of that length in that second would not be compiled.
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 2 * 10**9))
    try:
        return run_tests(tree, one.tests, broken=True)
    finally:
        path.write_text(whole, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # what is compiled of it is current again


def report(one: Break, outcome: Outcome) -> bool:
    """Print the row of *one*; whether it was caught."""
    caught = outcome.code == FAILED
    verdict = outcome.first if caught else "SURVIVED" if outcome.code == PASSED else f"NO TEST RAN: {outcome.first}"
    print(f"{outcome.seconds:6.1f} s  {one.name:<76}  {verdict}", flush=True)
    return caught


def try_all(breaks: Sequence[Break], jobs: int) -> bool:
    """Run the tests of *breaks* on the whole code, then try each, *jobs* at a time; whether all were caught."""
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="branchynet-breaks-") as name, ThreadPoolExecutor(jobs) as pool:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            trees.put(copy_tracked(ROOT, Path(name) / str(number)))

        def on_a_tree(work: Callable[[Path], Outcome]) -> Outcome:
            tree = trees.get()
            try:
                return work(tree)
            finally:
                trees.put(tree)

        tests = sorted({test for one in breaks for test in one.tests})
        parts = [tests[number::jobs] for number in range(min(jobs, len(tests)))]
        on_whole = pool.map(on_a_tree, [partial(run_tests, tests=part, broken=False) for part in parts])
        if wrong := [outcome.first for outcome in on_whole if outcome.code != PASSED]:
            print("not even the unbroken code passes:", *wrong, sep="\n  ", file=sys.stderr)
            return False
        print(f"{time.perf_counter() - started_s:6.1f} s  the unbroken code passes", flush=True)
        on_broken = pool.map(on_a_tree, [partial(try_break, one=one) for one in breaks])
        caught = [report(one, outcome) for one, outcome in zip(breaks, on_broken, strict=True)]
    print(f"{sum(caught)} of {len(breaks)} breaks were caught in {time.perf_counter() - started_s:.0f} s")
    return all(caught)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(description="Break the code in known ways and see that the tests notice.")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many breaks are tried at a time")
    parser.add_argument("--only", default="", metavar="PATTERN", help="entries with this in their name or file")
    asked = parser.parse_args(arguments)
    wanted = asked.only.lower()
    breaks = [one for one in read_breaks() if wanted in one.name.lower() or wanted in one.file]
    if not breaks or asked.jobs < 1:
        parser.error(f"no entry has {asked.only!r} in its name or file" if not breaks else "--jobs must be 1 or more")
    if found := faults(breaks):
        print("\n".join(found), file=sys.stderr)
        return 1
    os.environ.update(_ENVIRONMENT)
    if len(breaks) > asked.jobs:  # what is forked once gains nothing
        _FRESH.set_forkserver_preload(list(HEAVY))
    return 0 if try_all(breaks, asked.jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
