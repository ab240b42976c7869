"""A serving profile as a JSON file, and whether it is of a given network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from branchynet.data.text_files import read_text
from branchynet.errors import DamagedData, InvalidInput
from branchynet.files import write_json
from branchynet.network.runner import Runner, exit_stages_of
from branchynet.placement.serving_profile import ServingProfile

__all__ = ["check_profile", "read_profile", "write_profile"]


_PROFILE = TypeAdapter(ServingProfile)


def check_profile(profile: ServingProfile, network: Runner) -> None:
    """Raise `InvalidInput` unless *profile* is of a network with the stages and exits of *network*."""
    exit_stages = exit_stages_of(network)
    if profile.exit_stages != exit_stages:
        raise InvalidInput(f"the profile is of a network with exits after {profile.exit_stages}, not {exit_stages}")


def write_profile(path: Path, profile: ServingProfile) -> None:
    """Write *profile* as JSON."""
    write_json(path, asdict(profile))


def read_profile(path: Path) -> ServingProfile:
    """The profile in the JSON file at *path*; `DamagedData` if it holds none."""
    try:
        return _PROFILE.validate_json(read_text(path))
    except ValueError as error:  # also pydantic's, and our own of wrong values
        raise DamagedData(f"{path} holds no profile: {error}") from None
