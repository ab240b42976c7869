"""Names of trained artifacts: those shipped in the package, and folders of your own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from branchynet.errors import UnknownModel

__all__ = ["find", "shipped"]


def _folder() -> Path:
    return Path(str(resources.files("branchynet"))) / "zoo"


def shipped() -> list[str]:
    """Names of the artifacts in the package."""
    return sorted(path.parent.name for path in _folder().glob("*/manifest.json"))


def find(name_or_folder: str | Path) -> Path:
    """The folder of an artifact: a path that exists, or the name of a shipped one.

    Raises `UnknownModel`, with the names there are.
    """
    path = Path(name_or_folder)
    if path.is_dir():
        return path
    if str(name_or_folder) in shipped():
        return _folder() / name_or_folder
    raise UnknownModel(
        f"{str(name_or_folder)!r} is neither a folder nor a shipped artifact; shipped are {', '.join(shipped())}"
    )
