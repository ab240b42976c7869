"""Names of trained artifacts: those shipped in the package, those in `runs/`, and folders of your own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from branchynet.errors import UnknownModel

__all__ = ["find", "shipped", "trained"]

# Where `branchynet train` writes: runs/RECIPE/artifact, from the folder it is called in.
RUNS = Path("runs")


def _folder() -> Path:
    return Path(str(resources.files("branchynet"))) / "zoo"


def shipped() -> list[str]:
    """Names of the artifacts in the package."""
    return sorted(path.parent.name for path in _folder().glob("*/manifest.json"))


def trained() -> list[str]:
    """Names of the runs under `runs/` of the current folder that have ended with an artifact."""
    return sorted(path.parent.parent.name for path in RUNS.glob("*/artifact/manifest.json"))


def find(name_or_folder: str | Path) -> Path:
    """The folder of an artifact: a path that exists, else a shipped one, else what a run of that name made.

    Raises `UnknownModel`, with the names there are.
    """
    path, name = Path(name_or_folder), str(name_or_folder)
    if path.is_dir():
        return path
    if name in shipped():
        return _folder() / name
    if name in trained():
        return RUNS / name / "artifact"
    here = f"; trained here are {', '.join(trained())}" if trained() else ""
    raise UnknownModel(f"{name!r} is neither a folder nor a shipped artifact; shipped are {', '.join(shipped())}{here}")
