"""Fixtures of the wire and system tests."""

from __future__ import annotations

import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest
import pytest_asyncio
import structlog
from hypothesis import settings
from running_nodes import Split, serving_split

from branchynet.data.datasets import Dataset, load_sample

# A verdict on a change must not hang on the day's dice: `make search` throws them.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", derandomize=False, print_blob=True)
settings.load_profile("same")

WITH_RAYS = ("test_build.py", "test_fleet.py", "test_shards.py", "test_sweep_ray.py")


def pytest_configure() -> None:
    """A shell that runs the suite in the background has it ignore Ctrl-C, and so would every program tested here."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # the deliberate breaks run pytest without xdist
def pytest_xdist_auto_num_workers() -> int:
    """Half as many workers again as cores: many tests wait for processes and links most of the time."""
    cores = psutil.cpu_count() or 1
    return cores + cores // 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file is one worker's; so are all files with Rays: several that start at once run out of patience."""
    from xdist.scheduler import LoadFileScheduling

    class OneRay(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "tests with Rays" if file.endswith(WITH_RAYS) else file

    return OneRay(config, log)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A node's `main` that ran in this process would leave its log on a stream that pytest closes."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def no_remembered_proxy() -> None:
    """urllib asks the environment once in a process: a test's proxy would answer for the tests that come after it."""
    urllib.request.install_opener(None)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def sample() -> Dataset:
    """The shipped 1,000 images; neighbours differ in class."""
    return load_sample()


@pytest_asyncio.fixture
async def split() -> AsyncIterator[Split]:
    """A real edge and a real cloud with a clear link between them."""
    async with serving_split() as running:
        yield running
