"""What simulations start from, as the commands get it: the artifact's labelled images, its outcomes, its times."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import progress_bar

if TYPE_CHECKING:
    from branchynet.training.datasets import Dataset
    from simulations.simulator import Measured

__all__ = ["PROFILE", "ProfileOption", "labelled_images", "measure"]

# Where the times of a run are kept, for --profile of a later one.
PROFILE = "profile.json"
ProfileOption = Annotated[
    Path | None,
    typer.Option(help="The profile.json of an earlier run; else times are measured.", exists=True, dir_okay=False),
]


def labelled_images(artifact: str, data: Path | None) -> Dataset:
    """The shipped images if they are of the artifact's kind and no folder is given, else its test set."""
    from branchynet import artifact as artifacts
    from branchynet.models import zoo
    from branchynet.training import datasets

    name = artifacts.read_manifest(zoo.find(artifact)).dataset
    sample = datasets.load_sample()
    return sample if data is None and name == sample.name else datasets.load(name, "test", data, progress=True)


def measure(artifact: str, dataset: Dataset, profile: Path | None, folder: Path) -> Measured:
    """Outcomes on *dataset*, and the times in *profile* or those of real nodes; the times go to *folder* as well."""
    from orchestrator.measuring import STEPS, read_profile, write_profile
    from orchestrator.measuring import measure as measure_here

    given = read_profile(profile) if profile else None
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=1 if given else len(STEPS), note="")

        def on_step(step: str) -> None:
            bar.update(task, completed=STEPS.index(step), note=step)

        measured = asyncio.run(measure_here(artifact, dataset, folder / "logs", profile=given, on_step=on_step))
    write_profile(folder / PROFILE, measured.profile)
    return measured
