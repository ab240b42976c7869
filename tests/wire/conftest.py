"""Nodes and artifacts of the tests of deployments."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from deploying_nodes import Nodes, running, save

from branchynet.data.datasets import Dataset


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> Path:
    """The artifacts net and net@v2, which differ in their weights."""
    folder = tmp_path_factory.mktemp("artifacts")
    save(folder / "net", 1, sample.images[:60])
    save(folder / "net@v2", 2, sample.images[:60])
    return folder


@pytest.fixture
async def nodes(made: Path) -> AsyncIterator[Nodes]:
    async with running(made) as started:
        yield started


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of all artifacts, to be spoilt."""
    shutil.copytree(made, tmp_path / "artifacts")
    return tmp_path / "artifacts"
