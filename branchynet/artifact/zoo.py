"""Names of trained artifacts and where they lie.

A name is looked up in the package (two artifacts come with the wheel), in the zoo (`BRANCHYNET_ZOO`, or `zoo/` of the
checkout that the package is run from), and under `runs/` of the current folder, where `branchynet train` writes.
"""

from __future__ import annotations

import os
from pathlib import Path

from branchynet.errors import InvalidInput, SettingsError, UnknownModel
from branchynet.terminal import shown

__all__ = ["ZOO_VARIABLE", "find", "find_in", "shipped", "trained"]

ZOO_VARIABLE = "BRANCHYNET_ZOO"
# Where `branchynet train` writes: runs/RECIPE/artifact, from the folder it is called in.
RUNS = Path("runs")
LONGEST_NAME = 60  # characters; any file system takes so many, whatever bytes they make
_PACKAGE = Path(__file__).parents[1]
# A checkout is known by what is never installed; else a folder called zoo beside site-packages would be taken for ours.
_CHECKOUT = _PACKAGE.parent


def _zoo_folders() -> list[Path]:
    """The package's own folder, then the zoo; raises `SettingsError` for a `BRANCHYNET_ZOO` that is no folder."""
    folders = [_PACKAGE / "zoo"]
    chosen = os.environ.get(ZOO_VARIABLE)
    if chosen:
        if not Path(chosen).is_dir():
            raise SettingsError(f"{ZOO_VARIABLE} is {chosen!r}, which is not a folder")
        folders.append(Path(chosen))
    elif (_CHECKOUT / "pyproject.toml").is_file():
        folders.append(_CHECKOUT / "zoo")
    return folders


def _shipped() -> dict[str, Path]:
    """By name, the folders of the shipped artifacts; the package's own win."""
    found = [path.parent for zoo in reversed(_zoo_folders()) for path in zoo.glob("*/manifest.json")]
    return {folder.name: folder for folder in found}


def shipped() -> list[str]:
    """Names of the artifacts in the package and in the zoo."""
    return sorted(_shipped())


def trained() -> list[str]:
    """Names of the runs under `runs/` of the current folder that have ended with an artifact."""
    return sorted(path.parent.parent.name for path in RUNS.glob("*/artifact/manifest.json"))


def find(name_or_folder: str | Path) -> Path:
    """The folder of an artifact: a path that exists, else a shipped one, else what a run of that name made.

    Raises `UnknownModel`, with the names there are, and `SettingsError` for a zoo that is not there.
    """
    path, name = Path(name_or_folder), str(name_or_folder)
    if path.is_dir():
        return path
    shipped_here = _shipped()
    if name in shipped_here:
        return shipped_here[name]
    if name in trained():
        return RUNS / name / "artifact"
    here = f"; trained here are {', '.join(trained())}" if trained() else ""
    raise UnknownModel(
        f"{name!r} is neither a folder nor a shipped artifact; shipped are {', '.join(sorted(shipped_here))}{here}. "
        f"More lie in the zoo/ of the repository: set {ZOO_VARIABLE} to that folder"
    )


def find_in(folder: Path, name: str) -> Path:
    """The artifact called *name* in *folder*, for a caller who shall reach nothing else on this disk.

    A link that lies in the folder is followed: who may make one there may also copy an artifact there.
    Raises `InvalidInput` for what is more than a name, and `UnknownModel`, with the names there are, for another one.
    """
    if name in ("", "..") or Path(name).name != name or "\\" in name or shown(name) != name or len(name) > LONGEST_NAME:
        raise InvalidInput(f"{name[:80]!r} is no name of an artifact; it must be that of a folder, without a way to it")
    if not (folder / name / "manifest.json").is_file():
        there = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
        raise UnknownModel(f"{name!r} is not among the artifacts of this node; they are {', '.join(there) or 'none'}")
    return folder / name
