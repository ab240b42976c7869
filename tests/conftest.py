"""Fixtures of the wire and system tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import structlog
from running_nodes import Split, serving_split

from branchynet.training.datasets import Dataset, load_sample


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A node's `main` that ran in this process would leave its log on a stream that pytest closes."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def sample() -> Dataset:
    """The shipped 1,000 images; neighbours differ in class."""
    return load_sample()


@pytest_asyncio.fixture
async def split() -> AsyncIterator[Split]:
    """A real edge and a real cloud with a clear link between them."""
    async with serving_split() as running:
        yield running
